"""What an expression reads from the document it is given, found in its tree."""

from __future__ import annotations

from typing import NamedTuple

from proxy.expr.nodes import Node


class Reads(NamedTuple):
    """`roots`: top-level names read. `everything`: it also uses the document as a whole (`@`, `*`, `keys(@)`)."""

    roots: frozenset[str]
    everything: bool


def reads_of(node: Node) -> Reads:
    walk = _Walk()
    walk.use(node, at_root=True)
    return Reads(frozenset(walk.roots), walk.everything)


def path_of(node: Node) -> tuple[str, ...] | None:
    """Return the names of a plain dotted path, None for every other expression."""
    steps = node.children if node.kind == "chain" else (node,)
    return tuple(step.name for step in steps) if all(step.kind == "field" for step in steps) else None


class _Walk:
    def __init__(self) -> None:
        self.roots: set[str] = set()
        self.everything = False

    def use(self, node: Node, *, at_root: bool) -> None:
        if self._visit(node, at_root=at_root):
            self.everything = True

    def _visit(self, node: Node, *, at_root: bool) -> bool:
        """Note what `node` reads; say whether its result is the document itself. `at_root`: so is its input."""
        if node.kind == "current":
            return at_root
        if node.kind == "field" and at_root:
            self.roots.add(node.name)
        elif node.kind == "chain":
            for step in node.children:
                at_root = self._visit(step, at_root=at_root)
            return at_root
        elif node.kind in ("index", "slice"):
            self.everything |= at_root
        elif node.kind in ("project", "project_values", "filter"):
            source, *inner = node.children
            self.use(source, at_root=at_root)
            for child in inner:
                self.use(child, at_root=False)
        elif node.kind == "expression":
            self.use(node.children[0], at_root=False)
        else:
            for child in node.children:
                self.use(child, at_root=at_root)
        return False
