"""What a mapping in a rule file becomes: small functions from a scope to a JSON value, put together once at load time.

A scope is the document that expressions read: `{"body": ..., "worker": ..., "chunk": ...}`. A `Value` gives the value
of one place of the output, or `OMIT` where the place is to be left out. The rule compiler calls the builders below;
nothing here knows how a rule file looks.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

from proxy.expr import Expression, ExpressionError, Writer, function, is_true
from proxy.types import Json, JsonObject

Scope = JsonObject


class Omit(enum.Enum):
    """The one value that is not JSON: leave this place out of the output."""

    OMIT = "omit"


OMIT: Final = Omit.OMIT
Value = Callable[[Scope], "Json | Omit"]
Read = Callable[[Scope], Json]


class FieldProblem(Exception):
    """A value that the rule refuses. field: the caller's name of it, `messages[2].role`; message: what was expected and
    what came; out_of_range: the value is of the right type, but not in its range.
    """

    def __init__(self, field: str, message: str, *, out_of_range: bool = False) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message
        self.out_of_range = out_of_range

    def inside(self, outer: str) -> FieldProblem:
        """The same problem seen from the enclosing value named `outer`."""
        joint = "" if not self.field or self.field.startswith("[") else "."
        return FieldProblem(f"{outer}{joint}{self.field}", self.message, out_of_range=self.out_of_range)


# Whatever a rule can fail with at run time: a value it refuses, an expression that does not fit, a value nested too
# deep.
RULE_FAILURES: Final = (FieldProblem, ExpressionError, RecursionError)


def shown(value: Json) -> str:
    """A value as an error message shows it: short, and never a whole prompt."""
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 40 else f"a string of {len(value)} characters"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


class Written(ABC):
    """A value that is written into the function of what it is a part of; called by itself, into one of its own.

    omits: it may be left out.
    """

    __slots__ = ("_run",)
    omits = True

    def __init__(self) -> None:
        self._run: Value | None = None

    def __call__(self, scope: Scope) -> Json | Omit:
        run = self._run
        if run is None:
            run = self._run = function(self.write)
        return run(scope)

    @abstractmethod
    def write(self, writer: Writer, scope: str) -> str:
        """Write the lines that give the value of the scope in this variable; what holds it then."""


def write(writer: Writer, value: Value | Expression, scope: str) -> str:
    """As `Written.write`, of any value."""
    if isinstance(value, Written):
        return writer.part(value.write, scope)
    if isinstance(value, Expression):
        return value.write(writer, scope)
    return writer.set(f"{writer.constant(value)}({scope})")


def omits(value: Value | Expression) -> bool:
    """Whether it may be left out."""
    return value.omits if isinstance(value, Written) else not isinstance(value, Expression)


def holds(writer: Writer, condition: Read, scope: str) -> str:
    """Write what a condition needs; code that is true in Python where it holds."""
    if isinstance(condition, Expression):
        return condition.condition(writer, scope)
    return is_true(write(writer, condition, scope))


def is_there(writer: Writer, value: Value | Expression, found: str) -> str:
    """Code that is true where a value, which is in `found`, is neither null nor left out."""
    return f"{found} is not None" + (f" and {found} is not {writer.constant(OMIT)}" if omits(value) else "")


def _append(writer: Writer, array: str, value: Value, found: str) -> None:
    """Put a value, which is in `found`, at the end of an array, unless it is left out."""
    head = f"if {found} is not {writer.constant(OMIT)}: " if omits(value) else ""
    writer.line(f"{head}{array}.append({found})")


class Constant(Written):
    """Always the same value."""

    __slots__ = ("value",)
    omits = False

    def __init__(self, value: Json) -> None:
        super().__init__()
        self.value = value

    def __call__(self, scope: Scope) -> Json:
        return self.value

    def write(self, writer: Writer, scope: str) -> str:
        return writer.constant(self.value)


class RootRead(Written):
    """Reads one name of the scope. A class, so that what runs for every chunk can see it and read the name itself."""

    __slots__ = ("name",)
    omits = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __call__(self, scope: Json) -> Json:
        return scope.get(self.name) if isinstance(scope, dict) else None

    def write(self, writer: Writer, scope: str) -> str:
        return writer.field(scope, self.name)


class ChunkRead(Written):
    """Reads one key of the worker's frame; as `RootRead`."""

    __slots__ = ("key",)
    omits = False

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def __call__(self, scope: Json) -> Json:
        chunk = scope.get("chunk") if isinstance(scope, dict) else None
        return chunk.get(self.key) if isinstance(chunk, dict) else None

    def write(self, writer: Writer, scope: str) -> str:
        return writer.field(writer.field(scope, "chunk"), self.key)


