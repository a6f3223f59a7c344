"""The parts of a file as its JSON Schema has them, and what a person may write at each key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple, cast

from proxy.types import Json, JsonObject

_REFERENCE = "#/$defs/"
_NULL: JsonObject = {"type": "null"}
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}


class Key(NamedTuple):
    """One key of a section. expected: what may stand there, with links; default: as it is written, None where the key
    is required.
    """

    name: str
    expected: str
    default: str | None
    meaning: str


class Section(NamedTuple):
    """One mapping of a file. path: where it stands, `stream.from.read`; empty: the file itself. file: which one."""

    path: str
    text: str
    keys: tuple[Key, ...]
    file: str = ""

    @property
    def heading(self) -> str:
        """Its heading on a page of several files."""
        return _heading(self.file, self.path)


def sections(schema: JsonObject, links: dict[str, str] | None = None, file: str = "") -> list[Section]:
    """Every mapping with keys of its own, each once, where it is found first. links: definition to the link of one that
    is described elsewhere, to which those of this file are added. file: its heading on a page of several.
    """
    walk = _Walk(schema, {} if links is None else links, file)
    walk.visit("", walk.resolved(schema))
    return [Section(path, _sentence(each), tuple(walk.keys(each)), file) for path, each in walk.found]


def _heading(file: str, path: str) -> str:
    return f"{file}: {path}" if file else path


class _Walk:
    def __init__(self, schema: JsonObject, links: dict[str, str], file: str) -> None:
        self._definitions = cast("dict[str, JsonObject]", schema.get("$defs", {}))
        self._places = links
        self._file = file
        self.found: list[tuple[str, JsonObject]] = []

    def resolved(self, schema: JsonObject) -> JsonObject:
        """The schema itself where it is only a reference to one of its definitions."""
        reference = schema.get("$ref")
        return self._definitions[reference.removeprefix(_REFERENCE)] if isinstance(reference, str) else schema

    def visit(self, path: str, schema: JsonObject) -> None:
        self.found.append((path, schema))
        for name, child in _properties(schema).items():
            for inner, definition in self._inside(child, f"{path}.{name}" if path else name):
                if definition not in self._places:
                    self._places[definition] = f"[{inner}](#{anchor(_heading(self._file, inner))})"
                    self.visit(inner, self._definitions[definition])

    def _inside(self, schema: Json, path: str) -> Iterator[tuple[str, str]]:
        """The definitions that a value may be of, each with its path."""
        if not isinstance(schema, dict):
            return
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield path, reference.removeprefix(_REFERENCE)
        for branch in _branches(schema):
            yield from self._inside(branch, path)
        yield from self._inside(schema.get("items"), f"{path}[]")
        yield from self._inside(schema.get("additionalProperties"), f"{path}.NAME")

    def keys(self, schema: JsonObject) -> Iterator[Key]:
        required = schema.get("required")
        for name, child in _properties(schema).items():
            is_required = isinstance(required, list) and name in required
            yield Key(name, self.expected(child), None if is_required else _default(child), self._meaning(child))

    def _meaning(self, schema: JsonObject) -> str:
        """What the key says of itself, or the mapping that stands there."""
        if isinstance(schema.get("description"), str):
            return str(schema["description"])
        inner = [definition for _, definition in self._inside(schema, "")]
        return _sentence(self._definitions[inner[0]]) if len(inner) == 1 and inner[0] in self._definitions else ""

    def expected(self, schema: Json) -> str:
        """What may stand there, in words."""
        if not isinstance(schema, dict):
            return "anything"
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._places[reference.removeprefix(_REFERENCE)]
        branches = [branch for branch in _branches(schema) if branch != _NULL]
        if any(isinstance(branch, dict) and str(branch.get("$ref")).endswith("/SpecDoc") for branch in branches):
            branches = [branch for branch in branches if "$ref" in cast("JsonObject", branch)]
        if branches:
            return " or ".join(dict.fromkeys(self.expected(branch) for branch in branches))
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list):
            link = self._places.get(json.dumps(values))
            if link is not None:
                return link
            return ", ".join(f"`{value}`" for value in values)
        if schema.get("type") == "array":
            return f"list of {self.expected(schema['items'])}" if schema.get("items") else "list"
        if schema.get("type") == "object":
            inner = schema.get("additionalProperties")
            for pattern in cast("dict[str, Json]", schema.get("patternProperties", {})).values():
                inner = pattern
            return f"mapping to {self.expected(inner)}" if isinstance(inner, dict) and inner else "mapping"
        return _plain(schema)


def anchor(heading: str) -> str:
    """The name that a heading of a page has in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def table(keys: tuple[Key, ...]) -> Iterator[str]:
    """The keys of a section as a table."""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key in keys:
        default = "required" if key.default is None else key.default
        cells = (f"`{key.name}`", key.expected, default, key.meaning)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _plain(schema: JsonObject) -> str:
    """A single value: what it is, and its bounds."""
    title = schema.get("title")
    kind = schema.get("type")
    words = [str(title) if title else _WORDS.get(str(kind), "anything")]
    for name, said in (("exclusiveMinimum", "above"), ("minimum", "at least"), ("maximum", "at most")):
        if name in schema:
            words.append(f"{said} {schema[name]:,}")
    if kind == "string" and "maxLength" in schema:
        least = f"{schema['minLength']} to " if "minLength" in schema else "at most "
        words.append(f"{least}{schema['maxLength']} characters")
    if "pattern" in schema and not title:
        words.append(f"like `{schema['pattern']}`")
    return ", ".join(words)


def _default(schema: JsonObject) -> str:
    if "default" not in schema or schema["default"] is None or isinstance(schema["default"], dict):
        return ""
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`"


def _properties(schema: JsonObject) -> dict[str, JsonObject]:
    return cast("dict[str, JsonObject]", schema.get("properties", {}))


def _branches(schema: JsonObject) -> list[Json]:
    branches = schema.get("anyOf")
    return branches if isinstance(branches, list) else []


def _sentence(schema: JsonObject) -> str:
    """What is said of a mapping, without the path that the heading has."""
    text = re.sub(r"^`[^`]+`: ", "", str(schema.get("description", "")))
    return text[:1].upper() + text[1:]
