"""The tree of a YAML text as its events tell it: which libyaml or PyYAML's own reader finds, with the same result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol, Union

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from proxy.documents.diagnostics import Diagnostic, DocumentError, clipped
from proxy.limits import YAML_MAX_DEPTH, YAML_MAX_VALUES

Loader = Union[yaml.SafeLoader, "yaml.CSafeLoader"]
# libyaml is ten times as fast, and differs where something is odd. So what it refuses, and what has any of these, is
# left to PyYAML's own reader: what is read, and each message, is the same wherever the program runs.
QUICK: Final[type[Loader] | None] = getattr(yaml, "CSafeLoader", None)
_ODD: Final = (  # one by one they are found quicker than all together
    re.compile(r"[\t\r\x85\u2028\u2029\ufeff]"),
    re.compile(r"^---|^[ -]*\?", re.MULTILINE),
    re.compile(r"[|>][-+0-9]*#"),
)


class Mark(Protocol):
    """What both PyYAML's own marks and libyaml's have; counted from 0, index in characters from the beginning."""

    @property
    def index(self) -> int: ...

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class ListNode(NamedTuple):
    """A list of any form."""

    items: list[Node]
    start_mark: Mark | None


class MapNode(NamedTuple):
    """flow: it is written in curly brackets."""

    pairs: list[tuple[Node, Node]]
    flow: bool
    start_mark: Mark | None


TextNode = ScalarEvent  # a text is what its event says of it
Node = TextNode | ListNode | MapNode


class Place(NamedTuple):
    """Where a value stands in its file, counted from 1."""

    line: int
    column: int


def is_odd(text: str) -> bool:
    """Whether there is something in it that libyaml may read in another way."""
    return any(odd.search(text) for odd in _ODD)


def compose(text: str, file: str, loader: type[Loader]) -> Node | None:
    """The tree of the text, None where there is nothing in it.

    DocumentError with every alias, tag, second document, level too deep and value too many, before anything is made of
    them; as the loader, for what is not YAML; ValueError where QUICK is no good.
    """
    here: list[Node] = []
    open_ones: list[tuple[CollectionStartEvent, list[Node]]] = []
    mistakes: list[Diagnostic] = []
    documents = values = 0
    end = ""
    # There are tens of thousands of events; what is common is asked first, and in the quickest way.
    for event in _events(text, loader):
        problem: str | None = None
        if type(event) is ScalarEvent:
            if not event.style and (not event.value or "?" in event.value) and loader is QUICK and _in_flow(open_ones):
                raise ValueError("within {...} libyaml sees an empty value elsewhere, and a ? as text")
            here.append(event)
        elif type(event) is MappingEndEvent or type(event) is SequenceEndEvent:
            start, around = open_ones.pop()
            around.append(_collection(start, here))
            here = around
            continue
        elif type(event) is MappingStartEvent or type(event) is SequenceStartEvent:
            open_ones.append((event, here))
            here = []
        elif type(event) is AliasEvent:
            here.append(ScalarEvent(None, None, (True, False), "", event.start_mark, event.end_mark))
        else:
            documents += isinstance(event, DocumentStartEvent)
            if documents > 1 and isinstance(event, DocumentStartEvent):
                mistakes.append(_mistake(file, event, "a second YAML document; one file holds one document"))
            continue
        values += 1
        if isinstance(event, AliasEvent) or event.anchor is not None or event.tag is not None:
            problem = _risk(event)
        if len(open_ones) > YAML_MAX_DEPTH:
            problem = end = f"nested deeper than {YAML_MAX_DEPTH} levels"
        if values > YAML_MAX_VALUES:
            problem = end = f"more than {YAML_MAX_VALUES:,} values"
        if problem is not None:
            mistakes.append(_mistake(file, event, problem))
        if end:
            break
    if mistakes:
        raise DocumentError(mistakes)
    return here[0] if here else None


def _events(text: str, loader: type[Loader]) -> Iterator[Event]:
    """As `yaml.parse`, without a step of Python for each event."""
    parser = loader(text)
    try:
        yield from iter(parser.get_event, None)
    finally:
        parser.dispose()


def _in_flow(open_ones: list[tuple[CollectionStartEvent, list[Node]]]) -> bool:
    return bool(open_ones) and bool(open_ones[-1][0].flow_style)


def _risk(event: AliasEvent | ScalarEvent | CollectionStartEvent) -> str:
    if isinstance(event, AliasEvent) or event.anchor is not None:
        return "anchors and aliases are not used in these files; write the value out"
    return f"tags such as '{clipped(str(event.tag))}' are not used in these files"


def _mistake(file: str, event: Event, problem: str) -> Diagnostic:
    return Diagnostic(file, *place_of(event.start_mark), problem)


def _collection(start: CollectionStartEvent, children: list[Node]) -> Node:
    if isinstance(start, SequenceStartEvent):
        return ListNode(children, start.start_mark)
    pairs = list(zip(children[::2], children[1::2], strict=True))
    return MapNode(pairs, bool(start.flow_style), start.start_mark)


def place_of(mark: Mark | None) -> Place:
    """As people count."""
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)
