from __future__ import annotations

import re

import pytest

from proxy.expr import (
    STANDARD,
    Evaluate,
    ExpressionError,
    ExpressionSyntaxError,
    Function,
    FunctionRegistry,
    Parameter,
    compile_expression,
)
from proxy.types import Json


@pytest.mark.parametrize("function", list(STANDARD), ids=lambda function: function.name)
def test_documented_examples_are_true(function: Function) -> None:
    """Every function has a sentence of documentation and examples that give what they promise."""
    assert re.fullmatch(r"[A-Za-z].*\.", function.doc)
    assert function.examples
    for source, expected in function.examples:
        assert f"{function.name}(" in source
        assert repr(compile_expression(source, STANDARD)({})) == repr(expected), source


def test_backend_adds_functions_to_a_copy() -> None:
    """A copy takes new functions with optional and repeated arguments, and the original stays as it was."""
    registry = STANDARD.copy()

    @registry.register(
        name="cut",
        parameters=[Parameter("text", "string", "null"), Parameter("size", "integer", optional=True)],
        returns="string",
        doc="Cut.",
    )
    def cut(text: str | None, size: int = 2) -> Json:
        return (text or "none")[:size]

    @registry.register(
        name="tally",
        parameters=[Parameter("first", "any"), Parameter("numbers", "number", variadic=True)],
        returns="array",
        doc="Tally.",
    )
    def tally(first: Json, *numbers: float) -> Json:
        return [first, len(numbers)]

    document: Json = {"t": "abcdef", "n": 1}
    answers: dict[str, Json] = {
        "cut(t)": "ab",
        "cut(t, `3`)": "abc",
        "cut(x, `4.0` | to_number('4'))": "none",
        "tally(t, n)": ["abcdef", 1],
        "tally(t, n, n, n)": ["abcdef", 3],
    }
    assert {source: compile_expression(source, registry)(document) for source in answers} == answers
    assert cut("abc") == "ab"
    assert STANDARD.get("cut") is None
    assert set(registry.names) - set(STANDARD.names) == {"cut", "tally"}
    with pytest.raises(ExpressionError, match=re.escape("tally(): argument 3 (numbers) must be a number, not string")):
        compile_expression("tally(t, n, t)", registry)(document)
    with pytest.raises(ExpressionSyntaxError, match="2 or more arguments"):
        compile_expression("tally(t)", registry)


def test_function_gets_an_expression_to_evaluate() -> None:
    """A declared expression argument reaches the function as something it can call on values."""
    registry = FunctionRegistry()

    @registry.register(
        name="twice",
        parameters=[Parameter("expression", "expression"), Parameter("value", "any")],
        returns="any",
        doc="Twice.",
    )
    def twice(expression: Evaluate, value: Json) -> Json:
        return expression(expression(value))

    assert compile_expression("twice(&a, @)", registry)({"a": {"a": 7}}) == 7


@pytest.mark.parametrize("arguments", ["a", "a, a", "a, a, a"])
def test_exception_of_a_function_becomes_an_expression_error(arguments: str) -> None:
    """Whatever a function raises reaches the caller as ExpressionError with the function's name and the cause."""
    registry = FunctionRegistry()

    @registry.register(
        name="fails", parameters=[Parameter("values", "any", variadic=True)], returns="any", doc="Fails."
    )
    def fails(*values: Json) -> Json:
        raise KeyError("no such template")

    with pytest.raises(ExpressionError, match=r"fails\(\): KeyError: 'no such template'") as caught:
        compile_expression(f"fails({arguments})", registry)({})
    assert isinstance(caught.value.__cause__, KeyError)


def test_declarations_are_checked() -> None:
    """A declaration that cannot be right is refused when it is made."""
    registry = STANDARD.copy()
    one, many = Parameter("one", "any"), Parameter("many", "any", variadic=True)
    maybe = Parameter("maybe", "any", optional=True)
    for name, parameters, message in [
        ("my-name", [one], "must be letters"),
        ("length", [one], "registered already"),
        ("new", [many, one], "only the last"),
        ("new", [maybe, one], "follows an optional"),
    ]:
        with pytest.raises(ValueError, match=message):
            registry.register(name=name, parameters=parameters, returns="any", doc="New.")(str)
    with pytest.raises(ValueError, match="not text"):
        Parameter("x", "text")
    with pytest.raises(ValueError, match="types must be of"):
        Parameter("x")
    with pytest.raises(ValueError, match="cannot be combined"):
        Parameter("x", "expression", "any")


def test_boolean_is_never_a_number() -> None:
    """true and false are refused wherever a number is declared, alone and inside arrays."""
    for kind in ("number", "integer", "positive"):
        assert not Parameter("x", kind).accepts(True)
        assert Parameter("x", kind).accepts(1)
    assert not Parameter("x", "array[number]").accepts([1, True])


def test_signature_shows_types_and_optional_arguments() -> None:
    """The signature reads as a declaration an operator can follow."""
    signatures = {function.name: function.signature for function in STANDARD}
    assert signatures["get"] == "get(object: object, key: string, default?: any) -> any"
    assert signatures["merge"] == "merge(objects...: object) -> object"
    assert signatures["max"] == "max(array: array[number] | array[string]) -> number | string | null"
