from __future__ import annotations

import json
from typing import cast

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.documents import DocumentError, parse_yaml, read_yaml
from proxy.documents.nodes import is_odd
from proxy.limits import YAML_MAX_BYTES, YAML_MAX_DEPTH, YAML_MAX_VALUES
from proxy.ruleset import shipped_rules
from proxy.types import Json


def read(text: str) -> Json:
    return parse_yaml(text, "f.yaml").value


def mistakes(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text, "f.yaml")
    return [str(entry).removeprefix("f.yaml:") for entry in caught.value.diagnostics]


@pytest.mark.parametrize(
    "word",
    [
        "on",
        "off",
        "yes",
        "no",
        "On",
        "NO",
        "y",
        "n",
        "12:30",
        "e5",
        "-E0",
        "1:2:3",
        "2024-01-02",
        "2024-01-02T03:04:05Z",
        "=",
    ],
)
def test_a_word_that_other_readers_change_stays_text(word: str) -> None:
    """What a plain load turns into a boolean, a number of minutes or a date is the text that was written."""
    assert read(f"a: {word}") == {"a": word}


@pytest.mark.parametrize(
    "word",
    [
        *["1.10", "2.50", "007", "0o7", "0x1f", "0X1F", "0b11", "1_000", "1_0.5", "+5", "-0", "1.", "00.5"],
        *[".inf", "-.inf", ".NaN", "1e999", "1e-999", "18446744073709551616", "0.1234567890123456789"],
        *["True", "FALSE", "Null", "NULL"],
    ],
)
def test_a_word_that_would_be_read_as_something_else_is_refused(word: str) -> None:
    """A number that loses what was written, and a word that only some readers take for a number, must be quoted."""
    assert mistakes(f"a: 1\nb: {word}") == [
        f"2:4: '{word}' means different things to different readers of YAML; put it in quotes if it is text, "
        "else write a plain decimal number, true, false or null"
    ]
    assert read(f"b: '{word}'") == {"b": word}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *[
            ("0", 0),
            ("-12", -12),
            ("0.5", 0.5),
            (".5", 0.5),
            ("-.25", -0.25),
            ("2.0", 2.0),
            ("1e5", 1e5),
            ("1e-05", 1e-5),
        ],
        *[("18446744073709551615", 2**64 - 1), ("-9223372036854775808", -(2**63)), ("3.14e+2", 314.0)],
        *[("true", True), ("false", False), ("null", None), ("~", None), ("", None), ("1.2.3", "1.2.3"), (".", ".")],
    ],
)
def test_plain_scalars(word: str, value: Json) -> None:
    """Decimal numbers, true, false and null are read as such, with the type that was written."""
    found = cast("dict[str, Json]", read(f"a: {word}"))["a"]
    assert (found, type(found)) == (value, type(value))


def test_a_key_that_stands_twice_is_shown_at_both_places() -> None:
    """Equal keys are a mistake at any depth, with the place of the first."""
    assert mistakes("a:\n  - b: {c: 1, c: 2}\n    d: 1\n    d: 2\na: 3") == [
        "2:15: the key 'c' stands here twice; first at line 2, column 9",
        "4:5: the key 'd' stands here twice; first at line 3, column 5",
        "5:1: the key 'a' stands here twice; first at line 1, column 1",
    ]


def test_keys_that_differ_only_in_quotes_are_the_same() -> None:
    """Quotes do not make another key."""
    assert mistakes("a: 1\n'a': 2") == ["2:1: the key 'a' stands here twice; first at line 1, column 1"]


