"""A document checked against a pydantic model; each mistake gets its place in the file and a sentence of ours."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.documents.diagnostics import Diagnostic, DocumentError, suggestion
from proxy.documents.yaml import Document, Path

Model = TypeVar("Model", bound=BaseModel)


def validate(document: Document, model: type[Model]) -> Model:
    """`document` as a `model`; DocumentError with every mistake, each at its line and column."""
    try:
        return model.model_validate(document.value if document.value is not None else {})
    except ValidationError as error:
        raise DocumentError(_diagnostic(document, model, entry) for entry in error.errors()) from None


def _diagnostic(document: Document, model: type[BaseModel], entry: ErrorDetails) -> Diagnostic:
    path = _path_in(document, entry["loc"])
    kind = entry["type"]
    if kind == "extra_forbidden":
        name = str(entry["loc"][-1])
        return document.at(path, f"unknown key '{name}'{suggestion(name, _known_keys(model, entry['loc']))}", key=True)
    name = str(entry["loc"][-1]) if entry["loc"] else "document"
    if kind == "missing":
        return document.at(path, f"the key '{name}' is missing")
    message = entry["msg"]
    if kind in {"value_error", "assertion_error"}:
        message = message.partition(", ")[2] or message
        return document.at(path, message)
    return document.at(path, f"{name}: {message[:1].lower()}{message[1:]}, got {_short(entry['input'])}")


def _path_in(document: Document, location: tuple[int | str, ...]) -> Path:
    """The part of pydantic's location that exists in the file: it also names union branches and added wrappers."""
    path: Path = ()
    for part in location:
        if (*path, part) in document.places:
            path = (*path, part)
    return path


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The keys allowed beside the unknown one: follow the location through the model's annotations."""
    current: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        following: list[type[BaseModel]] = []
        for candidate in current:
            for name, info in candidate.model_fields.items():
                if part in {name, info.alias}:
                    following += _models_in(info.annotation)
        if following:
            current = following
    return {info.alias or name for candidate in current for name, info in candidate.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        found += _models_in(argument)
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
