"""The jmespath library is asked for the answer to generated expressions on generated documents."""

from __future__ import annotations

import json
import warnings

import jmespath
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from jmespath.functions import Functions

from proxy.expr import STANDARD, ExpressionError, ExpressionSyntaxError, compile_expression
from proxy.types import Json

REFUSED = "refused"
NAMES = ["a", "b", "c", '"a"', '"b c"']
SCALARS: list[Json] = [None, True, False, 0, 1, -1, 2, 0.0, 1.0, 0.5, "", "a", "b", "1", "ab"]
LITERALS = [
    "`null`", "`true`", "`false`", "`0`", "`1`", "`2`", "`0.0`", "`1.0`", "`-1.5`", "`\"\"`", "'a'", "''", "'ab'",
    "`[]`", "`{}`", "`[1]`", "`[true]`", "`[[1], [2]]`", '`{"a": 1}`', '`[{"a": 0}, {"a": 1}]`', "`[\"a\", \"b\"]`",
]  # fmt: skip
SUFFIXES = [
    ".a", ".b", '."b c"', "[0]", "[1]", "[-1]", "[5]", "[*]", "[]", ".*", "[*].a", "[].b", ".*.a", "[0:1]", "[::-1]",
    "[-2:]", "[:1:2]", "[1:].a", "[?@]", "[?a]", "[?a == `1`].b", "[?b > `0`]", "[?!a]", "[?a && b]", "[?a || `0`].c",
    ".[a, b]", ".{x: a, y: b}", " | a", " | [0]", " | @", ".{x: @}",
]  # fmt: skip
TOKENS = [
    "a", "b", ".", "*", "[", "]", "[]", "[?", "{", "}", "(", ")", ":", ",", "@", "!", "&", "&&", "||", "|", "==", "<",
    "=", "-", "0", "-1", "'x'", '"a"', "`1`", "'", '"', "`", "\\", "é", " ", "length(", "map(&",
]  # fmt: skip
# Reasons to refuse a source that the library parses: it finds these later, or reads a literal in the deprecated way.
STRICTER = ("is not JSON", "no function", "() takes", "): argument", "written with &", "the step")
OPERATORS = ["==", "!=", "<", "<=", ">", ">=", "||", "&&", "|"]
ONE_ARGUMENT = [
    "abs", "avg", "ceil", "floor", "keys", "length", "max", "merge", "min", "not_null", "reverse", "sort", "sum",
    "to_array", "to_number", "to_string", "type", "values",
]  # fmt: skip
TWO_ARGUMENTS = ["contains", "ends_with", "join", "not_null", "starts_with"]
BY_KEY = ["max_by", "min_by", "sort_by"]

documents = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c", "b c"]), inner, max_size=4)
    ),
    max_leaves=12,
)
records = st.lists(st.fixed_dictionaries({"a": st.sampled_from(SCALARS), "b": documents}), max_size=4)
roots = documents | st.fixed_dictionaries({"a": documents | records, "b": documents, "c": records, "b c": documents})


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(inner, st.sampled_from(SUFFIXES)).map("".join),
        st.tuples(inner, st.sampled_from(SUFFIXES), st.sampled_from(SUFFIXES)).map("".join),
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(" ".join),
        inner.map("!{}".format),
        inner.map("({})".format),
        pairs.map(lambda pair: "{}[?{}]".format(*pair)),
        pairs.map(lambda pair: "[{}, {}]".format(*pair)),
        pairs.map(lambda pair: "{{x: {}, y: {}}}".format(*pair)),
        pairs.map(lambda pair: "merge({}, {{z: {}}})".format(*pair)),
        pairs.map(lambda pair: "map(&{}, {})".format(*pair)),
        st.tuples(st.sampled_from(ONE_ARGUMENT), inner).map(lambda parts: "{}({})".format(*parts)),
        st.tuples(st.sampled_from(TWO_ARGUMENTS), inner, inner).map(lambda parts: "{}({}, {})".format(*parts)),
        st.tuples(st.sampled_from(BY_KEY), inner, inner).map(lambda parts: "{}({}, &{})".format(*parts)),
    )