class OmitNull(Written):
    """Leaves a null out: what is not said is not sent. An object that has it as a field does that itself."""

    __slots__ = ("inner",)

    def __init__(self, inner: Value) -> None:
        super().__init__()
        self.inner = inner

    def write(self, writer: Writer, scope: str) -> str:
        found = write(writer, self.inner, scope)
        return writer.set(f"{writer.constant(OMIT)} if {found} is None else {found}")


Field = tuple[str, str, "Value | None", bool]
"""Its name, then what to read: a name of the scope where the value is None; and whether a null is left out."""


class Fields(Written):
    """An object with one key for each field that is not left out; constants come first, then the order of the rule.

    What is known beforehand is not asked again for each frame of a stream.
    """

    __slots__ = ("constants", "others")
    omits = False

    def __init__(self, fields: Sequence[tuple[str, Value]]) -> None:
        super().__init__()
        self.constants = {name: value.value for name, value in fields if isinstance(value, Constant)}
        self.others = tuple(_field(name, value) for name, value in fields if not isinstance(value, Constant))

    def write(self, writer: Writer, scope: str) -> str:
        known = [f"{name!a}: {writer.constant(value)}" for name, value in self.constants.items()]
        result = ""
        for name, root, value, omits_null in self.others:
            found = writer.field(scope, root) if value is None else write(writer, value, scope)
            may_omit = value is not None and omits(value)
            if not (result or may_omit or omits_null):
                known.append(f"{name!a}: {found}")
                continue
            if not result:
                result = writer.set(f"{{{', '.join(known)}}}")
            asked = [f"{found} is not None"] if omits_null else []
            asked += [f"{found} is not {writer.constant(OMIT)}"] if may_omit else []
            sets = f"{result}[{name!a}] = {found}"
            writer.line(f"if {' and '.join(asked)}: {sets}" if asked else sets)
        return result or writer.set(f"{{{', '.join(known)}}}")


def _field(name: str, value: Value) -> Field:
    omits_null = isinstance(value, OmitNull)
    inner = value.inner if isinstance(value, OmitNull) else value
    return (name, inner.name, None, omits_null) if isinstance(inner, RootRead) else (name, "", inner, omits_null)


class ListOf(Written):
    """An array of the items that are not left out."""

    __slots__ = ("_items",)
    omits = False

    def __init__(self, items: Sequence[Value]) -> None:
        super().__init__()
        self._items = tuple(items)

    def write(self, writer: Writer, scope: str) -> str:
        result = writer.set("[]")
        for value in self._items:
            found = write(writer, value, scope)
            _append(writer, result, value, found)
        return result


class Each(Written):
    """`body` for every element of the array that `source` gives, which the body sees as `item`, its position as
    `index`. label: the caller's name of the array.
    """

    __slots__ = ("_body", "_label", "_source")

    def __init__(self, source: Value, label: str, body: Value) -> None:
        super().__init__()
        self._source = source
        self._label = label
        self._body = body

    def write(self, writer: Writer, scope: str) -> str:
        found = write(writer, self._source, scope)
        result = writer.set(found)
        problem, label = writer.constant(FieldProblem), ascii(self._label)
        with writer.block(f"if {is_there(writer, self._source, found)}"):
            with writer.block(f"if not isinstance({found}, list)"):
                writer.line(f"raise {problem}({label}, 'expected an array, got ' + {writer.constant(shown)}({found}))")
            writer.line(f"{result} = []")
            inner, item, index = writer.variable(), writer.variable(), writer.variable()
            with (
                writer.layer(inner, scope, {"item": item, "index": index}),
                writer.block(f"for {index}, {item} in enumerate({found})"),
                writer.layered(inner),
            ):
                with writer.block("try"):
                    value = write(writer, self._body, inner)
                with writer.block(f"except {problem} as problem"):
                    writer.line(f"raise problem.inside({label} + '[' + str({index}) + ']') from None")
                _append(writer, result, self._body, value)
        return result


def left_out(scope: Scope) -> Omit:
    """A value that is never there."""
    return OMIT


class When(Written):
    """`value` where the condition holds, else left out."""

    __slots__ = ("condition", "value")

    def __init__(self, condition: Read, value: Value) -> None:
        super().__init__()
        self.condition = condition
        self.value = value

    def write(self, writer: Writer, scope: str) -> str:
        result = writer.variable()
        writer.line(f"{result} = {writer.constant(OMIT)}")
        with writer.block(f"if {holds(writer, self.condition, scope)}"):
            writer.line(f"{result} = {write(writer, self.value, scope)}")
        return result


def needed_key(value: Value | None) -> str | None:
    """The key of the frame without which this value is not there, so that most frames need not ask for it."""
    needed = value.condition if isinstance(value, When) else value
    return needed.key if isinstance(needed, ChunkRead) else None


def truthy(value: Json) -> bool:
    """JMESPath's truth: null, false, and empty strings, arrays and objects are false; every number is true, also 0."""
    return value is not None and value is not False and value != "" and value != [] and value != {}
