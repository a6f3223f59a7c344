"""What a mapping in a rule file becomes: small functions from a scope to a JSON value, put together once at load time.

A scope is the document that expressions read: `{"body": ..., "worker": ..., "chunk": ...}`. A `Value` gives the value
of one place of the output, or `OMIT` where the place is to be left out. The rule compiler calls the builders below;
nothing here knows how a rule file looks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from proxy.expr import ExpressionError
from proxy.types import Json, JsonObject

Scope = JsonObject


class Omit(enum.Enum):
    """The one value that is not JSON: leave this place out of the output."""

    OMIT = "omit"


OMIT: Final = Omit.OMIT
Value = Callable[[Scope], "Json | Omit"]
Read = Callable[[Scope], Json]
TypeName = Literal["string", "integer", "number", "boolean", "object", "array", "strings", "integers"]
Unknown = Literal["refuse", "keep", "omit"]


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


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- sources


class Constant:
    """Always the same value; an object that has it as a field is copied with it in place."""

    __slots__ = ("value",)

    def __init__(self, value: Json) -> None:
        self.value = value

    def __call__(self, scope: Scope) -> Json:
        return self.value


class RootRead:
    """Reads one name of the scope. A class, so that what runs for every chunk can see it and read the name itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, scope: Json) -> Json:
        return scope.get(self.name) if isinstance(scope, dict) else None


class ChunkRead:
    """Reads one key of the worker's frame; as `RootRead`."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, scope: Json) -> Json:
        chunk = scope.get("chunk") if isinstance(scope, dict) else None
        return chunk.get(self.key) if isinstance(chunk, dict) else None


class OmitNull:
    """Leaves a null out: what is not said is not sent. An object that has it as a field does that itself."""

    __slots__ = ("inner",)

    def __init__(self, inner: Value) -> None:
        self.inner = inner

    def __call__(self, scope: Scope) -> Json | Omit:
        found = self.inner(scope)
        return OMIT if found is None else found


Field = tuple[str, str, "Value | None", bool]
"""Its name, then what to read: a name of the scope where the value is None; and whether a null is left out."""


class Fields:
    """An object with one key for each field that is not left out; constants come first, then the order of the rule.

    What is known beforehand is not asked again for each frame of a stream.
    """

    __slots__ = ("constants", "others")

    def __init__(self, fields: Sequence[tuple[str, Value]]) -> None:
        self.constants = {name: value.value for name, value in fields if isinstance(value, Constant)}
        self.others = tuple(_field(name, value) for name, value in fields if not isinstance(value, Constant))

    def __call__(self, scope: Scope) -> Json:
        result = self.constants.copy()
        for name, root, value, omits_null in self.others:
            item = scope.get(root) if value is None else value(scope)
            if item is not OMIT and (item is not None or not omits_null):
                result[name] = item
        return result


def _field(name: str, value: Value) -> Field:
    omits_null = isinstance(value, OmitNull)
    inner = value.inner if isinstance(value, OmitNull) else value
    return (name, inner.name, None, omits_null) if isinstance(inner, RootRead) else (name, "", inner, omits_null)


def list_of(items: Sequence[Value]) -> Value:
    """An array of the items that are not left out."""
    values = tuple(items)

    def build(scope: Scope) -> Json:
        return [item for item in (value(scope) for value in values) if item is not OMIT]

    return build


def each(source: Value, label: str, body: Value) -> Value:
    """`body` for every element of the array that `source` gives, which the body sees as `item`, its position as
    `index`.
    """

    def build(scope: Scope) -> Json | Omit:
        found = source(scope)
        if found is OMIT or found is None:
            return found
        if not isinstance(found, list):
            raise FieldProblem(label, f"expected an array, got {shown(found)}")
        inner = dict(scope)
        result: list[Json] = []
        for index, item in enumerate(found):
            inner["item"] = item
            inner["index"] = index
            try:
                value = body(inner)
            except FieldProblem as problem:
                raise problem.inside(f"{label}[{index}]") from None
            if value is not OMIT:
                result.append(value)
        return result

    return build


def left_out(scope: Scope) -> Omit:
    """A value that is never there."""
    return OMIT


class When:
    """`value` where the condition holds, else left out."""

    __slots__ = ("condition", "value")

    def __init__(self, condition: Read, value: Value) -> None:
        self.condition = condition
        self.value = value

    def __call__(self, scope: Scope) -> Json | Omit:
        return self.value(scope) if truthy(self.condition(scope)) else OMIT


def needed_key(value: Value | None) -> str | None:
    """The key of the frame without which this value is not there, so that most frames need not ask for it."""
    needed = value.condition if isinstance(value, When) else value
    return needed.key if isinstance(needed, ChunkRead) else None


def truthy(value: Json) -> bool:
    """JMESPath's truth: null, false, and empty strings, arrays and objects are false; every number is true, also 0."""
    return value is not None and value is not False and value != "" and value != [] and value != {}


# --- what happens to a value


