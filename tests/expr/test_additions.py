from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.expr import STANDARD, ExpressionError, ExpressionSyntaxError, compile_expression
from proxy.expr.additions import _replace
from proxy.expr.array_functions import _repeated
from proxy.types import Json

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text("ab,:é😀 ", max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from([0, 1, 1.0, -1, ""]) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "add", "subtract", "multiply", "divide", "lesser", "greater", "utf8_length", "lower", "upper", "trim", "split",
    "replace", "before", "after", "between", "truncate", "unique", "compact", "index_of", "chunked", "parse_json",
    "to_json", "is_integer", "get", "iso_time", "repeated",
]  # fmt: skip
# What a floating-point number of seconds cannot tell apart in the year 9999, and a microsecond.
QUANTUM = timedelta(microseconds=64)
quick = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])


def call(name: str, *arguments: Json) -> Json:
    """Call a function with values as its arguments."""
    source = f"{name}({', '.join(f'[{place}]' for place in range(len(arguments)))})"
    return compile_expression(source, STANDARD)(list(arguments))


@settings(quick, max_examples=300)
@given(st.sampled_from(NAMES), st.lists(VALUES, max_size=3))
def test_answer_is_json_or_a_typed_refusal(name: str, arguments: list[Json]) -> None:
    """With any arguments a function gives a JSON value or an error that begins with its name."""
    try:
        answer = call(name, *arguments)
    except (ExpressionError, ExpressionSyntaxError) as error:
        assert str(error).startswith(f"{name}()")  # noqa: PT017 - both outcomes are right, depending on the types
        return
    json.dumps(answer, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "a", "b", "answer"),
    [
        ("add", 2**63, 2**63, float(2**64)),
        ("add", 0.1, 0.2, 0.1 + 0.2),
        ("subtract", -(2**63), 1, -float(2**63)),
        ("multiply", 2**32, 2**32, float(2**64)),
        ("multiply", 10**300, 10**300, None),
        ("multiply", 1e300, 1e300, None),
        ("divide", 1, 0, None),
        ("divide", 1.5, 0.0, None),
        ("divide", -7, 7, -1),
        ("divide", 6.0, 3, 2.0),
        ("divide", 1e300, 1e-300, None),
        ("lesser", 2, 2.5, 2),
        ("greater", 2, 2.5, 2.5),
    ],
)
def test_arithmetic_stays_on_the_wire(name: str, a: float, b: float, answer: Json) -> None:
    """Results are numbers that a JSON writer takes: 64-bit integers, finite floating-point numbers, or null."""
    assert repr(call(name, a, b)) == repr(answer)


@quick
@given(NUMBERS, NUMBERS)
def test_quotient_times_divisor_is_the_dividend(a: float, b: float) -> None:
    """divide gives null exactly for a divisor of 0 or a quotient beyond all numbers, and else the quotient."""
    quotient = call("divide", a, b)
    if b == 0 or not math.isfinite(float(a) / float(b)):
        assert quotient is None
    else:
        assert quotient == pytest.approx(float(a) / float(b))


@quick
@given(TEXT, TEXT.filter(bool))
def test_text_is_cut_at_the_first_separator(text: str, separator: str) -> None:
    """before, separator and after make the text again; the pieces of split make it too."""
    before, after, pieces = (
        call("before", text, separator),
        call("after", text, separator),
        call("split", text, separator),
    )
    assert isinstance(before, str)
    assert isinstance(after, str)
    if separator in text:
        assert before + separator + after == text
        assert separator not in before
    else:
        assert (before, after) == (text, "")
    assert call("join", separator, pieces) == text


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("a", "", "b"), "a"),
        (("aXbXc", "X", ""), "abc"),
        (("aaa", "aa", "b"), "ba"),
        (("", "a", "b"), ""),
    ],
)
def test_replace(arguments: tuple[str, ...], answer: str) -> None:
    """replace goes from left to right, never over its own result, and leaves the text alone for an empty old."""
    assert call("replace", *arguments) == answer


def test_replace_has_a_limit() -> None:
    """A result over the limit is an error instead of a full memory."""
    assert _replace("aaa", "a", "bb", limit=6) == "bbbbbb"
    with pytest.raises(ExpressionError, match="more than 5 characters"):
        _replace("aaa", "a", "bb", limit=5)
    with pytest.raises(ExpressionError, match="more than"):
        call("replace", "a" * 100_000, "a", "b" * 100_000)


@pytest.mark.parametrize(
    ("array", "times", "answer"),
    [(["a", [1]], 2, ["a", "a", [1], [1]]), ([], 10**15, []), (["a"], -1, []), ([1], 2.0, [1, 1])],
)
def test_repeated(array: list[Json], times: float, answer: Json) -> None:
    assert call("repeated", array, times) == answer


