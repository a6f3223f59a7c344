"""The functions every expression may call: those of the JMESPath standard here, the product's own from `additions`.

The answers follow the jmespath library, also where it leans on Python: `contains` and the order of `sort` take
`true` for 1 inside arrays, and `to_number` reads whatever Python's int() and float() read. Only `merge` is stricter
than the library, which checks the first argument alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Final

from proxy.expr.additions import MAX_TEXT, register_additions
from proxy.expr.errors import ExpressionError
from proxy.expr.functions import Evaluate, FunctionRegistry, Parameter, describe, type_name
from proxy.types import Json, JsonObject

_BUILT_INS: Final = FunctionRegistry()
_register = _BUILT_INS.register

_STRING: Final = Parameter("text", "string")
_NUMBER: Final = Parameter("number", "number")
_NUMBERS: Final = Parameter("numbers", "array[number]")
_ARRAY: Final = Parameter("array", "array")
_OBJECT: Final = Parameter("object", "object")
_ANY: Final = Parameter("value", "any")
_KEY: Final = Parameter("key", "expression")
_SORTABLE: Final = Parameter("array", "array[number]", "array[string]")


@_register(
    name="abs",
    parameters=[_NUMBER],
    returns="number",
    doc="The number without its sign.",
    examples=[("abs(`-2.5`)", 2.5)],
)
def _abs(number: float) -> Json:
    return abs(number)


@_register(
    name="avg",
    parameters=[_NUMBERS],
    returns="number | null",
    doc="The mean of the numbers; null for an empty array.",
    examples=[("avg(`[1, 2, 6]`)", 3.0), ("avg(`[]`)", None)],
)
def _avg(numbers: list[float]) -> Json:
    return sum(numbers) / len(numbers) if numbers else None


@_register(
    name="ceil",
    parameters=[_NUMBER],
    returns="number",
    doc="The next integer at or above the number.",
    examples=[("ceil(`1.2`)", 2)],
)
def _ceil(number: float) -> Json:
    return math.ceil(number)


@_register(
    name="contains",
    parameters=[Parameter("subject", "array", "string"), Parameter("search", "any")],
    returns="boolean",
    doc="Whether an array holds a value, or a string holds another string.",
    examples=[("contains(`[1, 2]`, `2`)", True), ("contains('gateway', 'way')", True)],
)
def _contains(subject: list[Json] | str, search: Json) -> Json:
    if isinstance(subject, list):
        return search in subject
    if not isinstance(search, str):
        raise ExpressionError(f"contains(): argument 2 (search) must be a string in a string, not {describe(search)}")
    return search in subject


@_register(
    name="ends_with",
    parameters=[_STRING, Parameter("suffix", "string")],
    returns="boolean",
    doc="Whether the string ends with the suffix.",
    examples=[("ends_with('gateway', 'way')", True)],
)
def _ends_with(text: str, suffix: str) -> Json:
    return text.endswith(suffix)


@_register(
    name="floor",
    parameters=[_NUMBER],
    returns="number",
    doc="The next integer at or below the number.",
    examples=[("floor(`1.8`)", 1)],
)
def _floor(number: float) -> Json:
    return math.floor(number)


@_register(
    name="join",
    parameters=[Parameter("glue", "string"), Parameter("strings", "array[string]")],
    returns="string",
    doc=f"The strings with the glue between them. An error over {MAX_TEXT} characters.",
    examples=[("join(', ', ['a', 'b'])", "a, b")],
)
def _join(glue: str, strings: list[str], *, limit: int = MAX_TEXT) -> Json:
    if len(glue) * len(strings) + sum(map(len, strings)) > limit:
        raise ExpressionError(f"join(): the result would have more than {limit} characters")
    return glue.join(strings)


@_register(
    name="keys",
    parameters=[_OBJECT],
    returns="array[string]",
    doc="The keys of an object, in its order.",
    examples=[('keys(`{"b": 1, "a": 2}`)', ["b", "a"])],
)
def _keys(members: JsonObject) -> Json:
    return list(members)


@_register(
    name="length",
    parameters=[Parameter("subject", "string", "array", "object")],
    returns="number",
    doc="The number of characters, elements or members.",
    examples=[("length('añb')", 3), ("length(`[1, 2]`)", 2)],
)
def _length(subject: str | list[Json] | JsonObject) -> Json:
    return len(subject)


@_register(
    name="map",
    parameters=[Parameter("expression", "expression"), _ARRAY],
    returns="array",
    doc="The expression's result for each element, nulls kept.",
    examples=[('map(&a, `[{"a": 1}, {"b": 2}]`)', [1, None])],
)
def _map(expression: Evaluate, array: list[Json]) -> Json:
    return [expression(item) for item in array]


@_register(
    name="max",
    parameters=[_SORTABLE],
    returns="number | string | null",
    doc="The largest number or string; null for an empty array.",
    examples=[("max(`[1, 3, 2]`)", 3), ("max(`[]`)", None)],
)
def _max(array: list[float]) -> Json:
    return max(array, default=None)


@_register(
    name="max_by",
    parameters=[_ARRAY, _KEY],
    returns="any",
    doc="The element with the largest key, a number or a string; null for an empty array.",
    examples=[('max_by(`[{"n": 1}, {"n": 2}]`, &n)', {"n": 2})],
)
def _max_by(array: list[Json], key: Evaluate) -> Json:
    return max(array, key=_sort_key("max_by", key), default=None)


@_register(
    name="merge",
    parameters=[Parameter("objects", "object", variadic=True)],
    returns="object",
    doc="One object with the members of all; a later one wins.",
    examples=[('merge(`{"a": 1, "b": 1}`, `{"b": 2}`)', {"a": 1, "b": 2})],
)
def _merge(*objects: JsonObject) -> Json:
    merged: JsonObject = {}
    for each in objects:
        merged.update(each)
    return merged


@_register(
    name="min",
    parameters=[_SORTABLE],
    returns="number | string | null",
    doc="The smallest number or string; null for an empty array.",
    examples=[("min(`[2, 1, 3]`)", 1), ("min(['b', 'a'])", "a")],
)
def _min(array: list[float]) -> Json:
    return min(array, default=None)


@_register(
    name="min_by",
    parameters=[_ARRAY, _KEY],
    returns="any",
    doc="The element with the smallest key, a number or a string; null for an empty array.",
    examples=[('min_by(`[{"n": 2}, {"n": 1}]`, &n)', {"n": 1})],
)
def _min_by(array: list[Json], key: Evaluate) -> Json:
    return min(array, key=_sort_key("min_by", key), default=None)


@_register(
    name="not_null",
    parameters=[Parameter("values", "any", variadic=True)],
    returns="any",
    doc="The first value that is not null; unlike ||, it takes false and empty values.",
    examples=[("not_null(`null`, `false`, 'x')", False), ("not_null(`null`)", None)],
)
def _not_null(*values: Json) -> Json:
    return next((value for value in values if value is not None), None)


@_register(
    name="reverse",
    parameters=[Parameter("subject", "array", "string")],
    returns="array | string",
    doc="The elements or characters from last to first.",
    examples=[("reverse('abc')", "cba"), ("reverse(`[1, 2]`)", [2, 1])],
)
def _reverse(subject: list[Json] | str) -> Json:
    return subject[::-1]


@_register(
    name="sort",
    parameters=[_SORTABLE],
    returns="array",
    doc="The numbers or strings in rising order.",
    examples=[("sort(`[2, 1, 3]`)", [1, 2, 3])],
)
def _sort(array: list[float]) -> Json:
    return [*sorted(array)]


@_register(
    name="sort_by",
    parameters=[_ARRAY, _KEY],
    returns="array",
    doc="The elements in rising order of their keys, which must be all numbers or all strings.",
    examples=[('sort_by(`[{"n": 2}, {"n": 1}]`, &n)', [{"n": 1}, {"n": 2}])],
)
def _sort_by(array: list[Json], key: Evaluate) -> Json:
    return sorted(array, key=_sort_key("sort_by", key))


@_register(
    name="starts_with",
    parameters=[_STRING, Parameter("prefix", "string")],
    returns="boolean",
    doc="Whether the string starts with the prefix.",
    examples=[("starts_with('gateway', 'gate')", True)],
)
def _starts_with(text: str, prefix: str) -> Json:
    return text.startswith(prefix)


@_register(
    name="sum",
    parameters=[_NUMBERS],
    returns="number",
    doc="The sum of the numbers; 0 for an empty array.",
    examples=[("sum(`[1, 2.5]`)", 3.5)],
)
def _sum(numbers: list[float]) -> Json:
    return sum(numbers)


@_register(
    name="to_array",
    parameters=[_ANY],
    returns="array",
    doc="An array as it is, any other value as the one element of an array.",
    examples=[("to_array('a')", ["a"]), ("to_array(`[1]`)", [1])],
)
def _to_array(value: Json) -> Json:
    return value if isinstance(value, list) else [value]


@_register(
    name="to_number",
    parameters=[_ANY],
    returns="number | null",
    doc="A number as it is, a string read as a number; null for everything else.",
    examples=[("to_number('42')", 42), ("to_number('1e3')", 1000.0), ("to_number('x')", None)],
)
def _to_number(value: Json) -> Json:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return None


@_register(
    name="to_string",
    parameters=[_ANY],
    returns="string",
    doc="A string as it is, any other value as compact JSON in ASCII; to_json keeps other scripts readable.",
    examples=[("to_string('a')", "a"), ("to_string(`[1, true]`)", "[1,true]")],
)
def _to_string(value: Json) -> Json:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@_register(
    name="type",
    parameters=[_ANY],
    returns="string",
    doc="The name of the value's type: null, boolean, number, string, array or object.",
    examples=[("type(`true`)", "boolean"), ("type(`1`)", "number")],
)
def _type(value: Json) -> Json:
    return type_name(value)


@_register(
    name="values",
    parameters=[_OBJECT],
    returns="array",
    doc="The values of an object, in its order.",
    examples=[('values(`{"b": 1, "a": 2}`)', [1, 2])],
)
def _values(members: JsonObject) -> Json:
    return list(members.values())


def _sort_key(name: str, key: Evaluate) -> Callable[[Json], float | str]:
    """Return a key function that refuses what cannot be ordered: other types, and both kinds in one array."""
    kinds: set[str] = set()

    def evaluate(item: Json) -> float | str:
        result = key(item)
        if isinstance(result, bool) or not isinstance(result, (int, float, str)):
            raise ExpressionError(f"{name}(): argument 2 (key) must give a number or a string, not {describe(result)}")
        kinds.add(type_name(result))
        if len(kinds) > 1:
            raise ExpressionError(f"{name}(): argument 2 (key) must give all numbers or all strings, not both")
        return result

    return evaluate


def standard_functions() -> FunctionRegistry:
    """Return a new registry of the standard functions and the product's own."""
    registry = _BUILT_INS.copy()
    register_additions(registry)
    return registry


STANDARD: Final = standard_functions()
