"""A document checked against a pydantic model; each mistake gets its place in the file and a sentence of ours."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.documents.diagnostics import Diagnostic, DocumentError, clipped, suggestion
from proxy.documents.yaml import Document, Path
from proxy.types import Json

Model = TypeVar("Model", bound=BaseModel)

# What the value should have been, where pydantic's own sentence speaks of Python.
_EXPECTED = {
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_too_short": "text that is not empty",
}
_NAME_PATTERN = "lower-case letters, digits and "


def validate(document: Document, model: type[Model]) -> Model:
    """`document` as a `model`; DocumentError with every mistake, each at its line and column."""
    result, mistakes = examine(document, model)
    if result is None or mistakes:
        raise DocumentError(mistakes)
    return result


def examine(document: Document, model: type[Model]) -> tuple[Model | None, list[Diagnostic]]:
    """`document` as a `model`, and every mistake in its shape.

    The document's own mistakes are among them. With unknown keys as the only other ones there is a model too, made
    without them, so that a caller can look for further mistakes of other kinds.
    """
    value = document.value if document.value is not None else {}
    unclear = {mistake[:3] for mistake in document.mistakes}
    try:
        return model.model_validate(value), list(document.mistakes)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    found = [_diagnostic(document, model, same) for same in _by_place(document, errors)]
    # What a value should have been is no news where the value itself could not be read.
    mistakes = [*document.mistakes, *(each for each in found if each[:3] not in unclear)]
    unknown = [entry["loc"] for entry in errors if entry["type"] == "extra_forbidden"]
    if len(unknown) < len(errors):
        return None, mistakes
    try:
        return model.model_validate(_without(value, [_path_in(document, place) for place in unknown])), mistakes
    except ValidationError:
        return None, mistakes


def _by_place(document: Document, errors: list[ErrorDetails]) -> list[list[ErrorDetails]]:
    """pydantic reports each branch of a union on its own; together they are one mistake of the person who wrote it."""
    groups: dict[tuple[Path, str], list[ErrorDetails]] = {}
    for entry in errors:
        missing = str(entry["loc"][-1]) if entry["type"] == "missing" else ""
        groups.setdefault((_path_in(document, entry["loc"]), missing), []).append(entry)
    # Where one branch of a union found a mistake further in, the value is of that branch's kind.
    outer = {path[:length] for path, _ in groups for length in range(len(path))}
    return [same for (path, _), same in groups.items() if path not in outer or not _is_wrong_kind(same)]


def _is_wrong_kind(same: list[ErrorDetails]) -> bool:
    return all(entry["type"].endswith("_type") for entry in same)


def _diagnostic(document: Document, model: type[BaseModel], same: list[ErrorDetails]) -> Diagnostic:
    entry = same[0]
    path = _path_in(document, entry["loc"])
    kind = entry["type"]
    if kind == "extra_forbidden":
        name = str(path[-1])
        return document.at(path, f"unknown key '{clipped(name)}'{suggestion(name, _known_keys(model, path))}", key=True)
    if kind == "missing":
        return document.at(path, f"the key '{entry['loc'][-1]}' is missing")
    if kind in {"value_error", "assertion_error"}:
        return document.at(path, entry["msg"].partition(", ")[2] or entry["msg"])
    where = _shown_path(path)
    expected = list(dict.fromkeys(_expected(each) for each in same))
    if "a number" in expected and "a whole number" in expected:
        expected.remove("a whole number")
    value = entry["input"]
    hint = suggestion(value, _choices(same)) if isinstance(value, str) else ""
    hint = "" if hint.startswith("; known") else hint  # the choices are in the sentence already
    return document.at(path, f"{where}: expected {' or '.join(expected)}, got {_short(value)}{hint}")


def _expected(entry: ErrorDetails) -> str:
    if entry["type"] in _EXPECTED:
        return _EXPECTED[entry["type"]]
    context = entry.get("ctx", {})
    if entry["type"] == "string_pattern_mismatch":
        pattern = str(context.get("pattern"))
        if not pattern.startswith("^[a-z][a-z0-9"):
            return f"text like {pattern}"
        return f"{_NAME_PATTERN}{'-' if '0-9-' in pattern else '_'}, beginning with a letter"
    message = entry["msg"]
    for start in ("Input should be a valid ", "Input should be ", "String should be ", "String should have "):
        message = message.removeprefix(start)
    return message[:1].lower() + message[1:]


def _choices(same: list[ErrorDetails]) -> list[str]:
    if any(entry["type"] != "literal_error" for entry in same):
        return []
    return [part for entry in same for part in str(entry.get("ctx", {}).get("expected", "")).split("'")[1::2]]


def _shown_path(path: Path) -> str:
    """The innermost key, and the position where it is in a list: `method`, `steps[2]`."""
    named = [index for index, part in enumerate(path) if isinstance(part, str)]
    if not named:
        return "the document" if not path else str(path)
    return f"{path[named[-1]]}{''.join(f'[{part}]' for part in path[named[-1] + 1 :])}"


def _path_in(document: Document, location: Sequence[int | str]) -> Path:
    """The part of pydantic's location that exists in the file: it also names union branches and added wrappers."""
    path: Path = ()
    for part in location:
        if (*path, part) in document.places:
            path = (*path, part)
    return path


def _without(value: Json, paths: list[Path]) -> Json:
    """A copy without the values at these paths."""
    if isinstance(value, list):
        return [_without(item, _below(paths, index)) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {name: _without(item, _below(paths, name)) for name, item in value.items() if (name,) not in paths}
    return value


def _below(paths: list[Path], part: str | int) -> list[Path]:
    return [path[1:] for path in paths if path[:1] == (part,) and len(path) > 1]


def _known_keys(model: type[BaseModel], path: Path) -> set[str]:
    """The keys allowed beside the unknown one at the end of `path`: follow it through the model's annotations."""
    current: list[Any] = [model]
    for part in path[:-1]:
        current = [inner for annotation in current for inner in inside(annotation, part)]
    models = [each for each in current if isinstance(each, type) and issubclass(each, BaseModel)]
    return {info.alias or name for each in models for name, info in each.model_fields.items()}


def inside(annotation: Any, part: str | int) -> list[Any]:
    """What may stand at `part` of a value with this annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found = [info for name, info in annotation.model_fields.items() if part == (info.alias or name)]
        return [branch for info in found for branch in _branches(info.annotation)]
    arguments = get_args(annotation)
    return _branches(arguments[-1]) if get_origin(annotation) in {list, dict, tuple} and arguments else []


def _branches(annotation: Any) -> list[Any]:
    """The branches of a union, without the wrappers around them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _branches(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return [branch for argument in get_args(annotation) for branch in _branches(argument)]
    return [] if origin is Literal else [annotation]


def _short(value: object) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return clipped(text)
