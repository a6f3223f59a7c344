"""YAML read strictly: every value with its place, nothing changed silently.

A plain load turns `on` and `no` into booleans, `12:30` into 750 and `1.10` into 1.1, and lets the last of two equal
keys win. Here only true, false, null, `~` and decimal numbers are more than text; equal keys are a mistake, and so is
whatever readers of YAML take for different things: `1.10`, `007`, `0x1f`, `1_000`, `.inf`, `True`. Anchors, aliases,
merge keys, tags and several documents in a file are refused: these files have no use for them, and an alias is how a
small file becomes a huge one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import yaml
from yaml.events import AliasEvent, CollectionStartEvent, NodeEvent, ScalarEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from proxy.documents.diagnostics import Diagnostic, DocumentError
from proxy.limits import YAML_MAX_BYTES, YAML_MAX_DEPTH
from proxy.types import Json

Path = tuple["str | int", ...]

_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,19})")
# No zero that means nothing except the one of 2.0, so that 1.10, which may be a version, is not read as 1.1.
_FLOAT: Final = re.compile(r"-?(?=[.0-9])(0|[1-9][0-9]{0,39})?(\.(0|[0-9]{0,39}[1-9]))?([eE][-+]?[0-9]{1,3})?")
_DOUBTFUL: Final = re.compile(
    r"[-+]?(\.?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|0[xob][0-9a-fA-F_]+|\.inf|\.nan)|true|false|null",
    re.IGNORECASE,
)
_WHOLE_NUMBERS: Final = range(-(2**63), 2**64)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NULLS: Final = frozenset({"", "~", "null"})
_BOOLEANS: Final = {"true": True, "false": False}


class _Mark(Protocol):
    """What both PyYAML's own marks and libyaml's have; counted from 0."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class Place(NamedTuple):
    """Where a value stands in its file, counted from 1."""

    line: int
    column: int


class Document(NamedTuple):
    """A parsed file: its value, and the place of every value in it by path (`("request", "fields", "model")`).

    `keys` has the places of the keys themselves, which is where a mistake about a key is shown. `mistakes`: what the
    file says that is not plain YAML, where the rest could be read all the same. `files`: of the values that come from
    another file, which one.
    """

    file: str
    value: Json
    places: dict[Path, Place]
    keys: dict[Path, Place]
    mistakes: tuple[Diagnostic, ...] = ()
    files: Mapping[Path, str] = MappingProxyType({})

    def at(self, path: Path, message: str, *, key: bool = False) -> Diagnostic:
        """A diagnostic at `path`, or at the nearest enclosing value that the file has."""
        table = self.keys if key else self.places
        for length in range(len(path), -1, -1):
            place = table.get(path[:length]) or self.places.get(path[:length])
            if place is not None:
                return Diagnostic(self.files.get(path[:length], self.file), *place, message)
        return Diagnostic(self.file, 1, 1, message)


def parse_yaml(text: str, file: str) -> Document:
    """The document in `text`; DocumentError with every mistake, named by `file`, where it is not plain YAML."""
    document = read_yaml(text, file)
    if document.mistakes:
        raise DocumentError(document.mistakes)
    return document


