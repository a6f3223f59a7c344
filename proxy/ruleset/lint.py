"""What is wrong with an expression although it compiles, found in its tree."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import pairwise

from proxy.expr.nodes import Node
from proxy.expr.parse import parse

_SELECTS = frozenset({"field", "index", "list", "object", "slice"})
_PROJECTS = frozenset({"filter", "flatten", "project", "project_values"})


@functools.lru_cache(maxsize=1024)
def negated_selection(source: str) -> bool:
    """Whether something is selected from the result of a `!`, as `!a.b` does: of a boolean that gives only null."""
    return any(_is_negated(node) for node in _all(_tree(source)))


@functools.lru_cache(maxsize=1024)
def steps_read(source: str) -> frozenset[str]:
    """The names in `steps.<name>`, where `steps` is the document's and not a key inside it."""
    names: set[str] = set()
    _visit(_tree(source), names, at_root=True)
    return frozenset(names)


@functools.lru_cache(maxsize=1024)
def paths_read(source: str) -> frozenset[tuple[str, ...]]:
    """What an expression reads from the document, as far as it is plain names, those of elements too: `steps.a[0].b`
    reads ("steps", "a", "b"). An empty path: the document as a whole.
    """
    paths: set[tuple[str, ...]] = set()
    _note(_follow(_tree(source), (), paths), paths)
    return frozenset(paths)


def _note(path: tuple[str, ...] | None, paths: set[tuple[str, ...]]) -> None:
    if path is not None:
        paths.add(path)


def _follow(node: Node, at: tuple[str, ...] | None, paths: set[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The path of the node's result, where its input is at this path; None for what is made anew. What goes into
    something new is noted.
    """
    if node.kind in {"current", "index", "slice"}:
        return at
    if node.kind == "field":
        return None if at is None else (*at, node.name)
    if node.kind == "chain":
        for child in node.children:
            at = _follow(child, at, paths)
        return at
    if node.kind in _PROJECTS:
        at = _follow(node.children[0], at, paths)
        for condition in node.children[1:-1]:
            _note(_follow(condition, at, paths), paths)
        return _follow(node.children[-1], at, paths) if len(node.children) > 1 else at
    for child in node.children:
        _note(_follow(child, None if node.kind == "expression" else at, paths), paths)
    return None


def _is_negated(node: Node) -> bool:
    if node.kind == "chain":
        return any(left.kind == "not" and right.kind in _SELECTS for left, right in pairwise(node.children))
    return node.kind in _PROJECTS and node.children[0].kind == "not"


def _tree(source: str) -> Node:
    return parse(source, max_length=len(source), max_depth=64)


def _all(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _all(child)


def _visit(node: Node, names: set[str], *, at_root: bool) -> bool:
    """Collect names; say whether the result of `node` is the document itself. `at_root`: so is its input."""
    if node.kind == "current":
        return at_root
    if node.kind == "chain":
        for left, right in pairwise(node.children):
            if at_root and left.kind == right.kind == "field" and left.name == "steps":
                names.add(right.name)
            at_root = _visit(left, names, at_root=at_root)
        return _visit(node.children[-1], names, at_root=at_root)
    # A projection's and a filter's source is evaluated on the input; what is taken from each element is not.
    inner_from = 1 if node.kind in {"project", "project_values", "filter"} else len(node.children)
    for position, child in enumerate(node.children):
        _visit(child, names, at_root=at_root and position < inner_from and node.kind != "expression")
    return False