expressions = st.recursive(
    st.sampled_from(NAMES)
    | st.sampled_from([*NAMES, "@", "*", "[0]", "[*]", "[]", "[?a]", "a.b", "a[0].b", *LITERALS]),
    _combined,
    max_leaves=6,
)
quick = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def library_parses(source: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            jmespath.compile(source)
        except Exception:
            return False
    return True


def syntax_error(source: str) -> ExpressionSyntaxError | None:
    try:
        compile_expression(source, STANDARD)
    except ExpressionSyntaxError as error:
        return error
    return None


def ask_library(source: str, document: Json) -> str:
    """Return the library's answer as text that tells 1, 1.0 and true apart, or REFUSED for any exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return repr(jmespath.search(source, document))
        except Exception:
            return REFUSED


def ask(source: str, document: Json) -> str:
    """Return the answer in the same form."""
    try:
        return repr(compile_expression(source, STANDARD)(document))
    except (ExpressionError, ExpressionSyntaxError):
        return REFUSED


FIXED_DOCUMENT: Json = {
    "n": [None, 0, None, 1, "", False],
    "r": [{"a": 1, "b": None}, None, {"a": None, "b": 2}, {"a": 0}, 7, {"a": [1, [2]], "b": [None, 3]}],
    "o": {"x": None, "y": {"a": 1}, "z": [None]},
}


@pytest.mark.parametrize("source", ["n", "r", "o", "missing"])
@pytest.mark.parametrize(
    "suffix",
    [
        "[*]",
        "[*].a",
        "[*].b",
        "[]",
        "[].a",
        "[].b[]",
        "[?`true`]",
        "[?`true`].a",
        "[?@]",
        "[?a]",
        "[?!a].b",
        "[?a == `0`]",
        "[?a != `1`].b",
        "[?b == `null`].a",
        ".*",
        ".*.a",
        "[*].[a, b]",
        "[*].{a: a, b: @}",
        "[1:]",
        "[::2].a",
        "[-1].b",
        "[*].b[0]",
        "[*].b | [0]",
        "[?type(@) == 'object'].a",
        ".[@, x]",
        ".{x: x, y: y}",
        " | map(&a, @)",
    ],
)
def test_nulls_are_dropped_and_kept_like_the_librarys(source: str, suffix: str) -> None:
    """Projections and filters drop nulls from their results, map and multi-selects keep them."""
    assert ask(source + suffix, FIXED_DOCUMENT) == ask_library(source + suffix, FIXED_DOCUMENT)


@quick
@given(expressions, roots)
def test_answer_is_the_librarys(source: str, document: Json) -> None:
    """Every expression has the library's answer on every document, or is refused where the library refuses it."""
    refusal = syntax_error(source)
    if refusal and "): argument" in refusal.message:
        reject()  # refused before any document is seen; the library finds it only when it comes to the call
    assert ask(source, document) == ask_library(source, document)


@quick
@given(
    st.sampled_from(sorted(Functions.FUNCTION_TABLE)), st.lists(st.sampled_from([*LITERALS, "&a", "&@"]), max_size=3)
)
def test_call_with_literals_is_refused_like_the_librarys(name: str, arguments: list[str]) -> None:
    """A call of a built-in function with literals is refused exactly when the library refuses it."""
    if name == "merge" and any(each[:2] != "`{" for each in arguments[1:]):
        reject()  # the library checks only the first argument of merge
    if any(each[0] == "&" for each in arguments) and name in ("contains", "not_null", "to_array", "to_string", "type"):
        reject()  # the library lets an unevaluated expression through as a value
    source = f"{name}({', '.join(arguments)})"
    assert ask(source, {}) == ask_library(source, {})


@quick
@given(st.sampled_from(SCALARS), st.sampled_from(OPERATORS), st.sampled_from(SCALARS))
def test_operators_on_scalars(left: Json, operator: str, right: Json) -> None:
    """Comparison and truth tell 0, 0.0, false, null and the empty string apart, as literals and as fields."""
    document: Json = {"l": left, "r": right}
    one, two = f"`{json.dumps(left)}`", f"`{json.dumps(right)}`"
    for source in (f"l {operator} r", f"l {operator} {two}", f"{one} {operator} r", f"!l {operator} !r"):
        assert ask(source, document) == ask_library(source, document)
        assert ask(f"[?{source}]", [document]) == ask_library(f"[?{source}]", [document])


@quick
@given(st.lists(st.sampled_from(TOKENS), max_size=9).map("".join))
def test_nonsense_is_refused_where_the_library_refuses_it(source: str) -> None:
    """A source the library cannot parse is a syntax error, and nothing else escapes the compiler."""
    refusal = syntax_error(source)
    if refusal is None:
        assert library_parses(source)
    else:
        assert 0 <= refusal.offset <= len(source)
        assert any(reason in refusal.message for reason in STRICTER) or not library_parses(source), refusal
