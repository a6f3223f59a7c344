"""Every expression of a rule file, with its place in the file."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from proxy.documents.yaml import Path
from proxy.ruleset.backend_documents import CallTestDoc
from proxy.ruleset.expressions import PLACEHOLDER
from proxy.ruleset.lint import paths_read
from proxy.ruleset.selftest_documents import TestDoc
from proxy.ruleset.strict import EXPRESSION, MESSAGE

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
            marks = _marks_of(type(value))[name]
            if EXPRESSION in marks:
                yield from _texts(child, inner, condition=name in _CONDITIONS)
            elif MESSAGE in marks and isinstance(child, str):
                yield from (Written(inner, found, condition=False) for found in PLACEHOLDER.findall(child))
            elif not isinstance(value, (TestDoc, CallTestDoc)):
                yield from _walk(child, inner)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _walk(child, (*path, index))
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from _walk(child, (*path, name))


@functools.cache
def _marks_of(model: type[BaseModel]) -> dict[str, frozenset[str]]:
    fields = model.model_fields.items()
    return {name: _marks(info.annotation) | _texts_in(info.metadata) for name, info in fields}


def _marks(annotation: Any) -> frozenset[str]:
    """The texts with which a type is annotated, also within a union, a list or a mapping."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _marks(inner[0]) | _texts_in(inner[1:])
    if get_origin(annotation) is Literal:
        return frozenset()
    return frozenset().union(*map(_marks, inner))


def _texts_in(metadata: Iterable[object]) -> frozenset[str]:
    return frozenset(each for each in metadata if isinstance(each, str))


def _texts(value: object, path: Path, *, condition: bool) -> Iterator[Written]:
    if isinstance(value, str):
        yield Written(path, value, condition)
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from _texts(child, (*path, name), condition=condition)
