"""What a mapping does to a value that is there: checked against a type, a range, a table, moved into a range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from proxy.expr import Writer
from proxy.translate.mapping import OMIT, FieldProblem, Omit, Read, Scope, Value, Written, is_there, shown, write
from proxy.types import Json

TypeName = Literal["string", "integer", "number", "boolean", "object", "array", "strings", "integers"]
Unknown = Literal["refuse", "keep", "omit"]


def _refuse(writer: Writer, label: str, message: str) -> None:
    """Write the end in a FieldProblem of this value."""
    writer.line(f"raise {writer.constant(FieldProblem)}({label!a}, {message!a})")


class RefuseNull(Written):
    """Refuses a null that the caller wrote; JMESPath alone cannot tell it from a key that is not there.

    value: reads what is at `path`; label: the caller's name of it.
    """

    __slots__ = ("_label", "_path", "_value")
    omits = False

    def __init__(self, value: Read, path: Sequence[str], label: str) -> None:
        super().__init__()
        self._value = value
        self._path = tuple(path)
        self._label = label

    def write(self, writer: Writer, scope: str) -> str:
        found = write(writer, self._value, scope)
        *parents, last = self._path
        with writer.block(f"if {found} is None"):
            holder = scope
            for name in parents:
                holder = writer.field(holder, name)
            with writer.block(f"if isinstance({holder}, dict) and {last!a} in {holder}"):
                _refuse(writer, self._label, "null is not a value here; leave the field out to use the default")
        return found


class WithDefault(Written):
    """`default` where the value is null or left out."""

    __slots__ = ("_default", "_value")

    def __init__(self, value: Value, default: Value) -> None:
        super().__init__()
        self._value = value
        self._default = default

    def write(self, writer: Writer, scope: str) -> str:
        found = write(writer, self._value, scope)
        result = writer.set(found)
        with writer.block(f"if not ({is_there(writer, self._value, found)})"):
            writer.line(f"{result} = {write(writer, self._default, scope)}")
        return result


class Required(Written):
    """Refuses null and absence. label: the caller's name of the value; expected: what it should have been."""

    __slots__ = ("_expected", "_label", "_value")
    omits = False

    def __init__(self, value: Value, label: str, expected: str) -> None:
        super().__init__()
        self._value = value
        self._label = label
        self._expected = expected

    def write(self, writer: Writer, scope: str) -> str:
        found = write(writer, self._value, scope)
        with writer.block(f"if not ({is_there(writer, self._value, found)})"):
            _refuse(writer, self._label, f"is missing; expected {self._expected}")
        return found


class OnValue(Written):
    """Applies `change` to what is there; null and absence pass by.

    usual: code about the value in `{0}`, true where `change` would leave it as it is, so that it need not be asked.
    """

    __slots__ = ("_change", "_usual", "_value")

    def __init__(self, value: Value, change: Callable[[Json, Scope], Json | Omit], usual: str = "") -> None:
        super().__init__()
        self._value = value
        self._change = change
        self._usual = usual

    def write(self, writer: Writer, scope: str) -> str:
        found = write(writer, self._value, scope)
        result = writer.set(found)
        unusual = f" and not ({self._usual.format(found)})" if self._usual else ""
        with writer.block(f"if {is_there(writer, self._value, found)}{unusual}"):
            writer.line(f"{result} = {writer.constant(self._change)}({found}, {scope})")
        return result


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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


_USUAL: Final[dict[TypeName, str]] = {
    "string": "isinstance({0}, str)",
    "integer": "type({0}) is int",
    "number": "(type({0}) is int or type({0}) is float)",
    "boolean": "({0} is True or {0} is False)",
    "object": "isinstance({0}, dict)",
    "array": "isinstance({0}, list)",
}


def usual_test(kind: TypeName, low: float | None, high: float | None) -> str:
    """Code about the value in `{0}` that is true only where `typed` leaves it as it is; nothing where there is none."""
    if kind not in _USUAL or not all(math.isfinite(bound) for bound in (low, high) if bound is not None):
        return ""
    ranged = kind in {"integer", "number"}
    bounds = [f" and {{0}} {sign} {bound!r}" for sign, bound in ((">=", low), ("<=", high)) if bound is not None]
    return _USUAL[kind] + ("".join(bounds) if ranged else "")


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
