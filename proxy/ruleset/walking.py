"""Every expression of a rule file, with its place in the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from pydantic import BaseModel

from proxy.documents.yaml import Path
from proxy.ruleset import backend_documents as backends
from proxy.ruleset import documents as docs
from proxy.ruleset import probe_documents as probes
from proxy.ruleset import spread_documents as spreads
from proxy.ruleset.expressions import PLACEHOLDER
from proxy.ruleset.lint import paths_read
from proxy.ruleset.pack_documents import PackDoc
from proxy.ruleset.selftest_documents import TestDoc

_EXPRESSIONS: Final[dict[type[BaseModel], set[str]]] = {
    docs.SpecDoc: {"from_", "each", "where", "when"},
    docs.Clamp: {"min", "max"},
    docs.MatchDoc: {"when"},
    docs.WorkerDoc: {"model"},
    spreads.SideDoc: {"model"},
    spreads.MirrorDoc: {"model"},
    docs.AskDoc: {"result"},
    docs.StepDoc: {"when", "check"},
    docs.BatchDoc: {"of"},
    docs.FailureDoc: {"code", "message"},
    docs.RequestDoc: {"headers"},
    docs.ReadDoc: {"text", "error_code", "error_message", "error_status", "reasoning", "logprobs"},
    docs.FromDoc: {"stops", "prefix", "echoed"},
    docs.AnswerDoc: {"headers"},
    docs.AnswerCheckDoc: {"check"},
    docs.OperationDoc: {"model", "kind"},
    PackDoc: {"trace"},
    backends.BackendDoc: {"headers"},
    backends.RefusalDoc: {"message", "kind"},
    backends.AskingDoc: {"when"},
    probes.StatusProbeDoc: {"query", "models", "queue_length"},
    probes.ModelProbeDoc: {"query", "when", "kinds", "context_length", "embedding_size"},
    probes.ProbeDoc: {"kinds"},
}
# Sentences with expressions in braces.
_MESSAGES: Final[dict[type[BaseModel], set[str]]] = {docs.StepDoc: {"message"}, docs.AnswerCheckDoc: {"message"}}
_CONDITIONS: Final = frozenset({"when", "where", "check"})


class Written(NamedTuple):
    """An expression as a file has it. condition: whether something depends on its truth."""

    path: Path
    source: str
    condition: bool


def written(doc: BaseModel) -> Iterator[Written]:
    """The expressions of a document, in its order; those of its tests are values and no expressions."""
    return _walk(doc, ())


def reads_of(documents: Iterable[BaseModel]) -> set[tuple[str, ...]]:
    """What the expressions of these documents read, each as `paths_read` gives it."""
    return {path for doc in documents for each in written(doc) for path in paths_read(each.source)}


def _walk(value: object, path: Path) -> Iterator[Written]:
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            child, inner = getattr(value, name), (*path, info.alias or name)
            if name in _EXPRESSIONS.get(type(value), ()):
                yield from _texts(child, inner, condition=name in _CONDITIONS)
            elif name in _MESSAGES.get(type(value), ()) and isinstance(child, str):
                yield from (Written(inner, found, condition=False) for found in PLACEHOLDER.findall(child))
            elif not isinstance(value, (TestDoc, backends.CallTestDoc)):
                yield from _walk(child, inner)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _walk(child, (*path, index))
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from _walk(child, (*path, name))


def _texts(value: object, path: Path, *, condition: bool) -> Iterator[Written]:
    if isinstance(value, str):
        yield Written(path, value, condition)
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from _texts(child, (*path, name), condition=condition)
