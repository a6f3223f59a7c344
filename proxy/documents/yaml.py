"""YAML read strictly: every value with its place, nothing changed silently.

A plain load turns `on` and `no` into booleans, `12:30` into 750 and `1.10` into 1.1, and lets the last of two equal
keys win. Here scalars follow YAML 1.2's core schema (only true/false, null, decimal numbers), equal keys are a mistake,
and so is whatever would not be read back as it was written. Anchors, aliases, tags and several documents in a file are
refused: a rule file has no use for them, and an alias is how a small file becomes a huge one.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import yaml
from yaml.events import AliasEvent, CollectionStartEvent, NodeEvent, ScalarEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from proxy.documents.diagnostics import Diagnostic, DocumentError
from proxy.limits import YAML_MAX_BYTES, YAML_MAX_DEPTH
from proxy.types import Json

Path = tuple["str | int", ...]

_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NULLS: Final = frozenset({"", "~", "null"})
_BOOLEANS: Final = {"true": True, "false": False}


class Place(NamedTuple):
    """Where a value stands in its file, counted from 1."""

    line: int
    column: int


class Document(NamedTuple):
    """A parsed file: its value, and the place of every value in it by path (`("request", "fields", "model")`).

    `keys` has the places of the keys themselves, which is where a mistake about a key is shown.
    """

    file: str
    value: Json
    places: dict[Path, Place]
    keys: dict[Path, Place]

    def at(self, path: Path, message: str, *, key: bool = False) -> Diagnostic:
        """A diagnostic at `path`, or at the nearest enclosing value that the file has."""
        table = self.keys if key else self.places
        for length in range(len(path), -1, -1):
            place = table.get(path[:length]) or self.places.get(path[:length])
            if place is not None:
                return Diagnostic(self.file, place.line, place.column, message)
        return Diagnostic(self.file, 1, 1, message)


def parse_yaml(text: str, file: str) -> Document:
    """The document in `text`; DocumentError with every mistake, named by `file`, where it is not plain YAML."""
    if len(text) > YAML_MAX_BYTES:
        raise DocumentError([Diagnostic(file, 1, 1, f"the file is over the limit of {YAML_MAX_BYTES} bytes")])
    try:
        _refuse_risky_events(text, file)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise DocumentError([Diagnostic(file, line, column, f"not YAML: {error.problem or error.context}")]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError([Diagnostic(file, 1, 1, f"not YAML: {error}")]) from None
    reader = _Reader(file)
    value = reader.read(root, ()) if root is not None else None
    if reader.mistakes:
        raise DocumentError(reader.mistakes)
    return Document(file, value, reader.places, reader.keys)


def _refuse_risky_events(text: str, file: str) -> None:
    """Look at the event stream before any tree is built, so that depth and aliases cost nothing."""
    depth = 0
    documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        mark = event.start_mark
        problem = None
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                problem = "a second YAML document; one file holds one document"
        elif isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
            problem = "anchors and aliases are not used in these files; write the value out"
        elif isinstance(event, (ScalarEvent, CollectionStartEvent)) and event.tag is not None:
            problem = f"tags such as '{event.tag}' are not used in these files"
        if isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > YAML_MAX_DEPTH:
                problem = f"nested deeper than {YAML_MAX_DEPTH} levels"
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if problem:
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise DocumentError([Diagnostic(file, line, column, problem)])


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.mistakes: list[Diagnostic] = []

    def read(self, node: Node, path: Path) -> Json:
        self.places[path] = _place(node)
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        if not isinstance(node, ScalarNode):
            raise TypeError(f"unknown YAML node {type(node).__name__}")
        return self._scalar(node)

    def _mapping(self, node: MappingNode, path: Path) -> Json:
        result: dict[str, Json] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._mistake(key_node, "a key must be a plain word or a quoted string")
                continue
            key = str(key_node.value)
            child = (*path, key)
            if key in result:
                first = self.keys[child]
                self._mistake(key_node, f"the key '{key}' stands here twice; first at line {first.line}")
                continue
            self.keys[child] = _place(key_node)
            result[key] = self.read(value_node, child)
        return result

    def _scalar(self, node: ScalarNode) -> Json:
        text = str(node.value)
        if node.style is not None:
            return text
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if _INTEGER.fullmatch(text):
            return int(text) if len(text) < 20 else self._unclear(node, text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            return number if text.lower() in _spellings(number) else self._unclear(node, text)
        return text

    def _unclear(self, node: ScalarNode, text: str) -> Json:
        self._mistake(
            node, f"'{text}' would not be read back as it is written; put it in quotes, or write the plain number"
        )
        return None

    def _mistake(self, node: Node, message: str) -> None:
        place = _place(node)
        self.mistakes.append(Diagnostic(self.file, place.line, place.column, message))


def _spellings(number: float) -> set[str]:
    """How a float may be written so that nothing of it is lost: 0.5, .5, 2.0, 1e-05, 1e-5."""
    plain = repr(number)
    return {plain, plain.removeprefix("0"), plain.replace("e-0", "e-").replace("e+0", "e"), f"{number:.1f}"} | (
        {f"{number:g}"} if float(f"{number:g}") == number else set()
    )


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)
