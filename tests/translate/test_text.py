from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.translate.text import HALF_CHARACTER, Mode, TextFlow


def play(
    texts: list[str], mode: Mode = "cumulative", hold_back: int = 0, stops: tuple[str, ...] = ()
) -> tuple[list[str], TextFlow]:
    """What the client sees after each chunk, the last of which finishes."""
    flow = TextFlow(mode, hold_back)
    seen: list[str] = []
    for text in texts[:-1]:
        flow.add(text)
        seen.append(flow.advance())
    if texts:
        flow.add(texts[-1])
        seen.append(flow.finish(texts[-1], stops))
    return seen, flow


@pytest.mark.parametrize(
    ("texts", "seen", "notes"),
    [
        (["a", "ab", "abc"], ["a", "ab", "abc"], []),
        (["a", "a�", "aé", "aé"], ["a", "a", "aé", "aé"], []),
        (["��", "���", "好", "好"], ["", "", "好", "好"], []),
        (["a�", "a"], ["a", "a"], []),
        (["a��", "a�", "aé"], ["a", "a", "aé"], []),
        (["a�b", "a�bc", "a�bc"], ["a�b", "a�bc", "a�bc"], []),
        (["a�", "a�"], ["a", "a�"], []),
        (["a�", "a�b", "a�b"], ["a", "a�b", "a�b"], []),
        (["abc", "ab", "abcd", "abcd"], ["abc", "abc", "abcd", "abcd"], ["text_shrunk"]),
        (["abc", "ab", "a", "", "abc"], ["abc"] * 5, ["text_shrunk"]),
        (["Hello", ""], ["Hello", "Hello"], ["text_shrunk"]),
        (["abc", "xyzw", "xyzw"], ["abc", "xyzw", "xyzw"], ["text_rewritten"]),
        (["abc", "xy", "xyz!", "xyz!"], ["abc", "abc", "xyz!", "xyz!"], ["text_rewritten"]),
        (["", ""], ["", ""], []),
    ],
)
def test_cumulative_text(texts: list[str], seen: list[str], notes: list[str]) -> None:
    """Half a character waits for its other half, a shorter text changes nothing, and what happened is noted once."""
    found, flow = play(texts)
    assert found == seen
    assert flow.notes == notes


@pytest.mark.parametrize(
    ("texts", "stops", "final"),
    [
        (["Hello!</s>", "Hello!"], ["</s>"], "Hello!"),
        (["Hello!</", "Hello!"], ["</s>"], "Hello!"),
        (["Hello!\nUSER: and", "Hello!"], ["\nUSER:"], "Hello!"),
        (["How can I assist", "How can I assis"], ["</s>"], "How can I assist"),
        (["How can I assist", "How can I assis"], [], "How can I assist"),
        (["How can I assist", "How can I assis"], [""], "How can I assist"),
        (["Hello", ""], ["###"], "Hello"),
        (["\nHello", ""], ["\n"], "\nHello"),
        (["###", ""], ["###"], ""),
        (["a", "a###b", "a"], ["x", "###"], "a"),
    ],
)
def test_a_final_text_that_is_shorter(texts: list[str], stops: list[str], final: str) -> None:
    """A cut stop string is gone, a lost tail is not, and an empty final text loses nothing."""
    seen, flow = play(texts, stops=tuple(stops))
    assert seen[-1] == final
    assert flow.shown == flow.whole == final


def test_hold_back_keeps_characters_for_the_end() -> None:
    """The finishing chunk always has something new, if there is any text at all."""
    assert play(["a", "ab", "ab�", "abé", "abé"], hold_back=1)[0] == ["", "a", "a", "ab", "abé"]
    assert play(["abcdef", "abcdef"], hold_back=3)[0] == ["abc", "abcdef"]


def test_incremental_text_is_put_together() -> None:
    """A worker that sends only what is new gives the same texts, also with empty chunks."""
    assert play(["a", "", "b�", "c", ""], mode="incremental")[0] == ["a", "a", "ab", "ab�c", "ab�c"]
    assert play(["ab", "ab"], mode="incremental", stops=("b",))[0] == ["ab", "abab"]


def test_nothing_was_sent() -> None:
    """A stream without text has an empty final text."""
    flow = TextFlow("cumulative")
    assert (flow.advance(), flow.finish(), flow.whole, flow.notes) == ("", "", "", [])


