"""Functions an expression may call: their declared arguments, their documentation, and the registry that holds them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Final, NamedTuple, TypeAlias

from proxy.expr.errors import ExpressionError
from proxy.types import Json

Evaluate: TypeAlias = Callable[[Json], Json]
"""An expression ready to run. A function that takes an `expression` argument is given one of these."""

_JSON_NAMES: Final[dict[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_NUMBERS: Final = frozenset({int, float})


class _Type(NamedTuple):
    phrase: str
    python: frozenset[type]  # exact types, so that a boolean is not taken for a number
    test: Callable[[Json], bool] | None = None  # what the Python type does not say


def _is_whole(value: Json) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _is_positive(value: Json) -> bool:
    return isinstance(value, (int, float)) and _is_whole(value) and value >= 1


def _holds_numbers(value: Json) -> bool:
    return isinstance(value, list) and all(type(item) in _NUMBERS for item in value)


def _holds_strings(value: Json) -> bool:
    return isinstance(value, list) and all(type(item) is str for item in value)


_TYPES: Final[dict[str, _Type]] = {
    "any": _Type("any value", frozenset(_JSON_NAMES)),
    "null": _Type("null", frozenset({type(None)})),
    "boolean": _Type("a boolean", frozenset({bool})),
    "number": _Type("a number", _NUMBERS),
    "integer": _Type("a number without a fraction", _NUMBERS, _is_whole),
    "positive": _Type("a number without a fraction, 1 or more", _NUMBERS, _is_positive),
    "string": _Type("a string", frozenset({str})),
    "array": _Type("an array", frozenset({list})),
    "array[number]": _Type("an array of numbers", frozenset({list}), _holds_numbers),
    "array[string]": _Type("an array of strings", frozenset({list}), _holds_strings),
    "object": _Type("an object", frozenset({dict})),
    "expression": _Type("an expression written with &", frozenset({FunctionType})),
}

TYPES: Final = {name: each.phrase for name, each in _TYPES.items()}
"""The types of arguments, each in words."""


def type_name(value: Json) -> str:
    """Return the JMESPath name of a value's type: null, boolean, number, string, array or object."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def describe(value: Json) -> str:
    """Say what a value is without repeating text that may be private: its type, and the value of a number."""
    if type(value) in _NUMBERS:
        return f"the number {value!r}"
    if isinstance(value, list):
        held = sorted({type_name(item) for item in value})
        return f"an array of {' and '.join(held)}" if held else "an empty array"
    return type_name(value)


class Parameter:
    """One declared argument.

    `types`: names out of null, boolean, number, integer, positive (an integer of 1 or more), string, array,
    array[number], array[string], object, expression (`&x`; the function gets an `Evaluate`), any; a value of one of
    them is accepted. A number is never a boolean. `optional`: may be left out, and then the function is called without
    it. `variadic`: may be given more than once, and every value is checked.
    """

    __slots__ = ("_types", "name", "optional", "plain", "types", "variadic")

    def __init__(self, name: str, *types: str, optional: bool = False, variadic: bool = False) -> None:
        unknown = [each for each in types if each not in _TYPES]
        if unknown or not types:
            raise ValueError(
                f"parameter {name}: types must be of {', '.join(_TYPES)}, not {', '.join(unknown) or '()'}"
            )
        if "expression" in types and len(types) > 1:
            raise ValueError(f"parameter {name}: an expression cannot be combined with other types")
        self.name = name
        self.types = types
        self.optional = optional
        self.variadic = variadic
        self._types = tuple(_TYPES[each] for each in types)
        # The Python types that need no further test; None when some value needs one.
        tested = any(each.test for each in self._types)
        self.plain = None if tested else frozenset().union(*(each.python for each in self._types))

    @property
    def expected(self) -> str:
        return " or ".join(each.phrase for each in self._types)

    @property
    def takes_expression(self) -> bool:
        return self.types == ("expression",)

    @property
    def takes_all(self) -> bool:
        return "any" in self.types

    def accepts(self, value: Json) -> bool:
        if self.plain is not None:
            return type(value) in self.plain
        return any(type(value) in each.python and (each.test is None or each.test(value)) for each in self._types)

    def __str__(self) -> str:
        mark = "..." if self.variadic else "?" if self.optional else ""
        return f"{self.name}{mark}: {' | '.join(self.types)}"


@dataclass(frozen=True)
class Function:
    """A registered function. `call` gets the checked arguments by position and returns a JSON value."""

    name: str
    parameters: tuple[Parameter, ...]
    returns: str
    doc: str
    examples: tuple[tuple[str, Json], ...]  # (expression, its result on an empty object)
    call: Callable[..., Json]

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parameters))}) -> {self.returns}"

    @property
    def least(self) -> int:
        return sum(not parameter.optional for parameter in self.parameters)

    @property
    def most(self) -> int | None:
        """The largest number of arguments, None when there is no limit."""
        return None if self.parameters and self.parameters[-1].variadic else len(self.parameters)

    def parameter(self, position: int) -> Parameter:
        """Return what is declared for the argument at `position`, which counts from 0."""
        return self.parameters[min(position, len(self.parameters) - 1)]

    def refusal(self, position: int, came: str) -> str:
        """Return the sentence that says an argument has a wrong type."""
        parameter = self.parameter(position)
        return f"{self.name}(): argument {position + 1} ({parameter.name}) must be {parameter.expected}, not {came}"

    def wrong_type(self, position: int, value: Json) -> ExpressionError:
        return ExpressionError(self.refusal(position, describe(value)))


class FunctionRegistry:
    """Functions by name. A backend that adds its own works on a `copy()`."""

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}

    def register(
        self,
        *,
        name: str,
        parameters: Sequence[Parameter],
        returns: str,
        doc: str,
        examples: Sequence[tuple[str, Json]] = (),
    ) -> Callable[[Callable[..., Json]], Callable[..., Json]]:
        """Return a decorator that adds a Python function and leaves it as it is; ValueError for a bad declaration.

        The function must be bounded and must not change its arguments. It may raise any exception: the expression then
        raises ExpressionError with this function's name, and only an ExpressionError passes through as it is.
        """
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"function name {name!r} must be letters, digits and _, not starting with a digit")
        if any(parameter.variadic for parameter in parameters[:-1]):
            raise ValueError(f"function {name}: only the last parameter can be variadic")
        optional = [parameter.optional for parameter in parameters]
        if optional != sorted(optional):
            raise ValueError(f"function {name}: a required parameter follows an optional one")

        def keep(call: Callable[..., Json]) -> Callable[..., Json]:
            self.add(Function(name, tuple(parameters), returns, doc, tuple(examples), call))
            return call

        return keep

    def add(self, function: Function) -> None:
        """Add an entry; ValueError when its name is taken."""
        if function.name in self._functions:
            raise ValueError(f"function {function.name} is registered already")
        self._functions[function.name] = function

    def copy(self) -> FunctionRegistry:
        other = FunctionRegistry()
        other._functions.update(self._functions)
        return other

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._functions))

    def get(self, name: str) -> Function | None:
        return self._functions.get(name)

    def near(self, name: str) -> str | None:
        """Return the registered name most like a misspelt one, None when none is near."""
        return next(iter(difflib.get_close_matches(name, self._functions, n=1)), None)

    def __iter__(self) -> Iterator[Function]:
        return iter([self._functions[name] for name in self.names])
