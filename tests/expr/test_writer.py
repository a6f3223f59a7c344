"""Functions that are written for expressions: what Python's own limits and its grammar could make of them."""

from __future__ import annotations

import warnings

import pytest

from proxy.expr import STANDARD, ExpressionError, Writer, compile_expression
from proxy.types import Json


def value(source: str, document: Json) -> Json:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Python warns of code that makes no sense, such as a literal that is called
        return compile_expression(source, STANDARD)(document)


@pytest.mark.parametrize("levels", [5, 20, 60])
def test_arrays_inside_each_other(levels: int) -> None:
    """Python takes 100 levels of indentation and 20 loops inside each other."""
    found = value("[" * levels + "a" + "]" * levels, {"a": 7})
    for _ in range(levels):
        assert isinstance(found, list)
        (found,) = found
    assert found == 7


@pytest.mark.parametrize("levels", [5, 12, 30])
def test_loops_inside_each_other(levels: int) -> None:
    source = "a == `1`"
    document: Json = {"a": 1}
    inner = document
    for _ in range(levels):
        source, inner = f"xs[?{source}]", {"xs": [inner]}
    found = value(source, inner)
    for _ in range(levels):
        assert isinstance(found, list)
        assert len(found) == 1
        found = found[0]["xs"] if isinstance(found[0], dict) and "xs" in found[0] else found[0]
    assert found == document


@pytest.mark.parametrize("word", ["||", "&&"])
def test_a_long_chain_of_conditions(word: str) -> None:
    """As a value, as a condition of a filter, and about one field again and again."""
    names = [f"a{place}" for place in range(400)]
    document: dict[str, Json] = dict.fromkeys(names, word == "&&")
    document["a399"] = "last"
    assert value(word.join(names), document) == "last"
    assert value(f"xs[?{word.join(names)}]", {"xs": [document]}) == [document]
    sames = word.join(f"a {'!=' if word == '&&' else '=='} '{place}'" for place in range(200))
    assert value(f"xs[?{sames}].a", {"xs": [{"a": "199"}, {"a": "x"}]}) == (["199"] if word == "||" else ["x"])


def test_a_condition_decides_before_what_follows_is_looked_at() -> None:
    """What follows would fail."""
    assert value("a || abs('x'[0])", {"a": 1}) == 1
    assert value("a && length(a) > `1`", {"a": None}) is None
    assert value("xs[?a == 'x' && length(b) > `1`].a", {"xs": [{"a": "x", "b": "xy"}, {"a": "y", "b": 5}]}) == ["x"]
    assert value("xs[?!(a == 'x') || length(b) > `1`].a", {"xs": [{"a": "x", "b": "xy"}, {"a": "y", "b": 5}]}) == [
        *("x", "y")
    ]
    with pytest.raises(ExpressionError, match="length"):
        value("xs[?a == 'x' && length(b) > `1`]", {"xs": [{"a": "x", "b": 5}]})


def test_what_a_branch_read_is_not_known_behind_it() -> None:
    """`b.c` is read where `a` holds; where it does not it is read anew."""
    source = "[a && b.c, b.c, !a && b.d, b.d]"
    for a in (True, False):
        found = value(source, {"a": a, "b": {"c": 1, "d": 2}})
        assert found == [1 if a else False, 1, not a and 2, 2]


@pytest.mark.parametrize(
    "name", ["quote's", 'double"', "back\\slash", "line\nfeed", "{brace}", "ключ", "\ud800", "run", "document", "v1"]
)
def test_any_name_and_text(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\ud800", "\\ud800")
    assert value(f'"{quoted}"', {name: 5}) == 5
    assert value(f'{{"{quoted}": `1`}}', {}) == {name: 1}
    assert value(f'a == `"{quoted}"`', {"a": name}) is True


@pytest.mark.parametrize("literal", ["`null`", "`true`", "`false`", "`5`", "'text'", "`[1]`", '`{"a": 1}`'])
@pytest.mark.parametrize("then", [".a", "[0]", "[0:1]", "[*]", ".*", "[?a]", "[]", " || `1`", " && `1`", " == `true`"])
def test_literals_where_python_knows_better(literal: str, then: str) -> None:
    """No warning, and the answer is that of the same value in a document."""
    given = compile_expression(literal, STANDARD)(None)
    assert value(literal + then, {}) == value("x" + then, {"x": given})


def test_a_value_is_read_once() -> None:
    """However often it is named."""
    reads: list[str] = []

    class Document(dict[str, Json]):
        def get(self, key: str, default: Json = None) -> Json:  # type: ignore[override]
            reads.append(key)
            return super().get(key, default)

    writer = Writer("document")
    first = writer.field("document", "a")
    assert writer.field("document", "a") == first
    run = writer.compiled(first)
    assert run(Document(a=3)) == 3
    assert reads == ["a"]
