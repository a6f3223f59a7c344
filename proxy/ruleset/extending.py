"""A rule file that says only what differs from another one, put over it.

A mapping is merged key by key; anything else takes the place of what was there. Two lists have elements with names:
`steps` (the name that a step sets, or the expression that it checks) and `tests`. `remove` names what goes, by path.
Every value keeps the file and line that it came from.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from proxy.documents import Diagnostic, suggestion
from proxy.documents.validate import inside
from proxy.ruleset.mapping_documents import SpecDoc
from proxy.ruleset.tree import Spot, Tree

EXTENDS, REMOVE = "extends", "remove"
# The lists whose elements have names, with the keys that name one.
_NAMED = {"steps": ("set", "check"), "tests": ("name",)}
_SOURCES = frozenset({"from", "value", "fields", "items"})
# More names than these are no help in a sentence.
_LISTED_MAX = 15
_PART = re.compile(r'("(?:[^"\\]|\\.)*"|[^."]+)(?:\.(?=.)|$)')
_PLAIN_PART = re.compile(r"[A-Za-z0-9_-]+")

Parts = tuple[str, ...]


class Change(NamedTuple):
    """One difference to what is extended. path: `request.body.fields.top_k`; place: where the difference is written."""

    what: Literal["changed", "added", "removed"]
    path: str
    place: Spot


class Extension:
    """Puts one file over another; `changes` and `mistakes` have what was found on the way."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        self.changes: list[Change] = []
        self.mistakes: list[Diagnostic] = []

    def apply(self, base: Tree, patch: Tree) -> Tree:
        """`base` with everything that `patch` says."""
        if not isinstance(patch.value, dict):
            return patch
        rest = {name: child for name, child in patch.value.items() if name not in {EXTENDS, REMOVE}}
        if REMOVE in patch.value:
            base = self._without(base, patch.value[REMOVE])
        return self._merged(base, patch._replace(value=rest), (), [self._model])

    def _merged(self, base: Tree, patch: Tree, parts: Parts, kinds: list[Any]) -> Tree:
        if parts and parts[-1] in _NAMED and isinstance(base.value, list) and isinstance(patch.value, list):
            return patch._replace(value=self._merged_list(base.value, patch.value, parts))
        if not isinstance(patch.value, dict):
            if base.plain() != patch.plain():
                self._changed(parts, patch)
            return patch
        there = base
        if SpecDoc in kinds:
            there = _as_mapping(base, patch.value)
        if not isinstance(there.value, dict):
            self._changed(parts, patch)
            return patch
        result = dict(there.value)
        for name, child in patch.value.items():
            inner = (*parts, name)
            if name in result:
                result[name] = self._merged(
                    result[name], child, inner, [k for kind in kinds for k in inside(kind, name)]
                )
            else:
                result[name] = child
                self.changes.append(Change("added", shown_path(inner), child.key or child.place))
        return patch._replace(value=result)

    def _changed(self, parts: Parts, patch: Tree) -> None:
        self.changes.append(Change("changed", shown_path(parts), patch.key or patch.place))

    def _merged_list(self, base: list[Tree], patch: list[Tree], parts: Parts) -> list[Tree]:
        result = list(base)
        behind: dict[str, int] = {}  # how many were put behind each, so that they stay in their order
        for given in patch:
            element, anchor = _split(given)
            name = _name_of(element, parts[-1])
            known = [_name_of(each, parts[-1]) for each in result]
            if anchor is not None:
                self._insert(result, element, anchor, known, behind, parts)
            elif name is not None and name in known:
                position = known.index(name)
                if result[position].plain() != element.plain():
                    self.changes.append(Change("changed", shown_path((*parts, name)), element.place))
                result[position] = element
            elif parts[-1] == "tests" or not base:
                result.append(element)
                self.changes.append(Change("added", shown_path((*parts, name or "?")), element.place))
            else:
                message = f"no step '{name}' to replace, and a new one needs before or after{_near(name, known)}"
                self.mistakes.append(element.at(message))
        return result

    def _insert(
        self,
        result: list[Tree],
        element: Tree,
        anchor: tuple[str, Tree],
        known: list[str | None],
        behind: dict[str, int],
        parts: Parts,
    ) -> None:
        name = _name_of(element, parts[-1])
        side, at = anchor
        if at.value not in known:
            self.mistakes.append(at.at(f"there is no step '{at.value}'{_near(at.value, known)}"))
        elif name in known:
            self.mistakes.append(element.at(f"a step '{name}' is there; without {side} this one takes its place"))
        else:
            position = known.index(str(at.value))
            if side == "after":
                behind[str(at.value)] = behind.get(str(at.value), 0) + 1
                position += behind[str(at.value)]
            result.insert(position, element)
            self.changes.append(Change("added", shown_path((*parts, name or "?")), element.place))

    def _without(self, base: Tree, listed: Tree) -> Tree:
        entries = listed.value if isinstance(listed.value, list) else [listed]
        for entry in entries:
            parts = parse_path(entry.value) if isinstance(entry.value, str) else None
            if parts is None:
                self.mistakes.append(entry.at("remove: expected paths such as request.body.fields.top_k"))
                continue
            left = self._cut(base, parts, 0, entry)
            if left is not None:
                base = left
                self.changes.append(Change("removed", shown_path(parts), entry.place))
        return base

    def _cut(self, tree: Tree, parts: Parts, depth: int, entry: Tree) -> Tree | None:
        """The tree without what the path names; None where there is no such thing, which is noted."""
        name, last = parts[depth], depth == len(parts) - 1
        inner = tree.value
        if isinstance(inner, dict):
            known: list[str | None] = list(inner)
        elif isinstance(inner, list) and depth and parts[depth - 1] in _NAMED:
            known = [_name_of(each, parts[depth - 1]) for each in inner]
        else:
            known = []
        if name not in known:
            where = f" in {shown_path(parts[:depth])}" if depth else ""
            self.mistakes.append(entry.at(f"nothing to remove: there is no '{name}'{where}{_near(name, known)}"))
            return None
        position = known.index(name)
        children = list(inner.values()) if isinstance(inner, dict) else inner if isinstance(inner, list) else []
        child = children[position]
        left = None if last else self._cut(child, parts, depth + 1, entry)
        if left is None and not last:
            return None
        if last:  # what is wrong without it is told there
            tree = tree._replace(place=entry.place, key=tree.key and entry.place)
        if isinstance(inner, dict):
            pairs = {key: left if key == name else each for key, each in inner.items()}
            return tree._replace(value={key: each for key, each in pairs.items() if each is not None})
        kept = children[:position] + ([left] if left is not None else []) + children[position + 1 :]
        return tree._replace(value=kept)