NO_KEY = "a key must be a plain word or a quoted string"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x 1\nb: *x", ["1:4", "2:4"]),
        ("<<: {a: 1}\nb: 2", ["1:1: merge keys (<<) are not used in these files; write the keys out"]),
        ("a: !!str 1\nb: !mine {}", ["1:4: tags such as 'tag:yaml.org,2002:str' are not used", "2:4: tags"]),
        ("a: 1\n---\nb: 2", ["2:1: a second YAML document; one file holds one document"]),
        ("a:\n\tb: 1", ["2:1: not YAML: found character '\\t' that cannot start any token"]),
        ("~: 1", [f"1:1: {NO_KEY}"]),
        ("? \n: 1", [f"1:2: {NO_KEY}"]),
        ("a:\n  ? [1, 2]\n  : 3", [f"2:5: {NO_KEY}"]),
        ("{a: 1, {b: 2}: 3}", [f"1:8: {NO_KEY}"]),
        ("a: 'x", ["1:6: not YAML: found unexpected end of stream"]),
        ("a: b: c", ["1:5: not YAML: mapping values are not allowed here"]),
        ("a: 1\nb\x00: 1", ["2:2: the character U+0000 cannot stand in a YAML file"]),
        ('a: "\\ud83d"', ["1:4: half a surrogate pair"]),
        ('a: "\\UFFFFFFFF"', ["1:1: not YAML"]),
        ("%YAML 1." + "9" * 5000 + "\n---\na", ["1:1: not YAML"]),
    ],
)
def test_what_is_not_a_plain_document_is_refused(text: str, expected: list[str]) -> None:
    """Anchors, merge keys, tags, further documents, tabs, odd keys and broken text, each with its place."""
    found = mistakes(text)
    assert len(found) == len(expected)
    for got, start in zip(found, expected, strict=True):
        assert got.startswith(start)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "clamp: {max: not_null(a, b)}",
            "1:26: 'b)' has no value; inside {...} a comma ends a value: put a value that",
        ),
        ("{from: to_array(a)[0]}", "1:19: not YAML: expected ',' or '}', but got '['; inside {...} and [...] a value"),
        ("{a, b: 1}", "1:2: 'a' has no value"),
    ],
)
def test_the_comma_trap_is_explained(text: str, expected: str) -> None:
    """An expression with a comma or a bracket inside {...} is cut by YAML; the message says what to do."""
    assert mistakes(text)[0].startswith(expected)


def test_a_written_empty_value_in_braces_is_null() -> None:
    """Only a key without its colon is taken for the rest of a cut value."""
    assert read("{a: , b: ~}") == {"a": None, "b": None}


@pytest.mark.parametrize("text", ["", "# only a comment", "---", "\ufeff"])
def test_an_empty_file_is_null(text: str) -> None:
    """A file without a value is null, not a failure."""
    assert read(text) is None


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    """A file that some editor began with a mark reads as without it, and its places are the same."""
    document = parse_yaml("\ufeffa: 1", "f")
    assert (document.value, document.keys[("a",)]) == ({"a": 1}, (1, 1))


def test_depth_is_bounded_without_building_anything() -> None:
    """A very deep document is refused at the level that is too many."""
    assert read("[" * YAML_MAX_DEPTH + "]" * YAML_MAX_DEPTH) is not None
    assert mistakes("[" * 20_000) == [f"1:{YAML_MAX_DEPTH + 1}: nested deeper than {YAML_MAX_DEPTH} levels"]


def test_size_is_bounded() -> None:
    """A file over the limit is refused unread."""
    assert mistakes("a: 1\n" + "#" * YAML_MAX_BYTES) == [
        f"1:1: the file is over the limit of {YAML_MAX_BYTES} characters"
    ]


def test_the_number_of_values_is_bounded() -> None:
    """What a file makes in memory is far larger than its text; a list of a million numbers is refused in its midst."""
    wanted = f"more than {YAML_MAX_VALUES:,} values"
    assert mistakes("[" + "1," * YAML_MAX_VALUES + "]") == [f"1:{2 * YAML_MAX_VALUES}: {wanted}"]
    assert mistakes("# \t\n" + "- 1\n" * YAML_MAX_VALUES) == [f"{YAML_MAX_VALUES + 1}:3: {wanted}"]
    assert read("- 1\n" * (YAML_MAX_VALUES - 1)) is not None


def test_places_of_values_and_keys() -> None:
    """Every value and every key has its line and column, counted from 1."""
    document = parse_yaml('top:\n  - name: x\n    "q": {in: [1, 2]}\n# c\nlast: |\n  text\n', "f")
    assert document.places[("top",)] == (2, 3)
    assert document.places[("top", 0, "name")] == (2, 11)
    assert document.places[("top", 0, "q", "in", 1)] == (3, 19)
    assert document.keys[("top", 0, "q", "in")] == (3, 11)
    assert document.places[("last",)] == (5, 7)
    assert document.value == {"top": [{"name": "x", "q": {"in": [1, 2]}}], "last": "text\n"}


