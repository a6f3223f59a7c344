"""The text of a stream between two conventions: each chunk has the whole text so far (cumulative), or only what is new
(incremental).

Cumulative text from a model server is not simply growing. A character whose bytes are not all there yet shows as U+FFFD
at the end and is replaced by the next chunk (workers that decode all tokens again for each chunk); a server may cut
a stop string off again, or send an empty text last. A client that slices by the length it has seen, as some API
server does, would lose or double characters. So what is shown grows only: its end is held back while it may still
change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Mode = Literal["cumulative", "incremental"]

HALF_CHARACTER = "\ufffd"


class TextFlow:
    """One stream's text.

    source: how the worker sends it; hold_back: characters kept back besides a half character until the end, so that the
    finishing chunk always carries new text (an API server that counts on it may send its finish event twice when it
    does not).
    `notes` has, once each, what happened to the text that a reader of the answer cannot see: `text_shrunk`,
    `text_rewritten`. prefix: put before the worker's text; ends: stop strings that this worker leaves at the end of its
    text, where they are cut off; what may become one is held back.
    """

    __slots__ = ("_ends", "_hold_back", "_incremental", "_longest", "_shown", "notes", "prefix")

    def __init__(self, source: Mode, hold_back: int = 0, prefix: str = "", ends: Sequence[str] = ()) -> None:
        self.prefix = prefix
        self._ends = tuple(end for end in ends if end)
        self._incremental = source == "incremental"
        self._hold_back = hold_back
        self._longest = ""
        self._shown = ""
        self.notes: list[str] = []

    @property
    def is_plain(self) -> bool:
        """Whether the client gets the worker's text as it is, but for half characters and what is held back."""
        return not self.prefix and not self._ends

    @property
    def whole(self) -> str:
        """All the text that there is, as far as it stands."""
        return self.prefix + self._longest

    @property
    def received(self) -> str:
        """What came of the text without the prefix and without a half character at its end; never less than shown."""
        return max(self._longest.rstrip(HALF_CHARACTER), self._shown, key=len)

    @property
    def shown(self) -> str:
        """The text that the client has been given so far."""
        return self.prefix + self._shown if self._shown else ""

    def add(self, text: str) -> None:
        """Take the text of one chunk."""
        if self._incremental:
            self._longest += text
            return
        longest = self._longest
        if text.startswith(longest):
            self._longest = text
            return
        stable = longest.rstrip(HALF_CHARACTER)
        whole = text.rstrip(HALF_CHARACTER)
        if len(whole) < len(stable) and stable.startswith(whole):
            # Where a vocabulary has only the bytes of a character, half of one takes whole ones before it along.
            if len(text) < len(stable):
                self._note("text_shrunk")
            return
        if not text.startswith(stable):
            self._note("text_rewritten")
        self._longest = text

    def advance(self) -> str:
        """What the client may see after this chunk: the text less what may still change. Never shorter than before."""
        text = self._longest
        if text.endswith(HALF_CHARACTER):
            text = text.rstrip(HALF_CHARACTER)
        if self._ends:
            text = text[: len(text) - _begun(text, self._ends)]
        if self._hold_back:
            text = text[: -self._hold_back]
        if len(text) > len(self._shown):
            self._shown = text
        return self.prefix + self._shown if self.prefix else self._shown

    def finish(self, last: str | None = None, stops: Sequence[str] = ()) -> str:
        """The final text. `last` is the text of the finishing chunk, which may be shorter than an earlier one.

        The shorter text is right where what it lost is a stop string, or the beginning of one; else the loss is the
        worker's fault (one kind of worker ends with an empty text, vLLM 0.3 cuts the last token) and the longest
        text stands.
        """
        text = self._longest
        if last is not None and not self._incremental and len(last) < len(text) and text.startswith(last):
            lost = text[len(last) :]
            if any(stop.startswith(lost) or (last and stop and lost.startswith(stop)) for stop in stops):
                text = last
                self._longest = last
        if self._ends:
            text = text[: len(text) - max([len(end) for end in self._ends if text.endswith(end)], default=0)]
            self._longest = text
        self._shown = text
        return self.prefix + text

    def continued(self, received: str | None = None) -> TextFlow:
        """The flow of the worker that goes on after this one's was lost: its text stands behind what was received.

        A half character at the end is dropped, for the other worker generates it anew. What was shown stays shown.
        received: what came, where it came another way.
        """
        mode: Mode = "incremental" if self._incremental else "cumulative"
        flow = _ContinuedFlow(mode, self._hold_back, self.prefix, self._ends)
        flow._base = flow._longest = self.received if received is None else received
        flow._shown = self._shown
        flow.notes = self.notes
        return flow

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


class _ContinuedFlow(TextFlow):
    """As `TextFlow`, with the text that other workers gave before put in front of what this one says."""

    __slots__ = ("_base",)

    _base: str

    def add(self, text: str) -> None:
        super().add(text if self._incremental else self._base + text)

    def finish(self, last: str | None = None, stops: Sequence[str] = ()) -> str:
        return super().finish(None if last is None else self._base + last, stops)


def _begun(text: str, ends: Sequence[str]) -> int:
    """How many of the last characters are one of `ends`, or the beginning of one."""
    return max([size for end in ends for size in range(1, len(end) + 1) if text.endswith(end[:size])], default=0)
