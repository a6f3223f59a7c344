"""A document of a rule file as the model that it should be, as far as it is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from proxy.documents import Diagnostic, Document, examine

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class ReadDocument(Generic[_Model]):
    """complete: False where `doc` was made without keys that nobody knows."""

    document: Document
    doc: _Model
    complete: bool


def read_as(document: Document | None, model: type[_Model], mistakes: list[Diagnostic]) -> ReadDocument[_Model] | None:
    """The document as the model; None where there is none, or nothing can be made of it."""
    if document is None:
        return None
    doc, found = examine(document, model)
    mistakes += found
    return None if doc is None else ReadDocument(document, doc, not found)
