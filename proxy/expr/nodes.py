"""The syntax tree the compiler works on: the parser library's tree, checked, with fewer kinds of node."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from proxy.types import Json

Kind: TypeAlias = Literal[
    "and",
    "call",
    "chain",
    "compare",
    "current",
    "expression",
    "field",
    "filter",
    "flatten",
    "index",
    "list",
    "literal",
    "not",
    "object",
    "or",
    "project",
    "project_values",
    "slice",
]


class Node(NamedTuple):
    """One node; what the fields hold depends on `kind`.

    `chain`: each child is evaluated on the result of the one before (`a.b`, `a[0]`, `a | b`); never nested, never
    holds `current`. `or`, `and`: two or more children. `filter`: source, condition, what to take from an element.
    `project`, `project_values`: source, what to take from an element. `expression`: the `&x` form, one child.
    """

    kind: Kind
    children: tuple[Node, ...] = ()
    value: Json = None  # literal: the value; index: the number; slice: [start, stop, step]
    name: str = ""  # field: the key; call: the function; compare: eq, ne, lt, lte, gt or gte
    keys: tuple[str, ...] = ()  # object: the key of each child
    offset: int = 0  # call, expression: where the name or the & stands in the source


CURRENT = Node("current")
