"""How large an expression can make what it reads.

No expression loops, but one can double: each `| [@, @]` makes twice what came in, and forty of them a terabyte.
"""

from __future__ import annotations

from typing import Final

from proxy.expr.errors import ExpressionSyntaxError
from proxy.expr.nodes import Node

# Nobody needs what a request says a thousand times over.
COPIES_MAX: Final = 1_000
# A quotation mark in a JSON text becomes two characters in the JSON text of that.
_DOUBLING: Final = frozenset({"to_json", "to_string"})
# What these make can be as large as their own bounds allow, whatever they are given.
_MAKING: Final = frozenset({"join", "repeated", "replace"})
_MADE: Final = 50


def refuse_growth(tree: Node) -> None:
    """ExpressionSyntaxError where some value on the way could hold the document more than COPIES_MAX times."""
    _grown(tree, 1)


def _grown(node: Node, came: int) -> int:
    """How often the node's result may hold the document, where its input may hold it `came` times."""
    copies = _copies(node, came)
    if copies > COPIES_MAX:
        raise ExpressionSyntaxError(f"the result could hold what is read more than {COPIES_MAX:,} times over", 0)
    return copies


def _copies(node: Node, came: int) -> int:
    children = node.children
    if node.kind in {"chain", "project", "project_values"}:
        for child in children:
            came = _grown(child, came)
        return came
    if node.kind == "filter":
        source, condition, taken = children
        came = _grown(source, came)
        _grown(condition, came)
        return _grown(taken, came)
    if node.kind in {"list", "object"}:
        return sum(_grown(child, came) for child in children)
    if node.kind == "call":
        values = sum(_grown(child, came) for child in children if child.kind != "expression")
        keys = [_grown(child.children[0], values) for child in children if child.kind == "expression"]
        return max([values, *keys]) * (2 if node.name in _DOUBLING else 1) + _MADE * (node.name in _MAKING)
    most = max((_grown(child, came) for child in children), default=came)
    return 1 if node.kind in {"compare", "not"} else most
