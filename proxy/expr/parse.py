"""Source text to a checked `Node` tree. The jmespath library (>=1.0.1,<2) parses; limits and messages are made here."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, TypedDict, cast

from jmespath.exceptions import IncompleteExpressionError, ParseError
from jmespath.parser import Parser

from proxy.expr.errors import ExpressionSyntaxError
from proxy.expr.nodes import CURRENT, Kind, Node
from proxy.expr.scan import Token, scan, shown, too_deep
from proxy.types import Json


class _Raw(TypedDict):
    """A node as the library makes it."""

    type: str
    children: list[_Raw]
    value: Json


_CHAINS: Final = frozenset({"subexpression", "index_expression", "pipe"})
_KINDS: Final[dict[str, Kind]] = {
    "and_expression": "and",
    "comparator": "compare",
    "field": "field",
    "flatten": "flatten",
    "function_expression": "call",
    "index": "index",
    "literal": "literal",
    "multi_select_dict": "object",
    "multi_select_list": "list",
    "not_expression": "not",
    "or_expression": "or",
    "projection": "project",
    "value_projection": "project_values",
}


def parse(source: str, *, max_length: int, max_depth: int) -> Node:
    """Return the tree of `source`, at most `max_depth` levels deep; raise ExpressionSyntaxError."""
    # What is short enough is the same tree whatever the limit.
    return _parsed(source, len(source) if len(source) <= max_length else max_length, max_depth)


# The compiler and whoever looks at what an expression reads ask for the same trees; these are a few rule sets' worth.
@functools.lru_cache(maxsize=4096)
def _parsed(source: str, max_length: int, max_depth: int) -> Node:
    tokens = scan(source, max_length=max_length, max_depth=max_depth)
    try:
        raw: _Raw = Parser().parse(source).parsed
    except IncompleteExpressionError as error:
        raise _ends_early(source) from error
    except ParseError as error:
        raise _unexpected(source, tokens, error.lex_position) from error
    except RecursionError as error:
        raise too_deep(max_depth, 0) from error
    return _Converter(tokens, max_depth).convert(raw)


def _ends_early(source: str) -> ExpressionSyntaxError:
    return ExpressionSyntaxError("the expression ends where something must follow", len(source))


def _unexpected(source: str, tokens: list[Token], offset: int) -> ExpressionSyntaxError:
    if offset >= len(source):
        return _ends_early(source)
    end = min((token["start"] for token in tokens if token["start"] > offset), default=len(source))
    return ExpressionSyntaxError(f"unexpected {shown(source[offset:end].strip())}", offset)


class _Converter:
    """Walks the library's tree in the order of the source, so that each call and each & finds its own place."""

    def __init__(self, tokens: list[Token], max_depth: int) -> None:
        self._calls = _call_offsets(tokens)
        self._expressions = iter([token["start"] for token in tokens if token["type"] == "expref"])
        self._max_depth = max_depth

    def convert(self, raw: _Raw, depth: int = 1) -> Node:
        if depth > self._max_depth:
            raise too_deep(self._max_depth, 0)
        kind = raw["type"]
        if kind in _CHAINS:
            return self._chain(raw, depth)
        if kind in ("current", "identity"):
            return CURRENT
        if kind == "slice":
            return Node("slice", value=cast("Json", raw["children"]))
        if kind == "multi_select_dict":
            pairs = raw["children"]
            values = self._all([pair["children"][0] for pair in pairs], depth)
            return Node("object", values, keys=tuple(str(pair["value"]) for pair in pairs))
        if kind == "filter_projection":
            source, taken, condition = raw["children"]
            first, test = self._all([source, condition], depth)
            return Node("filter", (first, test, self.convert(taken, depth + 1)))
        if kind == "function_expression":
            offset = next(self._calls)
            return Node("call", self._all(raw["children"], depth), name=str(raw["value"]), offset=offset)
        if kind == "expref":
            offset = next(self._expressions)
            return Node("expression", self._all(raw["children"], depth), offset=offset)
        if kind in ("or_expression", "and_expression"):
            return Node(_KINDS[kind], self._all(_flat(raw, frozenset({kind})), depth))
        children = self._all(raw["children"], depth)
        if kind in ("field", "comparator"):
            return Node(_KINDS[kind], children, name=str(raw["value"]))
        return Node(_KINDS[kind], children, value=raw.get("value"))

    def _all(self, raws: list[_Raw], depth: int) -> tuple[Node, ...]:
        return tuple([self.convert(raw, depth + 1) for raw in raws])

    def _chain(self, raw: _Raw, depth: int) -> Node:
        steps = tuple(node for node in self._all(_flat(raw, _CHAINS), depth) if node is not CURRENT)
        if not steps:
            return CURRENT
        return steps[0] if len(steps) == 1 else Node("chain", steps)


def _flat(raw: _Raw, kinds: frozenset[str]) -> list[_Raw]:
    """Return the operands of nested nodes of `kinds`, which group in any way without a change of meaning."""
    flat: list[_Raw] = []
    waiting = [raw]
    while waiting:
        node = waiting.pop()
        if node["type"] in kinds:
            waiting.extend(reversed(node["children"]))
        else:
            flat.append(node)
    return flat


def _call_offsets(tokens: list[Token]) -> Iterator[int]:
    # The library also reads (name)(argument) as a call.
    for before, token in pairwise(tokens):
        if token["type"] == "lparen" and before["type"] in ("unquoted_identifier", "rparen"):
            yield before["start"]
