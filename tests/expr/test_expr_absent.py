"""An expression without what hangs on names that are known to be null gives what it gave."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.expr import STANDARD, ExpressionError, ExpressionSyntaxError, compile_expression
from proxy.expr.absent import without
from proxy.expr.nodes import Node
from proxy.expr.parse import parse
from proxy.types import Json
from tests.expr.test_expr_oracle import expressions, roots

ABSENT = frozenset({"a", "c"})


def short(source: str) -> Node:
    return without(parse(source, max_length=1000, max_depth=64), ABSENT)


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("a", "`null`"),
        ("a.x", "`null`"),
        ("a[0].x", "`null`"),
        ("b.a", "b.a"),
        ("!a", "`true`"),
        ("!a || b", "`true`"),
        ("!c || !(b.c)", "`true`"),
        ("a && b", "`null`"),
        ("a || b", "b"),
        ("a && x || b", "b"),
        ("b || a || x", "b || x"),
        ("b || a", "b || `null`"),
        ("b && !a && x", "b && x"),
        ("b && a && x", "b && `null`"),
        ("join('', [b, a || ''])", "join('', [b, ''])"),
        ("{x: a, y: b || a}", "{x: `null`, y: b || `null`}"),
        ("b[?a]", "b[?a]"),
        ("b | a", "b | a"),
        ("a      | to_string(@)", "`null` | to_string(@)"),
        ("a[*].x", "`null`[*].x"),
        ("@.a", "`null`"),
        ("map(&a, b)", "map(&a, b)"),
    ],
)
def test_what_is_left(source: str, left: str) -> None:
    """Names inside something else are other names."""
    assert short(source) == parse(left, max_length=1000, max_depth=64)


@settings(max_examples=300, deadline=None)
@given(expressions, roots, st.booleans())
def test_the_shorter_one_gives_the_same(source: str, document: Json, there: bool) -> None:
    """On any document in which these names are null or not there, also where it fails."""
    if isinstance(document, dict):
        document = {name: value for name, value in document.items() if name not in ABSENT}
        document |= dict.fromkeys(ABSENT) if there else {}
    try:
        whole = compile_expression(source, STANDARD)
        shorter = compile_expression(source, STANDARD, absent=ABSENT)
    except ExpressionSyntaxError:
        return
    try:
        expected = whole(document)
    except ExpressionError:
        with pytest.raises(ExpressionError):
            shorter(document)
        return
    assert shorter(document) == expected
    assert shorter.known is None or shorter.known == [expected]
