from __future__ import annotations

import pytest

from proxy.expr import STANDARD, ExpressionSyntaxError, compile_expression
from proxy.types import Json


def refusal(source: str, max_length: int = 100_000, max_depth: int = 64) -> ExpressionSyntaxError:
    with pytest.raises(ExpressionSyntaxError) as caught:
        compile_expression(source, STANDARD, max_length=max_length, max_depth=max_depth)
    return caught.value


@pytest.mark.parametrize(
    ("source", "offset", "words"),
    [
        ("", 0, "is empty"),
        (" \n ", 0, "is empty"),
        ("a.", 2, "ends where something must follow"),
        ("a ==", 4, "ends where something must follow"),
        ("a[", 2, "ends where something must follow"),
        ("{a: b,", 6, "ends where something must follow"),
        ("a b", 2, "unexpected b"),
        ("a.'x'", 2, "unexpected 'x'"),
        ("abs(a,, b)", 6, "unexpected ,"),
        ("a = b", 2, "== compares"),
        ("a =", 2, "== compares"),
        ("a ==ö", 4, "'ö'"),
        ("my-field", 2, 'in double quotes, as in "my-field"'),
        ("a || 'open", 5, "the ' that opens here is never closed"),
        ('a."open', 2, 'the " that opens here is never closed'),
        ("a == `1", 5, "the ` that opens here is never closed"),
        ("'it\\'s", 0, "never closed"),
        (r'"\q"', 0, "not a valid JSON string"),
        ("a == `False`", 5, "a string is written 'False'"),
        ("``", 0, "is not JSON"),
        ("`NaN`", 0, "is not JSON"),
        ("a || `[1e999]`", 5, "does not fit 64 bits"),
        ("`18446744073709551616`", 0, "does not fit 64 bits"),
        ("a[::0]", 4, "step of a slice"),
        ("a[1:2:0]", 6, "step of a slice"),
        ('a."abs"(b)', 2, "without quotes"),
    ],
)
def test_syntax_error_names_place_and_cause(source: str, offset: int, words: str) -> None:
    """A source that is no expression is refused with the offset of the fault and what is wrong there."""
    error = refusal(source)
    assert error.offset == offset
    assert words in error.message
    assert str(error) == f"{error.message} (at offset {offset})"


@pytest.mark.parametrize(
    ("start", "repeated", "end"),
    [
        ("", "(", ""),
        ("", "[", ""),
        ("", "{a:", ""),
        ("", "[?", ""),
        ("", "!", "a"),
        ("", "abs(", ""),
        ("", "map(&", ""),
        ("a", "[*]", ""),
        ("*", ".*", ""),
        ("a", "[]", ""),
        ("a", " == a", ""),
        ("a", "[?a", "]" * 10_000),
        ("`", "[", "`"),
        ("`", "[", "]" * 10_000 + "`"),
    ],
)
def test_hostile_nesting_is_a_syntax_error(start: str, repeated: str, end: str) -> None:
    """Ten thousand levels of any construct are refused, not a stack overflow."""
    message = refusal(start + repeated * 10_000 + end).message
    assert "more than 64 levels deep" in message or "is not JSON" in message


def test_depth_error_points_at_the_bracket_that_is_too_much() -> None:
    """The offset of a nesting error is that of the first bracket over the limit."""
    assert refusal("a || ((((b))))", max_depth=3).offset == 8


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        (" || ".join(["x"] * 1000) + " || a", 1),
        (" && ".join(["a"] * 1000), 1),
        (" | ".join(["@"] * 1000) + " | a", 1),
        ("a" + ".b" * 1000, None),
        ("(" * 60 + "a" + ")" * 60, 1),
    ],
    ids=["or", "and", "pipe", "path", "parentheses"],
)
def test_long_chains_are_not_nesting(source: str, answer: Json) -> None:
    """A long chain of one operator compiles and runs, however many operands it has."""
    assert compile_expression(source, STANDARD, max_length=100_000)({"a": 1}) == answer


def test_length_is_limited() -> None:
    """A source longer than the limit is refused at the limit; by default that is 4096 characters."""
    assert refusal("a" * 11, max_length=10).offset == 10
    assert compile_expression("a" * 4096, STANDARD)({}) is None
    with pytest.raises(ExpressionSyntaxError, match="4097 characters, at most 4096"):
        compile_expression("a" * 4097, STANDARD)


def test_index_with_too_many_digits_is_refused_or_out_of_range() -> None:
    """An absurd index is null or a syntax error, as Python's own limit on digits has it."""
    assert compile_expression("a[99999999999999999999]", STANDARD)({"a": [1]}) is None
    try:
        answer = compile_expression(f"a[{'9' * 5000}]", STANDARD, max_length=10_000)({"a": [1]})
    except ExpressionSyntaxError as error:
        answer = None
        assert "too many digits" in error.message  # noqa: PT017 - which Python patch has the limit is not ours to say
    assert answer is None


def test_quotes_and_escapes_in_literals() -> None:
    """Escaped delimiters and delimiters of another kind inside a quoted part do not end it."""
    source = r"""["x`'y", 'it\'s `"', `"a\`b'"`]"""
    assert compile_expression(source, STANDARD)({"x`'y": 1}) == [1, "it's `\"", "a`b'"]
