"""The thought of a model apart from its answer.

Models that think first write it between two tags in their text (`<think>`, `</think>` and others); the opening one may
stand in the prompt already. What is shown of a text only grows, and so do both of its parts: what may yet become a tag
is held back until it is one, or is not.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Tags(NamedTuple):
    """What stands around a thought. Neither is empty, has white space at its ends, or has the other in it.

    begins_inside: the text begins with the thought, because the prompt ended with the opening tag.
    """

    open: str
    close: str
    begins_inside: bool = False


class Parts(NamedTuple):
    """The thought and the answer, or what is new of them."""

    reasoning: str
    text: str


class ReasoningSplitter:
    """One growing text in two growing parts. Each call costs what is new of the text, however long it is.

    White space is left out before the first tag of a text and behind each tag, but where it keeps two words apart; a
    second thought begins in a line of its own. `unopened` is set by a closing tag that nothing opened: it is left out,
    but what was before it has been shown as the answer. An opening tag at the beginning of a thought is left out (a
    model may repeat that of its prompt), further inside it is part of the thought.
    """

    __slots__ = (
        "_inside",
        "_lead",
        "_pending",
        "_reasoning",
        "_starts",
        "_tag",
        "_tags",
        "_taken",
        "_text",
        "unopened",
    )

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._tag = re.compile(f"{re.escape(tags.open)}|{re.escape(tags.close)}")
        self._starts = {tags.open[0], tags.close[0]}
        self._inside = tags.begins_inside
        self._lead: str | None = None if tags.begins_inside else ""  # white space that nothing else was before
        self._pending = ""
        self._taken = 0
        self._reasoning = _Part(separator="\n")
        self._text = _Part()
        self._reasoning.behind_tag = tags.begins_inside
        self.unopened = False

    @property
    def parts(self) -> Parts:
        """All of both so far."""
        return Parts(self._reasoning.whole, self._text.whole)

    def add(self, whole: str) -> Parts:
        """Take the text so far, which begins with the one before; what is new of both parts."""
        rest = self._pending + whole[self._taken :]
        self._taken = max(self._taken, len(whole))
        for start in self._starts:
            if start in rest:
                self._split(rest)
                break
        else:
            self._say(rest)
        return self._new()

    def _split(self, rest: str) -> None:
        place = 0
        for found in self._tag.finditer(rest):
            self._say(rest[place : found.start()])
            self._pass(found[0])
            place = found.end()
        held = max(_beginning(self._tags.open, rest, place), _beginning(self._tags.close, rest, place))
        self._say(rest[place : len(rest) - held])
        self._pending = rest[len(rest) - held :]

    def finish(self, whole: str) -> Parts:
        """As `add`, for the final text, of which nothing is held back. It may be shorter, without a stop string that
        has been shown; then so are the parts.
        """
        if len(whole) < self._taken:
            shown, anew = self.parts, ReasoningSplitter(self._tags)
            anew.finish(whole)
            self._reasoning, self._text, self.unopened = anew._reasoning, anew._text, anew.unopened
            return Parts(self._reasoning.whole[len(shown.reasoning) :], self._text.whole[len(shown.text) :])
        reasoning, text = self.add(whole)
        self._say(self._pending)
        if self._lead:
            self._text.add(self._lead)
        self._pending, self._lead = "", None
        more = self._new()
        return Parts(reasoning + more.reasoning, text + more.text)

    def _new(self) -> Parts:
        return Parts(self._reasoning.take_new(), self._text.take_new())

    def _pass(self, tag: str) -> None:
        """Go from one part to the other."""
        self._lead = None
        if tag == self._tags.close:
            self.unopened = self.unopened or not self._inside
            self._inside = False
            self._text.behind_tag = True
        elif self._inside and not self._reasoning.behind_tag:
            self._reasoning.add(tag)
        else:
            self._inside = True
            self._reasoning.behind_tag = True

    def _say(self, piece: str) -> None:
        if self._lead is not None:
            piece = self._lead + piece
            self._lead = piece if not piece or piece.isspace() else None
            if self._lead is not None:
                return
        (self._reasoning if self._inside else self._text).add(piece)


class _Part:
    """One of the two, put together from its pieces. behind_tag: nothing was said since the last tag but white space
    that is left out; separator: put between what was said before a tag and behind it, instead of the white space there.
    """

    __slots__ = ("_last", "_new", "_pieces", "_separator", "behind_tag")

    def __init__(self, separator: str = "") -> None:
        self._pieces: list[str] = []
        self._new: list[str] = []
        self._last = " "  # at the beginning nothing has to be kept apart
        self._separator = separator
        self.behind_tag = False

    @property
    def whole(self) -> str:
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def add(self, piece: str) -> None:
        if self.behind_tag:
            apart = self._last.isspace()
            piece = piece.lstrip() if apart or self._separator else piece
            if piece and not apart:
                piece = self._separator + piece
        if piece:
            self.behind_tag = False
            self._last = piece[-1]
            self._new.append(piece)

    def take_new(self) -> str:
        new = "".join(self._new)
        self._new.clear()
        if new:
            self._pieces.append(new)
        return new


def _beginning(tag: str, text: str, start: int) -> int:
    """How many characters at the end of the text, behind `start`, may be the beginning of the tag."""
    for length in range(min(len(tag) - 1, len(text) - start), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