def refuse_null(value: Value, path: Sequence[str], label: str) -> Value:
    """Refuse a null that the caller wrote; JMESPath alone cannot tell it from a key that is not there."""
    parents, last = tuple(path[:-1]), path[-1]

    def build(scope: Scope) -> Json | Omit:
        holder: Json = scope
        for name in parents:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and last in holder and holder[last] is None:
            raise FieldProblem(label, "null is not a value here; leave the field out to use the default")
        return value(scope)

    return build


def with_default(value: Value, default: Value) -> Value:
    """`default` where the value is null or left out."""

    def build(scope: Scope) -> Json | Omit:
        found = value(scope)
        return default(scope) if found is None or found is OMIT else found

    return build


def required(value: Value, label: str, expected: str) -> Value:
    """Refuse null and absence."""

    def build(scope: Scope) -> Json | Omit:
        found = value(scope)
        if found is None or found is OMIT:
            raise FieldProblem(label, f"is missing; expected {expected}")
        return found

    return build


def on_value(value: Value, change: Callable[[Json, Scope], Json | Omit]) -> Value:
    """Apply `change` to what is there; null and absence pass by."""

    def build(scope: Scope) -> Json | Omit:
        found = value(scope)
        return found if found is None or found is OMIT else change(found, scope)

    return build


def table_lookup(label: str, table: dict[str, Json], unknown: Unknown) -> Callable[[Json, Scope], Json | Omit]:
    """Replace a string (or number) by what the table has for it."""
    known = ", ".join(table)

    def change(found: Json, scope: Scope) -> Json | Omit:
        key = found if isinstance(found, str) else str(found) if _is_number(found) else None
        if key is not None and key in table:
            return table[key]
        if unknown == "refuse":
            raise FieldProblem(label, f"expected one of {known}; got {shown(found)}")
        return OMIT if unknown == "omit" else found

    return change


_ARTICLES: Final[dict[str, str]] = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "an array",
    "strings": "a string or an array of strings",
    "integers": "an array of whole numbers",
}


def expected_text(kind: TypeName | None, low: float | None, high: float | None) -> str:
    """What an error message says was expected: `a number between 0 and 2`."""
    noun = _ARTICLES[kind] if kind else "a value"
    if low is not None and high is not None:
        return f"{noun} between {low:g} and {high:g}"
    if low is not None:
        return f"{noun} of at least {low:g}"
    return f"{noun} of at most {high:g}" if high is not None else noun


def typed(label: str, kind: TypeName, low: float | None, high: float | None) -> Callable[[Json, Scope], Json | Omit]:
    """Refuse a value of another type or out of range. `integer` takes 512.0 as 512, within the 64 bits that JSON
    writers agree on; no type takes a boolean for a number.
    """
    expected = expected_text(kind, low, high)
    test = _TESTS[kind]

    def change(found: Json, scope: Scope) -> Json | Omit:
        if kind == "integer" and isinstance(found, float) and found.is_integer() and abs(found) < 2**63:
            found = int(found)
        if not test(found):
            raise FieldProblem(label, f"expected {expected}, got {shown(found)}")
        if isinstance(found, (int, float)) and (
            (low is not None and not found >= low) or (high is not None and not found <= high)
        ):
            raise FieldProblem(label, f"expected {expected}, got {shown(found)}", out_of_range=True)
        return found

    return change


_TESTS: Final[dict[str, Callable[[Json], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "strings": lambda value: (
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    ),
    "integers": lambda value: (
        isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    ),
}


def one_of(label: str, allowed: Sequence[Json]) -> Callable[[Json, Scope], Json | Omit]:
    """Refuse a value that is not in the list."""
    names = ", ".join(shown(value) for value in allowed)

    def change(found: Json, scope: Scope) -> Json | Omit:
        if not any(found == value and isinstance(found, bool) == isinstance(value, bool) for value in allowed):
            raise FieldProblem(label, f"expected one of {names}; got {shown(found)}")
        return found

    return change


def header_values(headers: Mapping[str, Read], scope: Scope) -> dict[str, str]:
    """Headers from their expressions: text as it is, a number in digits; null leaves the header out.

    FieldProblem for a value that no header can carry: an array, an object, or text with control characters.
    """
    values: dict[str, str] = {}
    for name, read in headers.items():
        found = read(scope)
        if found is None:
            continue
        text = found if isinstance(found, str) else shown(found)
        if isinstance(found, (list, dict)) or any(ord(character) < 32 or ord(character) == 127 for character in text):
            raise FieldProblem(f"header {name}", f"expected text without control characters, got {shown(found)}")
        values[name] = text
    return values


def clamped(low: Read | None, high: Read | None) -> Callable[[Json, Scope], Json | Omit]:
    """Move a number into the range; a bound that is not a number at run time does not bind."""

    def change(found: Json, scope: Scope) -> Json | Omit:
        if not isinstance(found, (int, float)) or isinstance(found, bool):
            return found
        floor = low(scope) if low else None
        ceiling = high(scope) if high else None
        if isinstance(ceiling, (int, float)) and not isinstance(ceiling, bool) and found > ceiling:
            found = ceiling
        if isinstance(floor, (int, float)) and not isinstance(floor, bool) and found < floor:
            found = floor
        return found

    return change