def test_repeated_has_a_limit() -> None:
    """Array and number can both come from a client."""
    assert _repeated([1, 2], 2, limit=4) == [1, 1, 2, 2]
    with pytest.raises(ExpressionError, match="more than 3 elements"):
        _repeated([1, 2], 2, limit=3)
    with pytest.raises(ExpressionError):
        call("repeated", [1], 10**12)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("a<x>b", "x"), ("<<x>>", "<x"), ("><", None), ("<>", ""), ("none", None), ("a<x", None)],
)
def test_between(text: str, answer: Json) -> None:
    """between takes the first opening and the first closing after it."""
    assert call("between", text, "<", ">") == answer


def test_empty_separators() -> None:
    """An empty separator is found at the start of every text."""
    assert call("before", "ab", "") == ""
    assert call("after", "ab", "") == "ab"
    assert call("between", "ab", "", "b") == "a"
    assert call("split", "", "") == []


def test_truncate_counts_characters() -> None:
    """truncate counts characters, takes 2.0 for 2, and gives an empty string below 1."""
    assert [call("truncate", "é😀x", count) for count in (2, 2.0, 0, -5, 1e300)] == ["é😀", "é😀", "", "", "é😀x"]
    with pytest.raises(ExpressionError, match="without a fraction"):
        call("truncate", "abc", 1.5)


def test_lengths_of_text() -> None:
    """utf8_length counts bytes, of lone surrogates too."""
    assert [call("utf8_length", text) for text in ("abc", "é😀", "\ud800", "")] == [3, 6, 3, 0]


def test_unique_uses_json_equality() -> None:
    """1 and true differ, 1 and 1.0 are equal, also inside arrays and objects; the order of keys does not matter."""
    array: Json = [
        1,
        True,
        1.0,
        0,
        False,
        None,
        "1",
        [1],
        [True],
        [1.0],
        {"a": 1, "b": 2},
        {"b": 2, "a": 1},
        {"a": True},
    ]
    kept = [1, True, 0, False, None, "1", [1], [True], {"a": 1, "b": 2}, {"a": True}]
    assert repr(call("unique", array)) == repr(kept)


def test_index_of_uses_json_equality() -> None:
    """index_of finds equal JSON values and does not take 1 for true."""
    array: Json = [True, 1, [False], [0], {"a": None}]
    wanted: list[Json] = [True, 1, 1.0, [0], {"a": None}, False, "x"]
    found = [call("index_of", array, value) for value in wanted]
    assert found == [0, 1, 1, 3, 4, None, None]


def test_compact_keeps_zero_and_false() -> None:
    """compact removes nulls and empty strings and nothing else."""
    assert repr(call("compact", [None, "", 0, False, [], {}, " "])) == repr([0, False, [], {}, " "])


@quick
@given(st.lists(st.integers(), max_size=9), st.integers(1, 5))
def test_chunks_make_the_array(array: list[Json], size: int) -> None:
    """The chunks in order are the array, all but the last of the given size."""
    chunks = call("chunked", array, size)
    assert isinstance(chunks, list)
    assert [item for chunk in chunks if isinstance(chunk, list) for item in chunk] == array
    assert all(isinstance(chunk, list) and len(chunk) == size for chunk in chunks[:-1])
    assert [] not in chunks


@quick
@given(VALUES)
def test_json_text_is_read_back(value: Json) -> None:
    """parse_json gives back what to_json wrote."""
    assert repr(call("parse_json", call("to_json", value))) == repr(value)


@pytest.mark.parametrize("text", ["", "{", "NaN", "Infinity", "{'a': 1}", "[1,]", "\ud800", "[" * 100_000])
def test_parse_json_of_other_text_is_null(text: str) -> None:
    """What is not JSON gives null, however it is broken."""
    assert call("parse_json", text) is None


def test_get_takes_the_default_for_an_absent_key_only() -> None:
    """A key whose value is null is there; only an absent key gives the default."""
    assert call("get", {"a": None}, "a", 1) is None
    assert call("get", {"a": None}, "b", 1) == 1
    with pytest.raises(ExpressionError, match=r"get\(\): argument 2 \(key\) must be a string, not null"):
        call("get", {}, None, 1)


def test_is_integer() -> None:
    """Numbers without a fraction are integers, booleans and text are not."""
    assert [call("is_integer", value) for value in (1, -1.0, 1.5, True, "1", None)] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


@quick
@given(st.integers(-62135596800 * 1_000_000, 253402300799 * 1_000_000))
def test_times_are_those_of_the_calendar(microseconds: int) -> None:
    """iso_time gives the date and the time of day that Python's calendar has, to the microsecond before."""
    seconds, micro = divmod(microseconds, 1_000_000)
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    assert call("iso_time", seconds) == f"{moment.replace(tzinfo=None).isoformat()}.000000Z"
    text = call("iso_time", seconds + micro / 1_000_000)
    assert isinstance(text, str)
    assert abs(datetime.fromisoformat(text.replace("Z", "+00:00")) - moment - timedelta(microseconds=micro)) < QUANTUM


@quick
@given(NUMBERS)
def test_a_time_no_calendar_has_is_null(seconds: float) -> None:
    """iso_time gives null outside of the years 1 to 9999, and a text within."""
    assert (call("iso_time", seconds) is None) == (not -62135596800 <= seconds < 253402300800)
