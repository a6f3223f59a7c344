"""Where the new text begins in what a worker says that was asked to repeat what it goes on from.

A worker that decodes only the tokens it made, with a decoder that drops the space at the beginning of a text (those of
sentencepiece vocabularies do), loses the space between the text that was there and its own. Asked to repeat the
prompt, it decodes both together, and the space stays. The repeated prompt is not always the prompt: special tokens and
some spaces are left out of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from proxy.errors import GatewayError
from proxy.translate.mapping import shown
from proxy.translate.text import HALF_CHARACTER
from proxy.types import Json

# What vocabularies call their special tokens: <s>, </s>, <|im_start|>, [INST].
_SPECIAL: Final = re.compile(r"(<[^<>\s]{1,60}>|\[[^\[\]\s]{1,60}\])")
# Characters by whose repetition the end of what was known is told where the rest of it came back changed.
_TAIL: Final = 64
# Scripts that put no spaces between words: Han, kana, and their punctuation.
_UNSPACED: Final = re.compile("[\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff01-\uff60]")


class Seam:
    """Cuts off what a worker repeats. known: what it was to go on from; stops: strings that end the answer.

    stopped: whether the new text ran into a stop string.
    """

    __slots__ = ("_head", "_known", "_last", "_stops", "stopped")

    def __init__(self, known: str, stops: Sequence[str] = ()) -> None:
        self._known = known
        self._stops = [stop for stop in stops if stop]
        self._head: str | None = None
        self._last = ""
        self.stopped = False

    def require(self) -> None:
        """GatewayError where all has come, and text that may be new is in it, but nothing told where that begins."""
        text = self._last.rstrip(HALF_CHARACTER)
        if self._head is not None or not text:
            return
        # Some of the known text may be lost in half a character that nothing more came of.
        place, missing = _repeated(self._known, text)
        lost = missing or self._known[len(self._known.rstrip()) :]
        if 2 * len(text) < len(self._known) or not lost.startswith(text[place:]):
            raise GatewayError("upstream_protocol", "the worker ended without repeating the text that it goes on from")

    def behind(self, said: Json) -> str | None:
        """The new text in the text of a frame, up to a stop string; None where the frame adds nothing to it.

        GatewayError where it is not clear which part is new: no text is better than one with a hole or a repetition.
        """
        text = "".join(map(str, said)) if isinstance(said, list) else said  # one kind of worker repeats it in a list
        if not isinstance(text, str):
            raise GatewayError("upstream_protocol", f"the worker's text is not a string but {shown(said)}")
        head, self._last = self._head, text
        if head is None:
            head = self._first_head(text)
            if head is None:
                return None
            self._head = head
        if text.startswith(head):
            return self._until_stop(text[len(head) :])
        # Half a character may take the whole one before it along; and a last text may be empty.
        if text.endswith(HALF_CHARACTER) or head.startswith(text):
            return None
        raise GatewayError("upstream_protocol", "the worker changed the text that it was to go on from")

    def _first_head(self, text: str) -> str | None:
        """What stands before the new text; None where more has to come before that is clear."""
        place = end_of_known(self._known, text)
        if place is not None:
            return text[:place]
        if not text or text.endswith(HALF_CHARACTER):
            return None
        tail = self._known[-_TAIL:]
        first, last = text.find(tail), text.rfind(tail)
        if first == last >= 0 and len(tail) == _TAIL:
            return text[: first + _TAIL]
        if first < 0 and 2 * len(text) < len(self._known) and _no_space_lost(self._known, text):
            return ""  # too short to be a repetition
        found = "is not in its answer" if first < 0 else "may end in several places of its answer"
        raise GatewayError(
            "upstream_protocol", f"the worker was to repeat the text that it goes on from, which {found}"
        )

    def _until_stop(self, text: str) -> str:
        """A worker that looks for stop strings behind the prompt, and repeats less of it, overlooks the first ones."""
        places = [place for place in map(text.find, self._stops) if place >= 0]
        if not places:
            return text
        self.stopped = True
        return text[: min(places)]


def end_of_known(known: str, text: str) -> int | None:
    """The length of the part of `text` that repeats `known`: all of it, but for special tokens and for spaces that are
    there or not. None where it is not such a repetition.
    """
    if text.startswith(known):
        return len(known)
    place, missing = _repeated(known, text)
    # A space at the very end belongs to one side or the other, so this one has to be as it was.
    space = known[len(known.rstrip()) :]
    return place + len(space) if not missing and text.startswith(space, place) else None


def _repeated(known: str, text: str) -> tuple[int, str]:
    """Where the repetition ends in the text, and the first word of the known text that is not there; "" for none."""
    place = 0
    for position, piece in enumerate(_SPECIAL.split(known)):
        if position % 2:
            found = _past_space(text, place)
            place = found + len(piece) if text.startswith(piece, found) else place
            continue
        for word in piece.split():
            place = _past_space(text, place)
            if not text.startswith(word, place):
                return place, word
            place += len(word)
    return place, ""


def _past_space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _no_space_lost(before: str, after: str) -> bool:
    """Whether a text that came without repetition is whole: it has a space, or none could have been there."""
    return after[0].isspace() or bool(_UNSPACED.match(before[-1]) and _UNSPACED.match(after))
