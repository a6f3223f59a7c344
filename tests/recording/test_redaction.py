from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.recording.redaction import BLACKED, Blackout, kept_headers, without_secrets
from proxy.types import Json

WORDS = ("user", "stop", "m")
BLACKOUT = Blackout(WORDS)


@given(st.text())
def test_a_replaced_text_is_as_long_and_stays_as_it_is(text: str) -> None:
    """In characters and in bytes; doing it again changes nothing."""
    blacked = BLACKOUT.text(text)
    assert len(blacked) == len(text)
    assert len(blacked.encode("utf-8", "surrogatepass")) == len(text.encode("utf-8", "surrogatepass"))
    assert BLACKOUT.text(blacked) == blacked
    assert BLACKOUT.same(text, text)
    assert BLACKOUT.same(blacked, text) or text in WORDS or blacked in WORDS


@given(st.text(), st.integers(min_value=0))
def test_a_growing_text_still_grows(text: str, place: int) -> None:
    """The beginning of a text becomes the beginning of what it becomes, so that a stream can be played again."""
    begun = text[: place % (len(text) + 1)]
    if begun not in WORDS and text not in WORDS:
        assert BLACKOUT.text(text).startswith(BLACKOUT.text(begun))


def test_no_letter_and_no_digit_is_left() -> None:
    """Of what somebody wrote; white space, signs and tags stay, and so does a word that the rules know."""
    value: Json = {
        "role": "user",
        "content": ["<think>Née 1984, 北京!</think>", {"text": "user's"}, 5, None, True],
        "url": "data:image/png;base64,iVBORw0KGgo=",
    }
    assert BLACKOUT.value(value) == {
        "role": "user",
        "content": ["<think>Xéx 0000, 字字!</think>", {"text": "xxxx'x"}, 5, None, True],
        "url": "data:image/png;base64,AAAAAAAAAAAA",
    }


def test_who_speaks_is_told() -> None:
    """In a prompt that was written out, which rules take apart again; what is said there is not."""
    prompt = "<|im_start|>user\nuser\n<|im_end|>\n<|im_start|>Anna\nuser: stop"
    assert BLACKOUT.text(prompt) == "<|im_start|>user\nxxxx\n<|im_end|>\n<|im_start|>Xxxx\nxxxx: xxxx"
    assert BLACKOUT.text("<b>user\n<|user") == "<b>xxxx\n<|user"


def test_words_are_told_apart_and_texts_are_not() -> None:
    """A reason that changed is a difference; that a text has other letters cannot be seen."""
    assert not BLACKOUT.same("stop", "user")
    assert BLACKOUT.same("xxxx", "user")
    assert BLACKOUT.same("Hello", "World")
    assert not BLACKOUT.same("Hello", "Hello!")
    assert not BLACKOUT.same(1, True)


def test_secrets_are_never_kept() -> None:
    """Fields that hold them, wherever they stand, and headers that are not on the list; their names are kept."""
    value: Json = {"api_key": "k", "a": [{"Authorization": "Bearer k", "b": "c", "password": None}]}
    assert without_secrets(value) == {"api_key": BLACKED, "a": [{"Authorization": BLACKED, "b": "c", "password": None}]}
    headers = {"Cookie": "c", "X-Api-Key": "k", "Accept": "text/plain", "X-Trace": "t", "X-Other": "o"}
    assert kept_headers(headers, {"x-trace"}) == {
        "Cookie": BLACKED,
        "X-Api-Key": BLACKED,
        "Accept": "text/plain",
        "X-Trace": "t",
        "X-Other": BLACKED,
    }
