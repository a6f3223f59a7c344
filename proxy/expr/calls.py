"""Closures that call a registered function: arguments evaluated, checked against the declaration, passed on."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.expr.errors import ExpressionError
from proxy.expr.functions import Evaluate, Function
from proxy.types import Json


def build_call(function: Function, arguments: Sequence[Evaluate]) -> Evaluate:
    """Return the closure for a call whose number of arguments was checked."""
    plain = [function.parameter(position).plain for position in range(len(arguments))]
    if len(arguments) == 1 and plain[0] is not None:
        return _one(function, arguments[0], plain[0])
    if len(arguments) == 2 and plain[0] is not None and plain[1] is not None:
        return _two(function, arguments[0], arguments[1], plain[0], plain[1])
    return _any(function, tuple(arguments))


def _one(function: Function, argument: Evaluate, types: frozenset[type]) -> Evaluate:
    call = function.call

    def run(value: Json) -> Json:
        given = argument(value)
        if type(given) not in types:
            raise function.wrong_type(0, given)
        try:
            return call(given)
        except ExpressionError:
            raise
        except Exception as error:
            raise _failure(function, error) from error

    return run


def _two(
    function: Function, first: Evaluate, second: Evaluate, first_types: frozenset[type], second_types: frozenset[type]
) -> Evaluate:
    call = function.call

    def run(value: Json) -> Json:
        one = first(value)
        if type(one) not in first_types:
            raise function.wrong_type(0, one)
        two = second(value)
        if type(two) not in second_types:
            raise function.wrong_type(1, two)
        try:
            return call(one, two)
        except ExpressionError:
            raise
        except Exception as error:
            raise _failure(function, error) from error

    return run


def _any(function: Function, arguments: tuple[Evaluate, ...]) -> Evaluate:
    call = function.call
    checked = tuple((argument, function.parameter(place).accepts) for place, argument in enumerate(arguments))

    def run(value: Json) -> Json:
        given: list[Json] = []
        for argument, accepts in checked:
            result = argument(value)
            if not accepts(result):
                raise function.wrong_type(len(given), result)
            given.append(result)
        try:
            return call(*given)
        except ExpressionError:
            raise
        except Exception as error:
            raise _failure(function, error) from error

    return run


def _failure(function: Function, error: Exception) -> ExpressionError:
    if isinstance(error, RecursionError):
        return ExpressionError(f"{function.name}(): a value is nested too deeply")
    return ExpressionError(f"{function.name}(): {type(error).__name__}: {error}")
