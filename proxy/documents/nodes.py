"""The tree of a YAML text as its events tell it: which libyaml or PyYAML's own reader finds, with the same result."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol, Union

import yaml
from yaml.events import AliasEvent, CollectionStartEvent, Event, NodeEvent, ScalarEvent

from proxy.documents.diagnostics import Diagnostic, DocumentError, clipped
from proxy.limits import YAML_MAX_DEPTH, YAML_MAX_VALUES

Loader = Union[yaml.SafeLoader, "yaml.CSafeLoader"]
# libyaml is ten times as fast, and differs where something is odd. So what it refuses, and what has any of these, is
# left to PyYAML's own reader: what is read, and each message, is the same wherever the program runs.
QUICK: Final[type[Loader] | None] = getattr(yaml, "CSafeLoader", None)
ODD: Final = re.compile(r"[\t\r\x85\u2028\u2029\ufeff]|^---|^[ -]*\?|[|>][-+0-9]*#", re.MULTILINE)


class Mark(Protocol):
    """What both PyYAML's own marks and libyaml's have; counted from 0, index in characters from the beginning."""

    @property
    def index(self) -> int: ...

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class TextNode(NamedTuple):
    """plain: without quotes, and not a block of lines."""

    text: str
    plain: bool
    start: Mark | None
    end: Mark | None


class ListNode(NamedTuple):
    """A list of any form."""

    items: list[Node]
    start: Mark | None


class MapNode(NamedTuple):
    """flow: it is written in curly brackets."""

    pairs: list[tuple[Node, Node]]
    flow: bool
    start: Mark | None


Node = TextNode | ListNode | MapNode


class Place(NamedTuple):
    """Where a value stands in its file, counted from 1."""

    line: int
    column: int


def compose(text: str, file: str, loader: type[Loader]) -> Node | None:
    """The tree of the text, None where there is nothing in it.

    DocumentError with every alias, tag, second document, level too deep and value too many, before anything is made of
    them; as the loader, for what is not YAML; ValueError where QUICK is no good.
    """
    roots: list[Node] = []
    open_ones: list[tuple[CollectionStartEvent, list[Node]]] = []
    mistakes: list[Diagnostic] = []
    documents = values = 0
    end = ""
    for event in yaml.parse(text, Loader=loader):
        documents += isinstance(event, yaml.DocumentStartEvent)
        problem = _risk(event, documents)
        node: Node | None = None
        if isinstance(event, CollectionStartEvent):
            open_ones.append((event, []))
            if len(open_ones) > YAML_MAX_DEPTH:
                problem = end = f"nested deeper than {YAML_MAX_DEPTH} levels"
        elif isinstance(event, yaml.CollectionEndEvent):
            node = _collection(*open_ones.pop())
        elif isinstance(event, ScalarEvent):
            node = TextNode(event.value, not event.style, event.start_mark, event.end_mark)
            in_flow = bool(open_ones) and open_ones[-1][0].flow_style
            if loader is QUICK and in_flow and node.plain and (not node.text or "?" in node.text):
                raise ValueError("within {...} libyaml sees an empty value elsewhere, and a ? as text")
        elif isinstance(event, AliasEvent):
            node = TextNode("", plain=True, start=event.start_mark, end=event.end_mark)
        if node is not None:
            (open_ones[-1][1] if open_ones else roots).append(node)
        values += isinstance(event, NodeEvent)
        if values > YAML_MAX_VALUES:
            problem = end = f"more than {YAML_MAX_VALUES:,} values"
        if problem:
            mistakes.append(Diagnostic(file, *place_of(event.start_mark), problem))
        if end:
            break
    if mistakes:
        raise DocumentError(mistakes)
    return roots[0] if roots else None


def _risk(event: Event, documents: int) -> str | None:
    if isinstance(event, yaml.DocumentStartEvent):
        return "a second YAML document; one file holds one document" if documents > 1 else None
    if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
        return "anchors and aliases are not used in these files; write the value out"
    if isinstance(event, (ScalarEvent, CollectionStartEvent)) and event.tag is not None:
        return f"tags such as '{clipped(event.tag)}' are not used in these files"
    return None


def _collection(start: CollectionStartEvent, children: list[Node]) -> Node:
    if isinstance(start, yaml.SequenceStartEvent):
        return ListNode(children, start.start_mark)
    pairs = list(zip(children[::2], children[1::2], strict=True))
    return MapNode(pairs, bool(start.flow_style), start.start_mark)


def place_of(mark: Mark | None) -> Place:
    """As people count."""
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)