def cumulative(pieces: list[str]) -> list[str]:
    return ["".join(pieces[: end + 1]) for end in range(len(pieces))]


def decoded(text: str, step: int) -> list[str]:
    """What a worker shows that decodes its bytes again for each chunk, `step` bytes further each time."""
    raw = text.encode()
    return [raw[:end].decode("utf-8", "replace") for end in [*range(step, len(raw), step), len(raw)]]


ALPHABET = "ab �é好😀"
TEXTS = st.text(ALPHABET, max_size=20)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=8), st.integers(0, 3), st.booleans())
def test_what_is_shown_only_grows_unless_the_worker_rewrote(texts: list[str], hold_back: int, rewritten: bool) -> None:
    """Each text begins with the one before; the one exception is a worker that took its words back."""
    texts = texts if rewritten else cumulative(texts)
    seen, flow = play(texts, hold_back=hold_back)
    if "text_rewritten" not in flow.notes:
        assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    assert all(len(earlier) <= len(later) for earlier, later in pairwise(seen[:-1]))


@settings(max_examples=200, deadline=None)
@given(TEXTS.filter(lambda text: HALF_CHARACTER not in text), st.integers(1, 5), st.integers(0, 3))
def test_the_pieces_of_a_growing_text_make_the_final_one(text: str, step: int, hold_back: int) -> None:
    """However the worker's bytes were cut, the new parts joined are the answer, and no part is half a character."""
    seen, flow = play(decoded(text, step), hold_back=hold_back)
    pieces = [later[len(earlier) :] for earlier, later in pairwise(["", *seen])]
    assert "".join(pieces) == text
    assert not any(HALF_CHARACTER in piece for piece in pieces)
    assert flow.notes == []


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(0, 3))
def test_both_conventions_show_the_same(pieces: list[str], hold_back: int) -> None:
    """The same words come out the same whether the worker sent them whole or piece by piece."""
    whole, _ = play(cumulative(pieces), hold_back=hold_back)
    parts, _ = play(pieces, mode="incremental", hold_back=hold_back)
    assert whole == parts


@pytest.mark.parametrize(
    ("pieces", "ends", "seen"),
    [
        (["Hello ", "E", "ND"], ("END",), ["Hello ", "Hello ", "Hello "]),
        (["Hello ", "E", "N."], ("END",), ["Hello ", "Hello ", "Hello EN."]),
        (["a<", "/", "s>", "b", "</s>"], ("</s>",), ["a", "a", "a", "a</s>b", "a</s>b"]),
        (["x", "xabcd"], ("abcd", "xabcd"), ["", "x"]),
        (["你", "好。", "。"], ("。。",), ["你", "你好", "你好"]),
        (["a", "b"], ("",), ["a", "ab"]),
    ],
)
def test_a_stop_string_that_the_worker_leaves_is_never_shown(
    pieces: list[str], ends: tuple[str, ...], seen: list[str]
) -> None:
    """What may become one waits; what has become none is shown after all."""
    flow = TextFlow("incremental", ends=ends)
    found = []
    for piece in pieces[:-1]:
        flow.add(piece)
        found.append(flow.advance())
    flow.add(pieces[-1])
    assert [*found, flow.finish(pieces[-1])] == seen


@settings(deadline=None)
@given(
    st.lists(st.text("ab。", max_size=4), min_size=1, max_size=8),
    st.lists(st.text("ab。", min_size=1, max_size=4), min_size=1, max_size=3),
    st.sampled_from(["incremental", "cumulative"]),
)
def test_what_was_shown_stays_whatever_stop_string_it_ends_with(pieces: list[str], ends: list[str], mode: Mode) -> None:
    """Each text that a client sees begins the next one; the last is all of it without the longest stop string."""
    flow = TextFlow(mode, ends=ends)
    seen = [""]
    whole = "".join(pieces)
    for number, piece in enumerate(pieces, 1):
        flow.add(piece if mode == "incremental" else "".join(pieces[:number]))
        seen.append(flow.advance())
    seen.append(flow.finish(pieces[-1] if mode == "incremental" else whole))
    assert all(after.startswith(before) for before, after in pairwise(seen))
    cut = max((len(end) for end in ends if whole.endswith(end)), default=0)
    assert seen[-1] == whole[: len(whole) - cut]
