from __future__ import annotations

import time
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.translate.reasoning import Parts, ReasoningSplitter, Tags

THINK = Tags("<think>", "</think>")
INSIDE = Tags("<think>", "</think>", begins_inside=True)
CHANNELS = Tags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")
PROSE = Tags("Here is my thought process:", "Here is my response:")


def split(tags: Tags, *pieces: str) -> list[Parts]:
    """Both parts after each of these pieces, the last of which ends the text."""
    splitter = ReasoningSplitter(tags)
    seen: list[Parts] = []
    new = Parts("", "")
    wholes = list(accumulate(pieces)) or [""]
    for position, whole in enumerate(wholes):
        before = splitter.parts
        new = splitter.finish(whole) if position == len(wholes) - 1 else splitter.add(whole)
        seen.append(splitter.parts)
        assert seen[-1] == (before.reasoning + new.reasoning, before.text + new.text), "what is new is what was added"
    return seen


@pytest.mark.parametrize(
    ("tags", "text", "reasoning", "answer"),
    [
        (THINK, "Hello.", "", "Hello."),
        (THINK, "", "", ""),
        (THINK, "<think>\nWell.\n</think>\n\nHello.", "Well.\n", "Hello."),
        (THINK, "\n\n<think>Well.</think>Hello.", "Well.", "Hello."),
        (THINK, "<think>\n\n</think>\n\nHello.", "", "Hello."),
        (THINK, "  Hello.", "", "  Hello."),
        (THINK, " \n", "", " \n"),
        (THINK, "<think>Well, then", "Well, then", ""),
        (THINK, "<think>Is 1 < 2?</thin", "Is 1 < 2?</thin", ""),
        (THINK, "if a <b: <thing>", "", "if a <b: <thing>"),
        (THINK, "1 <", "", "1 <"),
        (THINK, "<think>a</think>\n\nOne <think>b</think> two", "a\nb", "One two"),
        (THINK, "<think>a\n</think>\n\nOne<think> b</think>\n\ntwo", "a\nb", "One\n\ntwo"),
        (THINK, "<think>They ask about <think> tags</think>Yes.", "They ask about <think> tags", "Yes."),
        (THINK, "Well.\n</think>\n\nHello.", "", "Well.\nHello."),
        (THINK, "\n</think>\n\nHello.", "", "Hello."),
        (THINK, "<<think>>Well.<</think>>", ">Well.<", "<>"),
        (INSIDE, "Well.\n</think>\n\nHello.", "Well.\n", "Hello."),
        (INSIDE, "\n<think>\nWell.</think>Hello.", "Well.", "Hello."),
        (INSIDE, "\nWell, then", "Well, then", ""),
        (INSIDE, "</think>Hello.", "", "Hello."),
        (
            CHANNELS,
            "<|channel|>analysis<|message|>Well.<|end|><|start|>assistant<|channel|>final<|message|>Hello.",
            "Well.",
            "Hello.",
        ),
        (
            PROSE,
            "Here is my thought process:\n\nWell.\n\nHere is my response:\n\nHere is it.",
            "Well.\n\n",
            "Here is it.",
        ),
    ],
)
def test_a_text_in_its_two_parts(tags: Tags, text: str, reasoning: str, answer: str) -> None:
    """What is between the tags is the thought, whether the text comes whole or character by character."""
    assert split(tags, text)[-1] == (reasoning, answer)
    assert split(tags, *text)[-1] == (reasoning, answer)


def test_each_character_is_shown_as_soon_as_it_is_clear_what_it_is() -> None:
    """Only what may be a tag is held back, and given out with the character that shows that it is none."""
    seen = split(THINK, "<", "think", ">\n", "We", "ll <", "b</thi", "nk", "> ", "Hi", " </t", "h", "ere")
    assert seen == [
        ("", ""),
        ("", ""),
        ("", ""),
        ("We", ""),
        ("Well ", ""),
        ("Well <b", ""),
        ("Well <b", ""),
        ("Well <b", ""),
        ("Well <b", "Hi"),
        ("Well <b", "Hi "),
        ("Well <b", "Hi "),
        ("Well <b", "Hi </there"),
    ]


