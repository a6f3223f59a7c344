from __future__ import annotations

import pytest
from jmespath.functions import Functions

from proxy.expr import STANDARD, ExpressionError, compile_expression
from proxy.expr.standard import _join


def test_every_function_of_the_library_is_there() -> None:
    """No function of the installed jmespath library is missing."""
    assert set(Functions.FUNCTION_TABLE) <= set(STANDARD.names)


@pytest.mark.parametrize("second", [None, [], "", [["a", 1]], ["ab"], 1])
def test_merge_takes_objects_only(second: object) -> None:
    """merge refuses what is no object in every position, where the library would take a list of pairs."""
    with pytest.raises(ExpressionError, match=r"argument 2 \(objects\) must be an object"):
        compile_expression("merge(a, b)", STANDARD)({"a": {}, "b": second})  # type: ignore[dict-item]


def test_join_has_a_limit() -> None:
    """A long glue between many strings is an error instead of a full memory."""
    assert _join("--", ["a", "b"], limit=6) == "a--b"
    with pytest.raises(ExpressionError, match="more than 5 characters"):
        _join("--", ["a", "b"], limit=5)
    with pytest.raises(ExpressionError, match="more than"):
        compile_expression("join(a, b)", STANDARD)({"a": "x" * 100_000, "b": [""] * 100_000})


def test_functions_leave_their_arguments_alone() -> None:
    """sort, sort_by, reverse, merge and unique answer with new values."""
    document = {"a": [3, 1, 2], "o": {"x": 1}}
    before = repr(document)
    for source in ("sort(a)", "sort_by(a, &@)", "reverse(a)", 'merge(o, `{"x": 2}`)', "unique(a)"):
        compile_expression(source, STANDARD)(document)  # type: ignore[arg-type]
    assert repr(document) == before
