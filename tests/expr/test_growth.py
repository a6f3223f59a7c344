"""Expressions that double what they read, over and over."""

from __future__ import annotations

import pytest

from proxy.expr import STANDARD, ExpressionSyntaxError, compile_expression

DOUBLED = "a" + "|[@, @]" * 9


@pytest.mark.parametrize(
    "source",
    [
        "a" + "|[@, @]" * 40,
        "[a]" + "|[@, @][]" * 12,
        "a" + "|{x: @, y: @}" * 12,
        "a[*]" + ".[@, @]" * 12,
        "a" + "|merge({x: @}, {y: @})" * 12,
        "map(&[@, @]|[@, @]|[@, @]|[@, @]|[@, @]|[@, @], a)|map(&[@, @]|[@, @]|[@, @]|[@, @], @)",
        "a" + "|to_json(@)" * 12,
        f"({DOUBLED}|[@, @]) == a",
        f"a[?({DOUBLED}|[@, @])]",
        "[" + ", ".join(["replace(a, 'x', 'yy')"] * 30) + "]",
    ],
)
def test_what_could_fill_the_memory_is_refused(source: str) -> None:
    """A short expression can make a document a million times as large, without a loop; it is refused unevaluated."""
    with pytest.raises(ExpressionSyntaxError, match="more than 1,000 times over"):
        compile_expression(source, STANDARD)


@pytest.mark.parametrize(
    "source",
    [
        DOUBLED,
        "a" + "|[@]" * 500,
        "a" + ".b" * 1000,
        "[" + ", ".join(["a"] * 900) + "]",
        "join('', [replace(a, 'x', 'y'), replace(b, 'x', 'y'), replace(replace(c, 'x', 'y'), 'z', 'x')])",
        "a || b || [a, b] || {x: a[?b == `1`].[c, d], y: sort_by(a, &b)}",
    ],
)
def test_what_people_write_is_not(source: str) -> None:
    """Long chains, many fields, several texts made anew."""
    assert compile_expression(source, STANDARD).source == source


def test_what_is_only_judged_is_no_copy() -> None:
    """A comparison of large values gives a boolean."""
    condition = f"({DOUBLED}) == a"
    assert compile_expression(f"[{condition}, {condition}, {condition}]", STANDARD)({"a": 1}) == [False] * 3
