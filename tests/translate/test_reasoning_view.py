from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.translate.reasoning_view import ReasoningView, reasoning_view
from proxy.types import Json, JsonObject

Seen = list[tuple[str, str]]


def worker(wish: str, **more: Json) -> JsonObject:
    return {"reasoning": {"open": "<think>", "close": "</think>", "begins_inside": False, "as": wish, **more}}


def view_of(document: JsonObject, *, comes_apart: bool = False) -> ReasoningView:
    view = reasoning_view(document, comes_apart=comes_apart)
    assert view is not None
    return view


def play(view: ReasoningView, frames: list[tuple[str, str]]) -> Seen:
    """Text and thought after each frame that adds to the worker's text and to the thought apart from it."""
    texts = list(accumulate(text for text, _ in frames))
    thoughts = list(accumulate(thought for _, thought in frames))
    seen: Seen = []
    before = ("", "")
    for position, (text, thought) in enumerate(zip(texts, thoughts, strict=True)):
        new = view.take(text, thought, final=position == len(texts) - 1)
        now = (view.text, view.reasoning)
        assert now == (before[0] + new.text, before[1] + new.reasoning)
        seen.append(now)
        before = now
    return seen


@pytest.mark.parametrize(
    ("document", "comes_apart"),
    [({}, False), ({"reasoning": None}, False), (worker("inline"), False)],
)
def test_nothing_is_done_where_nothing_would_change(document: JsonObject, comes_apart: bool) -> None:
    """Text with its tags in it is what everybody gets who asked for nothing else."""
    assert reasoning_view(document, comes_apart=comes_apart) is None


APART = [("", "Well"), ("", "."), ("Hel", ""), ("lo.", "")]
TAGGED = [("<thi", ""), ("nk>\nWell.", ""), ("</think>", ""), ("\n\nHel", ""), ("lo.", "")]
BEGUN = [("\nWell.", ""), ("</think>\n\nHello.", "")]


@pytest.mark.parametrize(
    ("document", "frames", "text", "reasoning"),
    [
        ({}, APART, "Hello.", "Well."),
        ({}, TAGGED, "<think>\nWell.</think>\n\nHello.", ""),
        (worker("field"), APART, "Hello.", "Well."),
        (worker("field"), TAGGED, "Hello.", "Well."),
        (worker("field", begins_inside=True), BEGUN, "Hello.", "Well."),
        (worker("drop"), APART, "Hello.", ""),
        (worker("drop"), TAGGED, "Hello.", ""),
        (worker("inline"), APART, "<think>\nWell.\n</think>\n\nHello.", ""),
        (worker("inline"), TAGGED, "<think>\nWell.</think>\n\nHello.", ""),
        (worker("inline"), [("", "Well."), ("", "")], "<think>\nWell.\n</think>", ""),
        (worker("inline"), [("", "")], "", ""),
        (worker("inline", begins_inside=True), BEGUN, "<think>\n\nWell.</think>\n\nHello.", ""),
        (worker("inline", begins_inside=True), APART, "<think>\nWell.\n</think>\n\nHello.", ""),
        (worker("inline", begins_inside=True), TAGGED, "<think>\nWell.</think>\n\nHello.", ""),
        (worker("inline", begins_inside=True), [("", "")], "", ""),
        (worker("inline", begins_inside=True), [("<th", ""), ("", "")], "<think>\n<th", ""),
    ],
)
def test_the_thought_is_where_the_operator_wants_it(
    document: JsonObject, frames: list[tuple[str, str]], text: str, reasoning: str
) -> None:
    """Whether it came between tags or apart, and frame by frame as in one piece."""
    assert play(view_of(document, comes_apart=True), frames)[-1] == (text, reasoning)
    whole = ("".join(said for said, _ in frames), "".join(thought for _, thought in frames))
    assert play(view_of(document, comes_apart=True), [whole])[-1] == (text, reasoning)


def test_what_came_apart_and_what_stood_between_tags_are_one_thought() -> None:
    """In the order in which they came."""
    frames = [("", "First "), ("<think>second</think>", ""), ("Hello", "")]
    assert play(view_of(worker("field"), comes_apart=True), frames) == [
        ("", "First "),
        ("", "First second"),
        ("Hello", "First second"),
    ]


@pytest.mark.parametrize("document", [{}, worker("field"), worker("inline"), worker("inline", begins_inside=True)])
def test_a_final_text_without_a_stop_string_that_was_shown(document: JsonObject) -> None:
    """What the client sees last is without it as well."""
    view = view_of(document, comes_apart=True)
    view.take("<think>a</think>Hello###", "")
    assert view.take("<think>a</think>Hello", "", final=True) == ("", "")
    assert view.text.endswith("Hello")


def test_a_closing_tag_without_an_opening_one_is_told() -> None:
    """So that it can be counted."""
    view = view_of(worker("field"))
    assert not view.unopened
    view.take("Well.</think>Hello.", "", final=True)
    assert view.unopened


PIECES = st.sampled_from(["", "", "<think>", "</think>", "<th", "ink>", "a", " ", "\n", "好"])
FRAMES = st.lists(st.tuples(PIECES, PIECES), min_size=1, max_size=8)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(["", "field", "inline", "drop"]), st.booleans(), FRAMES)
def test_what_the_client_sees_only_grows(wish: str, inside: bool, frames: list[tuple[str, str]]) -> None:
    """In whatever order text and thought come."""
    document = worker(wish, begins_inside=inside) if wish else {}
    for earlier, later in pairwise(play(view_of(document, comes_apart=True), frames)):
        assert later[0].startswith(earlier[0])
        assert later[1].startswith(earlier[1])
