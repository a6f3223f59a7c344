"""Python functions written for one expression or one mapping, line by line, and compiled when they are first called.

A tree of closures costs a call for each node. What is written here has the nodes' work in one function, reads a part of
the document once however often it is named, and jumps over what a condition leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from proxy.types import Json

# Python takes 100 levels of indentation and 20 loops inside each other; what is deeper becomes a function of its own.
_LEVELS_MAX: Final = 16
_DOCUMENT: Final = "document"

NO_CONTAINERS: Final = frozenset({"None", "True", "False"})
"""What stands for itself in the code, of which Python knows while it compiles that it holds nothing."""

Part = Callable[["Writer", str], str]
"""Writes the lines that give one value, of the document in the variable that it is told; what holds it then, a variable
or one of `NO_CONTAINERS`.
"""


def _getter(holder: str) -> str:
    return f"{holder}.get if isinstance({holder}, dict) else no_field"


def _no_field(name: str) -> None:
    """What a value that is not an object has."""


class Writer:
    """Lines of one function; arguments: the names of its own.

    A variable is set once and keeps its value, but for those of `set` that the caller sets again before anybody else
    knows them.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._names: dict[str, object] = {"no_field": _no_field}
        self._constants: dict[int, str] = {}
        self._lines: list[str] = []
        self._known: dict[str, str] = {}
        self._layers: dict[str, tuple[str | None, dict[str, str]]] = {}
        self._level = 1
        self._count = 0

    def line(self, code: str) -> None:
        self._lines.append(" " * self._level + code)

    @property
    def place(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    def drop(self, place: int) -> None:
        """Take the lines back that were written since then; no variable of theirs is known any more."""
        del self._lines[place:]

    def set(self, code: str) -> str:
        """A new variable with the value of this code."""
        name = self.variable()
        self.line(f"{name} = {code}")
        return name

    def once(self, code: str) -> str:
        """As `set`, with the variable that has it already where there is one."""
        found = self._known.get(code)
        if found is None:
            found = self._known[code] = self.set(code)
        return found

    def variable(self) -> str:
        """A name that nothing has."""
        self._count += 1
        return f"v{self._count}"

    def constant(self, value: object) -> str:
        """What stands for this very value."""
        if value is None or value is True or value is False:
            return str(value)
        name = self._constants.get(id(value))
        if name is None:
            name = self._constants[id(value)] = f"c{len(self._names)}"
            self._names[name] = value
        return name

    def name(self, name: str, value: object) -> None:
        """Let the lines have this value by this name, which none that is made here has: those are `v1` and `c1`."""
        self._names[name] = value

    def compared(self, value: Json) -> str:
        """A value with which another one is compared."""
        return ascii(value) if isinstance(value, (str, int)) else self.constant(value)

    def field(self, holder: str, name: str) -> str:
        """The field of what should be an object; null where it is none, or has no such field."""
        if holder in NO_CONTAINERS:
            return "None"
        if holder in self._layers:
            outer, own = self._layers[holder]
            if name in own:
                return own[name]
            if outer is not None:
                return self.field(outer, name)
        get = self.once(_getter(holder))
        return self.once(f"{get}({name!a})")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """The lines inside belong to this head; what is first read there is known nowhere else."""
        self.line(f"{head}:")
        known, self._known = self._known, self._known.copy()
        self._level += 1
        count = len(self._lines)
        yield
        if len(self._lines) == count:
            self.line("pass")
        self._level -= 1
        self._known = known

    def getter(self, holder: str, variable: str) -> None:
        """From here to the end of the block `variable` has the `get` of this object."""
        self._known[_getter(holder)] = variable

    def fields(self, holder: str) -> dict[str, str]:
        """The fields of this object that a variable has, from here on: the caller sets both, and adds them here."""
        return self._layers.setdefault(holder, (None, {}))[1]

    @contextmanager
    def layer(self, inner: str, outer: str, own: dict[str, str]) -> Iterator[None]:
        """In the lines inside `inner` is the object `outer` with fields of its own, each in a variable.

        It is made, before the loop that is written inside, only where a line needs it as a whole; see `layered`.
        """
        self._layers[inner] = (outer, own)
        place, level = self.place, self._level
        yield
        if self.needs_whole(place, inner):
            self._lines.insert(place, " " * level + f"{inner} = {{**{outer}}}")

    @contextmanager
    def layered(self, inner: str) -> Iterator[None]:
        """The lines inside are the loop's, in which the fields of `inner` change."""
        place, level = self.place, self._level
        yield
        if self.needs_whole(place, inner):
            for name, variable in reversed(self._layers[inner][1].items()):
                self._lines.insert(place, " " * level + f"{inner}[{name!a}] = {variable}")

    def names(self, place: int, variable: str) -> bool:
        """Whether a line since then has this variable in it."""
        found = re.compile(rf"\b{variable}\b")
        return any(found.search(line) for line in self._lines[place:])

    def needs_whole(self, place: int, holder: str) -> bool:
        """Whether a line since then needs this object for more than to read a field of it."""
        found, reads = re.compile(rf"\b{holder}\b"), f" = {_getter(holder)}"
        return any(found.search(line) and not line.endswith(reads) for line in self._lines[place:])

    def insert(self, place: int, code: str) -> None:
        """Put a line there, as far in as what is written now."""
        self._lines.insert(place, " " * self._level + code)

    def part(self, write: Part, document: str) -> str:
        """What `write` writes, in a function of its own where it would be too deep in this one."""
        if self._level < _LEVELS_MAX:
            return write(self, document)
        return self.set(f"{self.constant(function(write))}({document})")

    def compiled(self, result: str) -> Callable[..., Any]:
        """The function, which returns this."""
        lines = [f"def run({', '.join(self._arguments)}):", *self._lines, f" return {result}"]
        exec(compile("\n".join(lines), "<rule>", "exec"), self._names)  # noqa: S102  names of rules go in quoted only
        # Not left there: it would hold itself, and wait for the garbage collector.
        return cast("Callable[..., Any]", self._names.pop("run"))


def function(write: Part) -> Callable[[Any], Any]:
    """The function of one argument, the document, that gives what is written."""
    writer = Writer(_DOCUMENT)
    return writer.compiled(write(writer, _DOCUMENT))
