"""YAML read strictly: every value with its place, nothing changed silently.

A plain load turns `on` and `no` into booleans, `12:30` into 750 and `1.10` into 1.1, and lets the last of two equal
keys win. Here only true, false, null, `~` and decimal numbers are more than text; equal keys are a mistake, and so is
whatever readers of YAML take for different things: `1.10`, `007`, `0x1f`, `1_000`, `.inf`, `True`. Anchors, aliases,
merge keys, tags and several documents in a file are refused: these files have no use for them, and an alias is how a
small file becomes a huge one.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final, NamedTuple

import yaml

from proxy.documents.diagnostics import Diagnostic, DocumentError, clipped
from proxy.documents.nodes import QUICK, Loader, MapNode, Node, Place, TextNode, compose, is_odd, place_of
from proxy.limits import YAML_MAX_BYTES
from proxy.types import Json

__all__ = ["Document", "Path", "Place", "parse_yaml", "read_yaml"]

Path = tuple["str | int", ...]

_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,19})")
# No zero that means nothing except the one of 2.0, so that 1.10, which may be a version, is not read as 1.1.
_FLOAT: Final = re.compile(r"-?(?=[.0-9])(0|[1-9][0-9]{0,39})?(\.(0|[0-9]{0,39}[1-9]))?([eE][-+]?[0-9]{1,3})?")
_DOUBTFUL: Final = re.compile(
    r"[-+]?(\.?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|0[xob][0-9a-fA-F_]+|\.inf|\.nan)|true|false|null",
    re.IGNORECASE,
)
# How a number and what is doubtful begins; most texts do not, and need no closer look.
_NO_WORD: Final = frozenset("+-.0123456789tTfFnN")
_WHOLE_NUMBERS: Final = range(-(2**63), 2**64)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NULLS: Final = frozenset({"", "~", "null"})
_BOOLEANS: Final = {"true": True, "false": False}


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
    if QUICK is not None and not is_odd(text):
        with contextlib.suppress(DocumentError, yaml.YAMLError, ValueError, OverflowError):
            document = _read(text, file, QUICK)
            if not document.mistakes:
                return document
    try:
        return _read(text, file, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise DocumentError([_syntax_mistake(file, error)]) from None
    except yaml.reader.ReaderError as error:
        raise DocumentError([_character_mistake(file, text, error)]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise DocumentError([Diagnostic(file, 1, 1, f"not YAML: {error}")]) from None


def _read(text: str, file: str, loader: type[Loader]) -> Document:
    root = compose(text, file, loader)
    reader = _Reader(file)
    value = reader.read(root, ()) if root is not None else None
    return Document(file, value, reader.places, reader.keys, tuple(reader.mistakes))


def _syntax_mistake(file: str, error: yaml.MarkedYAMLError) -> Diagnostic:
    problem = str(error.problem or error.context)
    if problem.startswith(("expected ',' or", "did not find expected ',' or")):
        problem += "; inside {...} and [...] a value with any of , ? [ ] { } must be in quotes"
    return Diagnostic(file, *place_of(error.problem_mark or error.context_mark), f"not YAML: {problem}")


def _character_mistake(file: str, text: str, error: yaml.reader.ReaderError) -> Diagnostic:
    before = text[: error.position]
    column = len(before) - before.rfind("\n")
    name = f"U+{ord(text[error.position]):04X}"
    return Diagnostic(
        file, before.count("\n") + 1, column, f'the character {name} cannot stand in a YAML file; write "\\u...."'
    )


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.mistakes: list[Diagnostic] = []

    def read(self, node: Node, path: Path) -> Json:
        self.places[path] = place_of(node.start_mark)
        if isinstance(node, TextNode):
            return self._scalar(node)
        if isinstance(node, MapNode):
            return self._mapping(node, path)
        return [self.read(child, (*path, index)) for index, child in enumerate(node.items)]

    def _mapping(self, node: MapNode, path: Path) -> Json:
        result: dict[str, Json] = {}
        for key_node, value_node in node.pairs:
            if not isinstance(key_node, TextNode) or (not key_node.style and key_node.value in {"", "~"}):
                self._mistake(key_node, "a key must be a plain word or a quoted string")
                continue
            key = self._text(key_node)
            child = (*path, key)
            if key == "<<" and not key_node.style:
                self._mistake(key_node, "merge keys (<<) are not used in these files; write the keys out")
            elif node.flow and _is_bare(key_node, value_node):
                self._mistake(
                    key_node,
                    f"'{clipped(key)}' has no value; "
                    "inside {...} a comma ends a value: put a value that has one in quotes",
                )
            elif key in result:
                first = self.keys[child]
                self._mistake(
                    key_node,
                    f"the key '{clipped(key)}' stands here twice; first at line {first.line}, column {first.column}",
                )
            else:
                self.keys[child] = place_of(key_node.start_mark)
                result[key] = self.read(value_node, child)
        return result

    def _text(self, node: TextNode) -> str:
        text = node.value
        # JSON writes a character beyond 16 bits as a pair of escapes.
        if not text.isascii() and _SURROGATE.search(text):
            try:
                return text.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                self._mistake(node, "half a surrogate pair (\\ud800 to \\udfff) is no character")
        return text

    def _scalar(self, node: TextNode) -> Json:
        text = self._text(node)
        if node.style:
            return text
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if text[0] not in _NO_WORD:
            return text
        number = _number(text)
        if number is None and _DOUBTFUL.fullmatch(text):
            self._mistake(
                node,
                f"'{clipped(text)}' means different things to different readers of YAML; "
                "put it in quotes if it is text, else write a plain decimal number, true, false or null",
            )
        return text if number is None else number

    def _mistake(self, node: Node, message: str) -> None:
        place = place_of(node.start_mark)
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


def _is_bare(key: TextNode, value: Node) -> bool:
    """Whether only a key stands there, without a colon: `{a, b: 1}`."""
    return (
        isinstance(value, TextNode)
        and not value.style
        and value.start_mark is not None
        and key.end_mark is not None
        and value.start_mark.index == key.end_mark.index
    )
