"""What becomes of each field where one side's names are mapped to another's: read off the rule's expressions, and off
what its tests show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel

from proxy.ruleset.documents import StepDoc
from proxy.ruleset.lint import paths_read
from proxy.ruleset.mapping_documents import SpecDoc
from proxy.ruleset.walking import reads_of, written
from proxy.types import Json

Fate = Literal["carried", "changed", "used", "dropped", "invented", "absent"]

Origins = dict[str, set[str]]
"""Each name of the one side with the names of the other that it is made of. "*": what is there is passed on as a whole;
"(body)": the whole is made of something.
"""


class Seen:
    """What tests show: with which values the one side's fields came to the other."""

    def __init__(self) -> None:
        self.given: set[str] = set()
        self.made: set[str] = set()
        self._pairs: dict[str, list[bool]] = {}

    def note(self, given: Json, made: Iterable[Json]) -> None:
        """One object, and the objects that were made of it; none where it was refused."""
        if not isinstance(given, dict):
            return
        self.given |= given.keys()
        for each in made:
            if isinstance(each, dict):
                self.made |= each.keys()
                for name, value in given.items():
                    if value is not None:
                        self._pairs.setdefault(name, []).append(name in each and each[name] == value)

    def arrived(self, name: str) -> bool:
        """Whether it always came to the other side as it was."""
        return self.tried(name) and all(self._pairs[name])

    def tried(self, name: str) -> bool:
        """Whether something was made of an object that had a value there."""
        return name in self._pairs


class Half(NamedTuple):
    """names: of the side that is read; reads: those of them that some expression reads; whole: something reads all."""

    names: Iterable[str]
    made: Origins
    reads: set[str]
    whole: bool
    seen: Seen

    def fates(self) -> Iterator[tuple[str, Fate, tuple[str, ...]]]:
        """Each name with what becomes of it and where it arrives; then the names of the other side that come from
        nowhere.
        """
        reached: set[str] = set()
        for name in sorted({*self.names} - {"*", "(body)"}):
            into = tuple(name if target == "*" else target for target, names in self.made.items() if name in names)
            fate, into = self._fate(name, into)
            reached.update(into)
            yield name, fate, into
        for name in sorted({*self.seen.made, *(self.made if "*" not in self.made else ())} - {"*", "(body)"} - reached):
            if not self.made.get(name):
                yield name, "invented", ()

    def _fate(self, name: str, into: tuple[str, ...]) -> tuple[Fate, tuple[str, ...]]:
        tried = self.seen.tried(name)
        if self.seen.arrived(name) and (self.whole or into):
            return "carried", (name,)
        if not tried and (into == (name,) or "*" in self.made):
            return "carried", (name,)
        if into or (self.whole and name in self.seen.made):
            return "changed", into or (name,)
        return ("used" if name in self.reads or (self.whole and not tried) else "dropped"), ()


def fields_read(documents: Iterable[BaseModel], roots: tuple[str, ...]) -> tuple[set[str], bool]:
    """The names below `roots` that expressions read, and whether one reads a root as a whole."""
    paths = reads_of(documents)
    wholes = {(), *((root,) for root in roots)}
    return {path[1] for path in paths if is_field(path, roots)}, bool(paths & wholes)


def step_origins(steps: Iterable[StepDoc], roots: tuple[str, ...], known: Mapping[str, set[str]]) -> Origins:
    """Which names below `roots` each `steps.NAME` depends on. known: what other names depend on."""
    found: Origins = {name: set(names) for name, names in known.items()}
    for step in steps:
        if step.set is not None:
            found[f"steps.{step.set}"] = origins(values_of(step), roots, found)
    return found


def made_fields(spec: SpecDoc, roots: tuple[str, ...], known: Mapping[str, set[str]]) -> Origins:
    """The fields that a mapping makes."""
    if spec.fields is not None and spec.each is None:
        return {name: origins(values_of(child), roots, known) for name, child in spec.fields.items()}
    names = origins(values_of(spec), roots, known)
    return {"*": names} if "*" in names else {"(body)": names}


def values_of(doc: BaseModel) -> list[str]:
    """The expressions that values are made of, without conditions and bounds."""
    return [each.source for each in written(doc) if not each.condition and "clamp" not in each.path]


def origins(sources: Iterable[str], roots: tuple[str, ...], known: Mapping[str, set[str]]) -> set[str]:
    """The names below `roots` that expressions depend on; `known` has what other names depend on."""
    found: set[str] = set()
    for source in sources:
        for path in paths_read(source):
            if is_field(path, roots):
                found.add(path[1])
            elif path[:1] and path[0] in roots:
                found.add("*")
            else:
                found |= known.get(".".join(path[:2]), known.get(path[0], set()) if path else set())
    return found


def is_field(path: tuple[str, ...], roots: tuple[str, ...]) -> bool:
    """Whether the path leads below one of the roots."""
    return len(path) > 1 and path[0] in roots