def test_a_diagnostic_falls_back_to_what_encloses_it() -> None:
    """A mistake about something that is not written is shown at the nearest thing that is."""
    document = parse_yaml("a:\n  b: {c: 1}", "f")
    assert document.at(("a", "b", "missing", "deep"), "m")[:3] == ("f", 2, 6)
    assert document.at(("a", "b"), "m", key=True)[:3] == ("f", 2, 3)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


class QuotingDumper(yaml.SafeDumper):
    """Writes every string in double quotes, and every collection out in full."""

    def ignore_aliases(self, data: object) -> bool:
        return True


QuotingDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


@settings(max_examples=150, deadline=None)
@given(JSON_VALUES, st.booleans())
def test_any_json_document_written_as_yaml_reads_back_equal(value: Json, flow: bool) -> None:
    """Numbers, text and structure survive, with their types."""
    text = yaml.dump(value, Dumper=QuotingDumper, default_flow_style=flow, allow_unicode=flow, sort_keys=False)
    assert json.dumps(read(text)) == json.dumps(value)


@settings(max_examples=150, deadline=None)
@given(JSON_VALUES)
def test_json_is_read_as_it_is(value: Json) -> None:
    """JSON is YAML, for these files too."""
    assert json.dumps(read(json.dumps(value))) == json.dumps(value)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=60) | st.text("ab:-[]{},&*!|>'\"%@`#?~<0123.e \n\t", max_size=40))
@example("\ud800")
@example("E0")
@example("-.e1")
@example("%TAG ! tag:%FF\n--- !x")
@example("? - :\n")
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever stands in a file, the reader raises nothing but its own error, with places inside the file."""
    lines = text.splitlines() or [""]
    try:
        parse_yaml(text, "f")
    except DocumentError as error:
        places = [(entry.line, "\n" in entry.message) for entry in error.diagnostics]
    else:
        return
    assert places
    assert all(1 <= line <= len(lines) + 1 and not broken for line, broken in places)


_PIECES = [
    *[
        "a",
        "b: 1",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        ":",
        "? ",
        "?",
        "! ",
        "&x ",
        "*x",
        "|",
        "|-",
        ">",
        "\n",
        "\n  ",
    ],
    *[
        "\n    ",
        "\t",
        " ",
        "'",
        '"',
        "\\u00e9",
        "#c",
        " # ",
        "é",
        "😀",
        "\ufeff",
        "\r\n",
        "\u2028",
        "\x85",
        "---",
        "...",
    ],
    *[
        "\n---\n",
        "<<",
        "~",
        "null",
        "1.10",
        "12",
        "-",
        "@",
        "=",
        "http://a:1/b",
        "\x00",
        ">-\n  x\n\n  y",
        "{a: , b: 1}",
    ],
]


def _read_or_refused(text: str) -> object:
    try:
        return read_yaml(text, "f.yaml")
    except DocumentError as error:
        return error.diagnostics


@given(st.lists(st.sampled_from(_PIECES), max_size=12).map("".join))
@example("a: {b? c: 1}")
@example("a: {b: }")
@example("? a")
@example("---")
@example("a: |-#")
@example("a:\tb")
def test_both_readers_find_the_same(text: str) -> None:
    """A file means the same, and has the same mistakes at the same places, where PyYAML comes without libyaml."""
    found = _read_or_refused(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.documents.yaml.QUICK", None)
        assert _read_or_refused(text) == found


def test_both_readers_find_the_same_in_the_shipped_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for files of an ordinary size, all of which go the quick way."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(shipped_rules().rglob("*.yaml"))]
    assert [text for text in texts if is_odd(text)] == []
    found = [read_yaml(text, "f.yaml") for text in texts]
    monkeypatch.setattr("proxy.documents.yaml.QUICK", None)
    assert [read_yaml(text, "f.yaml") for text in texts] == found
