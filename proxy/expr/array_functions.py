"""The product's own functions of arrays. No array grows beyond MAX_ITEMS by them."""

from __future__ import annotations

from typing import Final

from proxy.expr.errors import ExpressionError
from proxy.expr.functions import FunctionRegistry, Parameter
from proxy.types import Json

# The longest array that `repeated` may make: array and number can both come from a client. Far more than anyone asks a
# model at once.
MAX_ITEMS: Final = 65_536

_FUNCTIONS: Final = FunctionRegistry()
_register = _FUNCTIONS.register

_ARRAY: Final = Parameter("array", "array")
_VALUE: Final = Parameter("value", "any")


def register_array_functions(registry: FunctionRegistry) -> None:
    """Add all functions of this module to a registry."""
    for function in _FUNCTIONS:
        registry.add(function)


@_register(
    name="unique",
    parameters=[_ARRAY],
    returns="array",
    doc="The array without repetitions, the first of equals kept; 1 equals 1.0 but not true, also inside.",
    examples=[("unique(`[1, true, 1.0, 2, 1]`)", [1, True, 2])],
)
def _unique(array: list[Json]) -> Json:
    first: dict[object, Json] = {}
    for item in array:
        first.setdefault(_identity(item), item)
    return list(first.values())


@_register(
    name="compact",
    parameters=[_ARRAY],
    returns="array",
    doc="The array without nulls and empty strings.",
    examples=[('compact(`[1, null, "", 0, false]`)', [1, 0, False])],
)
def _compact(array: list[Json]) -> Json:
    return [item for item in array if item is not None and item != ""]


@_register(
    name="index_of",
    parameters=[_ARRAY, _VALUE],
    returns="number | null",
    doc="The place of the first equal element, counted from 0; null when there is none. 1 does not equal true.",
    examples=[("index_of(['a', 'b'], 'b')", 1), ("index_of(`[true]`, `1`)", None)],
)
def _index_of(array: list[Json], value: Json) -> Json:
    wanted = _identity(value)
    return next((place for place, item in enumerate(array) if _identity(item) == wanted), None)


@_register(
    name="chunked",
    parameters=[_ARRAY, Parameter("size", "positive")],
    returns="array",
    doc="The array cut into arrays of `size` elements, the last one perhaps shorter.",
    examples=[("chunked(`[1, 2, 3]`, `2`)", [[1, 2], [3]])],
)
def _chunked(array: list[Json], size: float) -> Json:
    step = int(size)
    return [array[start : start + step] for start in range(0, len(array), step)]


@_register(
    name="repeated",
    parameters=[_ARRAY, Parameter("times", "integer")],
    returns="array",
    doc=f"The array with each element so many times in a row, empty for 0. An error over {MAX_ITEMS} elements.",
    examples=[("repeated(['a', 'b'], `2`)", ["a", "a", "b", "b"]), ("repeated(['a'], `0`)", [])],
)
def _repeated(array: list[Json], times: float, *, limit: int = MAX_ITEMS) -> Json:
    count = max(0, int(times))
    if len(array) * count > limit:
        raise ExpressionError(f"repeated(): the result would have more than {limit} elements")
    return [item for item in array for _ in range(count)]


def _identity(value: Json) -> object:
    """Return a hashable value, equal for equal JSON: booleans are kept apart from 0 and 1."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, list):
        return ("array", tuple([_identity(item) for item in value]))
    if isinstance(value, dict):
        return ("object", frozenset([(key, _identity(item)) for key, item in value.items()]))
    return value
