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


def written(doc: BaseModel) -> list[Written]:
    """The expressions of a document, in its order; those of its tests are values and no expressions."""
    return _walk(doc, (), [])


def reads_of(documents: Iterable[BaseModel]) -> set[tuple[str, ...]]:
    """What the expressions of these documents read, each as `paths_read` gives it."""
    return {path for doc in documents for each in written(doc) for path in paths_read(each.source)}


def _walk(value: object, path: Path, found: list[Written]) -> list[Written]:
    if isinstance(value, BaseModel):
        for name, key, kind in _fields(type(value)):
            child = getattr(value, name)
            if child is None:
                continue
            if kind == EXPRESSION:
                found += _texts(child, (*path, key), condition=name in _CONDITIONS)
            elif kind == MESSAGE and isinstance(child, str):
                found += [Written((*path, key), each, condition=False) for each in PLACEHOLDER.findall(child)]
            else:
                _walk(child, (*path, key), found)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            _walk(child, (*path, index), found)
    elif isinstance(value, dict):
        for name, child in value.items():
            _walk(child, (*path, name), found)
    return found


@functools.cache
def _fields(model: type[BaseModel]) -> list[tuple[str, str, str]]:
    """The fields in which there are expressions: name, key in the file, and what they are, "" for further documents."""
    found: list[tuple[str, str, str]] = []
    for name, info in model.model_fields.items():
        marks = _marks(info.annotation) | _texts_in(info.metadata)
        kind = next((each for each in (EXPRESSION, MESSAGE) if each in marks), "")
        if kind or _has_documents(info.annotation):
            found.append((name, info.alias or name, kind))
    return found


def _has_documents(annotation: Any) -> bool:
    """Whether there are documents in a value of this type, other than tests."""
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return not issubclass(annotation, (TestDoc, CallTestDoc))
    return any(map(_has_documents, get_args(annotation)))


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
