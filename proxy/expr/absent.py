"""An expression as it is where some names of the document are known to be null: what hangs on them is worked out."""

from __future__ import annotations

from typing import Final

from proxy.expr.nodes import Node
from proxy.types import Json

_NULL: Final = Node("literal")
# What selects nothing from null.
_SELECTS: Final = frozenset({"field", "index", "slice"})
# Of these only the first child sees what the whole expression sees.
_PROJECTS: Final = frozenset({"filter", "flatten", "project", "project_values"})


def without(node: Node, names: frozenset[str]) -> Node:
    """The tree that gives the same where these top-level names are null; shorter, where that is known now."""
    if node.kind == "field":
        return _NULL if node.name in names else node
    if node.kind in {"current", "expression", "index", "literal", "slice"}:
        return node
    if node.kind == "chain" or node.kind in _PROJECTS:
        first, *rest = node.children
        first = without(first, names)
        if node.kind == "chain" and first == _NULL and all(child.kind in _SELECTS for child in rest):
            return _NULL
        return node._replace(children=(first, *rest))
    children = tuple(without(child, names) for child in node.children)
    if node.kind == "not" and children[0].kind == "literal":
        return Node("literal", value=not _is_true(children[0].value))
    if node.kind in {"and", "or"}:
        return _decided(node, children)
    return node._replace(children=children)


def _decided(node: Node, children: tuple[Node, ...]) -> Node:
    """An `or` up to its first child that is true, an `and` up to its first that is not, without those that decide
    nothing.
    """
    ends = node.kind == "or"
    kept: list[Node] = []
    for position, child in enumerate(children):
        known = child.kind == "literal"
        if known and _is_true(child.value) != ends and position + 1 < len(children):
            continue
        kept.append(child)
        if known and _is_true(child.value) == ends:
            break
    return kept[0] if len(kept) == 1 else node._replace(children=tuple(kept))


def _is_true(value: Json) -> bool:
    return bool(value) or (value == 0 and value is not False)
