from __future__ import annotations

import pytest

from proxy.expr import STANDARD, ExpressionError, ExpressionSyntaxError, compile_expression
from proxy.types import Json


@pytest.mark.parametrize(
    ("source", "offset", "message"),
    [
        ("a || befor(b, 'x')", 5, "there is no function befor(); did you mean before()?"),
        ("zzzzzz(b)", 0, "there is no function zzzzzz()"),
        ("a.abs()", 2, "abs() takes 1 argument, not 0: abs(number: number) -> number"),
        ("before(a)", 0, "before() takes 2 arguments, not 1"),
        ("get(a)", 0, "get() takes 2 to 3 arguments, not 1"),
        ("not_null()", 0, "not_null() takes 1 or more arguments, not 0"),
        ("length(a) == length(`1`)", 13, "length(): argument 1 (subject) must be a string or an array or an object"),
        ("truncate(a, `1.5`)", 0, "argument 2 (characters) must be a number without a fraction, not the number 1.5"),
        ("chunked(a, `0`)", 0, "argument 2 (size) must be a number without a fraction, 1 or more, not the number 0"),
        ("add(a, `true`)", 0, "argument 2 (b) must be a number, not boolean"),
        ('join(a, `["x", 1]`)', 0, "must be an array of strings, not an array of number and string"),
        ("map(a, b)", 0, "argument 1 (expression) must be an expression written with &, not a value"),
        ("a[?abs(b) == `1`].lenth(c)", 18, "did you mean length()?"),
        ("a[?lenth(b)].abs(c)", 3, "did you mean length()?"),
        ("length(&a)", 0, "not an expression written with &"),
        ("not_null(&a)", 0, "not an expression written with &"),
        ("a[?b].[c, &d]", 10, "can only be an argument of a function"),
    ],
)
def test_wrong_call_is_found_when_compiling(source: str, offset: int, message: str) -> None:
    """A call that can never succeed is a syntax error at the function's name, before any document is seen."""
    with pytest.raises(ExpressionSyntaxError) as caught:
        compile_expression(source, STANDARD)
    assert caught.value.offset == offset
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("source", "document", "message"),
    [
        (
            "length(a)",
            {"a": None},
            "length(): argument 1 (subject) must be a string or an array or an object, not null",
        ),
        ("before(a, b)", {"a": "x", "b": 1}, "before(): argument 2 (separator) must be a string, not the number 1"),
        ("add(a, `1`)", {"a": True}, "add(): argument 1 (a) must be a number, not boolean"),
        ("replace(a, 'x', b)", {"a": "x", "b": []}, "replace(): argument 3 (new) must be a string, not an empty array"),
        ("a < b", {"a": 1, "b": "1"}, "a number and a string cannot be compared with <"),
        ("a >= `1`", {"a": "1"}, "a string and a number cannot be compared with >="),
        ("sort_by(a, &b)", {"a": [{"b": 1}, {"b": "1"}]}, "sort_by(): argument 2 (key) must give all numbers or all"),
        ("max_by(a, &b)", {"a": [{"b": None}]}, "max_by(): argument 2 (key) must give a number or a string, not null"),
        ("contains(a, b)", {"a": "1", "b": 1}, "contains(): argument 2 (search) must be a string in a string"),
        ("map(&abs(@), a)", {"a": ["secret"]}, "abs(): argument 1 (number) must be a number, not string"),
    ],
)
def test_run_time_error_names_function_position_and_types(source: str, document: Json, message: str) -> None:
    """A value of a wrong type raises ExpressionError that says where and what, and repeats no text of the document."""
    with pytest.raises(ExpressionError) as caught:
        compile_expression(source, STANDARD)(document)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("source", ["a == b", "a != `[1]` && a == b", "to_json(a)", "unique([a])", "contains([a], b)"])
def test_endlessly_nested_document_raises_expression_error(source: str) -> None:
    """A document nested deeper than the interpreter allows is an ExpressionError, not a RecursionError."""
    one: Json = None
    two: Json = None
    for _ in range(50_000):
        one, two = [one], [two]
    with pytest.raises(ExpressionError, match="nested too deeply"):
        compile_expression(source, STANDARD)({"a": one, "b": two})


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("a", ("a",)),
        ("a.b.c.d", ("a", "b", "c", "d")),
        ('a."b c"."a"', ("a", "b c", "a")),
        ("(a.b).c", ("a", "b", "c")),
        ("@", None),
        ("a[0]", None),
        ("a[*].b", None),
        ("a || b", None),
        ("'a'", None),
        ("a.length(@)", None),
    ],
)
def test_path_is_set_for_plain_dotted_paths_only(source: str, path: tuple[str, ...] | None) -> None:
    """`path` holds the names of a plain path, quoted names included, and is None for everything else."""
    assert compile_expression(source, STANDARD).path == path


def test_plain_path_reads_nested_objects_and_is_null_elsewhere() -> None:
    """Paths of one, two and more names read through objects only."""
    document: Json = {"a": {"b": {"c": {"d": 1}}}, "l": [{"a": 1}], "s": "text"}
    answers = {"a.b.c.d": 1, "a.b.c": {"d": 1}, "a.b": {"c": {"d": 1}}, "a.x.c.d": None, "l.a": None, "s.a.b.c": None}
    assert {source: compile_expression(source, STANDARD)(document) for source in answers} == answers


def test_expression_keeps_its_source() -> None:
    """The source is there for whoever reports about an expression."""
    expression = compile_expression("a || b", STANDARD)
    assert expression.source == "a || b"
    assert repr(expression) == "Expression('a || b')"