def read_yaml(text: str, file: str) -> Document:
    """As `parse_yaml`, but with the mistakes of single values in `Document.mistakes`, so that others are found too.

    Of two equal keys the first one stands; a value that is not clear is null. DocumentError where nothing can be read.
    """
    if len(text) > YAML_MAX_BYTES:
        raise DocumentError([Diagnostic(file, 1, 1, f"the file is over the limit of {YAML_MAX_BYTES} characters")])
    try:
        _refuse_risky_events(text, file)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise DocumentError([_syntax_mistake(file, error)]) from None
    except yaml.reader.ReaderError as error:
        raise DocumentError([_character_mistake(file, text, error)]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise DocumentError([Diagnostic(file, 1, 1, f"not YAML: {error}")]) from None
    reader = _Reader(file)
    value = reader.read(root, ()) if root is not None else None
    return Document(file, value, reader.places, reader.keys, tuple(reader.mistakes))


def _syntax_mistake(file: str, error: yaml.MarkedYAMLError) -> Diagnostic:
    problem = str(error.problem or error.context)
    if problem.startswith(("expected ',' or", "did not find expected ',' or")):
        problem += "; inside {...} and [...] a value with any of , ? [ ] { } must be in quotes"
    return Diagnostic(file, *_mark_place(error.problem_mark or error.context_mark), f"not YAML: {problem}")


def _character_mistake(file: str, text: str, error: yaml.reader.ReaderError) -> Diagnostic:
    before = text[: error.position]
    column = len(before) - before.rfind("\n")
    name = f"U+{ord(text[error.position]):04X}"
    return Diagnostic(
        file, before.count("\n") + 1, column, f'the character {name} cannot stand in a YAML file; write "\\u...."'
    )


def _refuse_risky_events(text: str, file: str) -> None:
    """Look at the event stream before any tree is built, so that depth and aliases cost nothing."""
    mistakes: list[Diagnostic] = []
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
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
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        too_deep = depth > YAML_MAX_DEPTH
        if too_deep:
            problem = f"nested deeper than {YAML_MAX_DEPTH} levels"
        if problem:
            mistakes.append(Diagnostic(file, *_mark_place(event.start_mark), problem))
        if too_deep:
            break
    if mistakes:
        raise DocumentError(mistakes)


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
            if not isinstance(key_node, ScalarNode) or (key_node.style is None and key_node.value in {"", "~"}):
                self._mistake(key_node, "a key must be a plain word or a quoted string")
                continue
            key = self._text(key_node)
            child = (*path, key)
            if key == "<<" and key_node.style is None:
                self._mistake(key_node, "merge keys (<<) are not used in these files; write the keys out")
            elif node.flow_style and _is_bare(key_node, value_node):
                self._mistake(
                    key_node,
                    f"'{key}' has no value; inside {{...}} a comma ends a value: put a value that has one in quotes",
                )
            elif key in result:
                first = self.keys[child]
                self._mistake(
                    key_node, f"the key '{key}' stands here twice; first at line {first.line}, column {first.column}"
                )
            else:
                self.keys[child] = _place(key_node)
                result[key] = self.read(value_node, child)
        return result

    def _text(self, node: ScalarNode) -> str:
        text = str(node.value)
        if _SURROGATE.search(text):  # JSON writes a character beyond 16 bits as a pair of escapes
            try:
                return text.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                self._mistake(node, "half a surrogate pair (\\ud800 to \\udfff) is no character")
        return text

    def _scalar(self, node: ScalarNode) -> Json:
        text = self._text(node)
        if node.style is not None:
            return text
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        number = _number(text)
        if number is None and _DOUBTFUL.fullmatch(text):
            self._mistake(
                node,
                f"'{text}' means different things to different readers of YAML; put it in quotes if it is text, "
                "else write a plain decimal number, true, false or null",
            )
        return text if number is None else number

    def _mistake(self, node: Node, message: str) -> None:
        place = _place(node)
        self.mistakes.append(Diagnostic(self.file, place.line, place.column, message))


def _number(text: str) -> int | float | None:
    """The number that stands there as plainly as it can be written, else None."""
    if _INTEGER.fullmatch(text):
        whole = int(text)
        return whole if whole in _WHOLE_NUMBERS and text != "-0" else None
    if not _FLOAT.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) and Decimal(text) == Decimal(repr(number)) else None


def _is_bare(key: ScalarNode, value: Node) -> bool:
    """Whether only a key stands there, without a colon: `{a, b: 1}`."""
    return isinstance(value, ScalarNode) and value.style is None and value.start_mark.index == key.end_mark.index


def _place(node: Node) -> Place:
    return _mark_place(node.start_mark)


def _mark_place(mark: _Mark | None) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)
