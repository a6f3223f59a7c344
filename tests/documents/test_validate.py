from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from proxy.documents import DocumentError, examine, parse_yaml, suggestion, validate


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Leaf(Strict):
    size: Annotated[int, Field(ge=1, le=9)] = 1
    mode: Literal["plain", "framed"] = "plain"
    from_: str | None = Field(None, alias="from")
    many: str | list[str] | None = None


class Branch(Strict):
    leaf: Leaf | None = None
    leaves: list[Leaf] = []
    named: dict[str, Leaf] = {}
    either: Leaf | list[Leaf] | None = None
    free: dict[str, JsonValue] = {}


class Tree(Strict):
    name: str
    branch: Branch = Branch()
    ratio: float = 1.0
    flag: bool = False
    key: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "k"

    @model_validator(mode="after")
    def _rule(self) -> Tree:
        if self.name == "bad":
            raise ValueError("the name is bad, and so is this")
        return self


def mistakes(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        validate(parse_yaml(text, "f"), Tree)
    return [str(entry).removeprefix("f:") for entry in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nam: x\nname: x", "1:1: unknown key 'nam'; did you mean 'name'?"),
        ("name: x\nbranch: {laef: {}}", "2:10: unknown key 'laef'; did you mean 'leaf'?"),
        ("name: x\nbranch:\n  leaf:\n    form: y", "4:5: unknown key 'form'; did you mean 'from'?"),
        ("name: x\nbranch: {leaves: [{}, {siz: 1}]}", "2:24: unknown key 'siz'; did you mean 'size'?"),
        ("name: x\nbranch: {named: {size: {sise: 1}}}", "2:25: unknown key 'sise'; did you mean 'size'?"),
        ("name: x\nbranch: {named: {leaf: {mod: plain}}}", "2:25: unknown key 'mod'; did you mean 'mode'?"),
        ("name: x\nzzz: 1", "2:1: unknown key 'zzz'; known: branch, flag, key, name, ratio"),
        ("name: x\nfrom_: 1", "2:1: unknown key 'from_'; known: branch, flag, key, name, ratio"),
    ],
)
def test_an_unknown_key_gets_a_suggestion_at_every_level(text: str, expected: str) -> None:
    """The suggestion comes from the keys that are allowed beside it, also behind lists and free names."""
    assert mistakes(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flag: true", "1:1: the key 'name' is missing"),
        ("name: 5", "1:7: name: expected text, got 5"),
        ("name: x\nflag: on", "2:7: flag: expected true or false, got 'on'"),
        ("name: x\nflag: 1", "2:7: flag: expected true or false, got 1"),
        ("name: x\nratio: fast", "2:8: ratio: expected a number, got 'fast'"),
        ("name: x\nbranch: []", "2:9: branch: expected a mapping, got []"),
        ("name: x\nbranch: {leaf: {size: 10}}", "2:23: size: expected less than or equal to 9, got 10"),
        ("name: x\nbranch: {leaf: {size: 1.5}}", "2:23: size: expected a whole number, got 1.5"),
        ("name: x\nbranch: {leaf: {size: null}}", "2:23: size: expected a whole number, got null"),
        (
            "name: x\nbranch: {leaf: {mode: plan}}",
            "2:23: mode: expected 'plain' or 'framed', got 'plan'; did you mean 'plain'?",
        ),
        ("name: x\nbranch: {leaf: {many: 5}}", "2:23: many: expected text or a list, got 5"),
        ("name: x\nbranch: {leaf: {many: [a, 5]}}", "2:27: many[1]: expected text, got 5"),
        ("name: x\nbranch: {leaves: {}}", "2:18: leaves: expected a list, got {}"),
        ("name: x\nbranch: {leaves: [1]}", "2:19: leaves[0]: expected a mapping, got 1"),
        (
            "name: x\nkey: A b",
            "2:6: key: expected lower-case letters, digits and _, beginning with a letter, got 'A b'",
        ),
        ("name: bad", "1:1: the name is bad, and so is this"),
        ("[1]", "1:1: the document: expected a mapping, got [1]"),
        ("word", "1:1: the document: expected a mapping, got 'word'"),
        ("", "1:1: the key 'name' is missing"),
    ],
)
def test_a_wrong_value_is_told_in_words_of_the_file(text: str, expected: str) -> None:
    """Each mistake names the key, what was expected and what stands there, and no type of Python."""
    assert mistakes(text) == [expected]


def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    """Nobody fixes one mistake only to be told of the next."""
    text = "branch:\n  leaves:\n    - {size: 0}\n    - {moed: plain}\n  leaf: {from: 5}\nflag: 1\n"
    assert mistakes(text) == [
        "1:1: the key 'name' is missing",
        "3:14: size: expected greater than or equal to 1, got 0",
        "4:8: unknown key 'moed'; did you mean 'mode'?",
        "5:16: from: expected text, got 5",
        "6:7: flag: expected true or false, got 1",
    ]


def test_a_long_value_is_shown_short() -> None:
    """A message never repeats a page of text."""
    assert len(mistakes(f"name: x\nflag: {'y' * 500}")[0]) < 120


def test_a_valid_document_becomes_the_model() -> None:
    """What is right is read, with defaults for the rest."""
    tree = validate(parse_yaml("name: x\nbranch: {free: {any: [1, {a: null}]}, leaf: {from: here}}", "f"), Tree)
    assert tree.branch.free == {"any": [1, {"a": None}]}
    assert tree.branch.leaf is not None
    assert (tree.branch.leaf.from_, tree.ratio) == ("here", 1.0)


def test_examine_gives_the_model_without_keys_that_nobody_knows() -> None:
    """Unknown keys alone do not keep the rest of a file from being looked at."""
    text = "name: x\nextra: 1\nbranch: {leaves: [{size: 2, sise: 3}, {size: 4}], leaf: {frm: 1}}"
    tree, found = examine(parse_yaml(text, "f"), Tree)
    assert len(found) == 3
    assert tree is not None
    assert [leaf.size for leaf in tree.branch.leaves] == [2, 4]


def test_examine_gives_no_model_where_more_is_wrong() -> None:
    """With any other mistake there is nothing to go on with."""
    tree, found = examine(parse_yaml("extra: 1", "f"), Tree)
    assert tree is None
    assert len(found) == 2


def test_suggestion_lists_what_is_known_where_nothing_is_near() -> None:
    """A name that is like no other gets the list."""
    assert suggestion("prompt", ["model", "prompts"]) == "; did you mean 'prompts'?"
    assert suggestion("q", ["b", "a"]) == "; known: a, b"
    assert suggestion("q", []) == ""
