"""How large an expression can make what it reads.

No expression loops, but one can double: each `| [@, @]` makes twice what came in, and forty of them a terabyte.
"""

from __future__ import annotations

from typing import Final

from proxy.expr.errors import ExpressionSyntaxError
from proxy.expr.functions import FunctionRegistry
from proxy.expr.nodes import Node

# Nobody needs what a request says a thousand times over.
COPIES_MAX: Final = 1_000
# A quotation mark in a JSON text becomes two characters in the JSON text of that.
_DOUBLING: Final = frozenset({"to_json", "to_string"})
# What these make can be as large as their own bounds allow, whatever they are given.
_MAKING: Final = frozenset({"join", "repeated", "replace"})
_MADE: Final = 50
_SMALL: Final = frozenset({"boolean", "null", "number"})


def copies_of(tree: Node, functions: FunctionRegistry) -> int:
    """How often the result may hold the document. ExpressionSyntaxError where it, or some value on the way, could more
    than COPIES_MAX times.
    """
    return _Growth(functions).of(tree, 1)


class _Growth:
    def __init__(self, functions: FunctionRegistry) -> None:
        self._functions = functions

    def of(self, node: Node, came: int) -> int:
        """How often the node's result may hold the document, where its input may hold it `came` times."""
        copies = self._copies(node, came)
        if copies > COPIES_MAX:
            raise ExpressionSyntaxError(f"the result could hold what is read more than {COPIES_MAX:,} times over", 0)
        return copies

    def _copies(self, node: Node, came: int) -> int:
        children = node.children
        if node.kind in {"chain", "project", "project_values"}:
            for child in children:
                came = self.of(child, came)
            return came
        if node.kind == "filter":
            source, condition, taken = children
            came = self.of(source, came)
            self.of(condition, came)
            return self.of(taken, came)
        if node.kind in {"list", "object"}:
            return sum(self.of(child, came) for child in children)
        if node.kind == "call":
            return self._call(node, came)
        most = max((self.of(child, came) for child in children), default=came)
        return 1 if node.kind in {"compare", "not"} else most

    def _call(self, node: Node, came: int) -> int:
        values = sum(self.of(child, came) for child in node.children if child.kind != "expression")
        keys = [self.of(child.children[0], values) for child in node.children if child.kind == "expression"]
        function = self._functions.get(node.name)
        if function is not None and _SMALL.issuperset(function.returns.split(" | ")):
            return 1
        return max([values, *keys]) * (2 if node.name in _DOUBLING else 1) + _MADE * (node.name in _MAKING)