def parse_path(text: str) -> Parts | None:
    """`tests."a long name"` as its parts; None for what is no path."""
    parts: list[str] = []
    position = 0
    while position < len(text):
        found = _PART.match(text, position)
        if found is None:
            return None
        try:
            parts.append(json.loads(found[1]) if found[1].startswith('"') else found[1])
        except json.JSONDecodeError:
            return None
        position = found.end()
    return tuple(parts) or None


def shown_path(parts: Parts) -> str:
    """The parts as `parse_path` reads them."""
    return ".".join(p if _PLAIN_PART.fullmatch(p) else json.dumps(p, ensure_ascii=False) for p in parts)


def _as_mapping(base: Tree, patch: dict[str, Tree]) -> Tree:
    """A bare expression as `{from: ...}`, and without its source where the patch gives another one."""
    there = base._replace(value={"from": base}) if isinstance(base.value, str) else base
    if not isinstance(there.value, dict):
        return there
    given = patch.keys() & _SOURCES
    kept = {name: child for name, child in there.value.items() if not given or name in given or name not in _SOURCES}
    return there._replace(value=kept)


def _split(element: Tree) -> tuple[Tree, tuple[str, Tree] | None]:
    """A step without its before or after, and that."""
    if not isinstance(element.value, dict):
        return element, None
    for side in ("before", "after"):
        if side in element.value:
            rest = {name: child for name, child in element.value.items() if name != side}
            return element._replace(value=rest), (side, element.value[side])
    return element, None


def _name_of(element: Tree, of: str) -> str | None:
    if isinstance(element.value, dict):
        for key in _NAMED[of]:
            if key in element.value and isinstance(element.value[key].value, str):
                return str(element.value[key].value)
    return None


def _near(name: object, known: list[str | None]) -> str:
    hint = suggestion(str(name), [each for each in known if each is not None])
    return hint if len(known) <= _LISTED_MAX else hint.partition("; known: ")[0]