@pytest.mark.parametrize(
    ("tags", "text", "unopened"),
    [
        (THINK, "a</think>b", True),
        (INSIDE, "a</think>b", False),
        (INSIDE, "a</think>b</think>c", True),
        (THINK, "<think>a</think>b", False),
    ],
)
def test_a_closing_tag_that_nothing_opened_is_told(tags: Tags, text: str, unopened: bool) -> None:
    """It is the sign of a model whose text begins inside the thought, which its operator has not said."""
    splitter = ReasoningSplitter(tags)
    splitter.finish(text)
    assert splitter.unopened is unopened


@pytest.mark.parametrize(
    ("shown", "final", "parts"),
    [
        ("Hello###", "Hello", ("", "Hello")),
        ("Hello<", "Hello", ("", "Hello")),
        ("<think>Well###", "<think>Well", ("Well", "")),
        ("<think>Well</think>##", "<think>Well</think>", ("Well", "")),
    ],
)
def test_a_final_text_without_a_stop_string_that_was_shown(shown: str, final: str, parts: tuple[str, str]) -> None:
    """Both parts are those of the final text, and nothing of them is new."""
    splitter = ReasoningSplitter(THINK)
    splitter.add(shown)
    assert splitter.finish(final) == ("", "")
    assert splitter.parts == parts


PIECES = ["<think>", "</think>", "<thi", "nk>", "</", "<", ">", "think", " ", "\n", "a", "好", "<think", "/think>"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
TAGS = st.sampled_from(
    [THINK, INSIDE, Tags("<", ">"), Tags("<think", "nk>"), Tags("a", "好", begins_inside=True), Tags("<<", "</")]
)


@settings(max_examples=400, deadline=None)
@given(TAGS, TEXTS, st.data())
def test_the_parts_do_not_depend_on_where_the_text_was_cut(tags: Tags, text: str, data: st.DataObject) -> None:
    """Any growing beginnings of a text end in the same two parts, and both of them only grow on the way."""
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=len(text) + 2)))
    pieces = [text[start:end] for start, end in pairwise([0, *places, len(text)])]
    seen = split(tags, *pieces)
    for earlier, later in pairwise(seen):
        assert later.reasoning.startswith(earlier.reasoning)
        assert later.text.startswith(earlier.text)
    assert seen[-1] == split(tags, text)[-1]


@settings(max_examples=300, deadline=None)
@given(TAGS, TEXTS)
def test_nothing_but_tags_and_white_space_is_lost(tags: Tags, text: str) -> None:
    """Every other character is in one of the parts, and there as often as in the text."""
    reasoning, answer = split(tags, text)[-1]
    both = reasoning + answer
    for character in set(text) - set(" \n"):
        tagged = max(tags.open.count(character), tags.close.count(character))
        if not tagged:
            assert both.count(character) == text.count(character)
        else:
            assert both.count(character) <= text.count(character)


def seconds(text: str, piece: int) -> float:
    splitter = ReasoningSplitter(THINK)
    spent = 0.0
    for end in range(piece, len(text) + piece, piece):
        whole = text[:end]
        begun = time.process_time()
        splitter.add(whole)
        spent += time.process_time() - begun
    return spent


@pytest.mark.parametrize("filling", ["<think>", "</think>", "<", "a ", "<think>a</think>b"])
@pytest.mark.parametrize("piece", [7, 1_000_000])
def test_the_cost_is_that_of_what_is_new(filling: str, piece: int) -> None:
    """A text eight times as long costs about eight times as much, whatever is in it, in one piece or in many."""
    text = filling * (50_000 // len(filling))
    short = min(seconds(text[: len(text) // 8], piece) for _ in range(3))
    long = min(seconds(text, piece) for _ in range(3))
    assert long < 24 * short + 0.01
