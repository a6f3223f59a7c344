"""Closures for truth and comparison.

False in JMESPath: null, false, and the empty string, array and object. 0 is true, so Python's own truth is corrected
for it wherever it is asked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Final

from proxy.expr.errors import ExpressionError
from proxy.expr.functions import Evaluate, type_name
from proxy.types import Json

_ORDER: Final[dict[str, tuple[str, Callable[..., bool]]]] = {
    "lt": ("<", operator.lt),
    "lte": ("<=", operator.le),
    "gt": (">", operator.gt),
    "gte": (">=", operator.ge),
}


def truth(operand: Evaluate) -> Evaluate:
    """The JMESPath truth of a value, as a boolean."""

    def run(value: Json) -> Json:
        result = operand(value)
        return bool(result) or (result == 0 and result is not False)

    return run


def negate(operand: Evaluate) -> Evaluate:
    def run(value: Json) -> Json:
        result = operand(value)
        return not result and (result != 0 or result is False)

    return run


def either(operands: Sequence[Evaluate]) -> Evaluate:
    """The first operand that is true, else the last one."""
    if len(operands) == 2:
        return _either_of_two(operands[0], operands[1])
    *tried, last = operands
    first_operands = tuple(tried)

    def run(value: Json) -> Json:
        for operand in first_operands:
            result = operand(value)
            if result or (result == 0 and result is not False):
                return result
        return last(value)

    return run


def _either_of_two(first: Evaluate, second: Evaluate) -> Evaluate:
    def run(value: Json) -> Json:
        result = first(value)
        if result or (result == 0 and result is not False):
            return result
        return second(value)

    return run


def both(operands: Sequence[Evaluate]) -> Evaluate:
    """The first operand that is false, else the last one."""
    if len(operands) == 2:
        return _both_of_two(operands[0], operands[1])
    *tried, last = operands
    first_operands = tuple(tried)

    def run(value: Json) -> Json:
        for operand in first_operands:
            result = operand(value)
            if not result and (result != 0 or result is False):
                return result
        return last(value)

    return run


def _both_of_two(first: Evaluate, second: Evaluate) -> Evaluate:
    def run(value: Json) -> Json:
        result = first(value)
        if result or (result == 0 and result is not False):
            return second(value)
        return result

    return run


def equal(left: Evaluate, right: Evaluate, *, wanted: bool) -> Evaluate:
    """`==` (wanted) or `!=`. A boolean equals no number; inside arrays and objects Python's own equality holds."""

    def run(value: Json) -> Json:
        one, two = left(value), right(value)
        same = one == two and (one is True or one is False) == (two is True or two is False)
        return same is wanted

    return run


def equal_to(operand: Evaluate, constant: Json, *, wanted: bool) -> Evaluate:
    """`equal` with a literal on one side."""
    if constant is None or isinstance(constant, bool):
        return lambda value: (operand(value) is constant) is wanted
    if isinstance(constant, (int, float)) and constant in (0, 1):

        def run(value: Json) -> Json:
            result = operand(value)
            return (result == constant and result is not True and result is not False) is wanted

        return run
    if wanted:
        return lambda value: operand(value) == constant
    return lambda value: operand(value) != constant


def ordered(name: str, left: Evaluate, right: Evaluate) -> Evaluate:
    """`<`, `<=`, `>`, `>=`: two numbers or two strings; null beside any other value.

    A string beside a number raises ExpressionError, as it does in the library.
    """
    sign, compare = _ORDER[name]

    def run(value: Json) -> Json:
        one, two = left(value), right(value)
        one_type, two_type = type(one), type(two)
        if one_type is int or one_type is float:
            if two_type is int or two_type is float:
                return compare(one, two)
            if two_type is not str:
                return None
        elif one_type is not str or (two_type is not int and two_type is not float and two_type is not str):
            return None
        elif two_type is str:
            return compare(one, two)
        raise ExpressionError(f"a {type_name(one)} and a {type_name(two)} cannot be compared with {sign}")

    return run
