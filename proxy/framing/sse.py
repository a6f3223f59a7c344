"""`sse`: server-sent events (WHATWG HTML, "Interpreting an event stream"), of which only the data matters here."""

from __future__ import annotations

from proxy.framing.base import FramingError
from proxy.framing.buffer import BufferedDecoder

TERMINATOR = b"data: [DONE]\n\n"

_DONE = b"[DONE]"
_BOM = b"\xef\xbb\xbf"
_LF = b"\n"
_CR = b"\r"
_FIELD = b"data:"
_PREFIX = b"data: "
_COLON = ord(":")


class SseDecoder(BufferedDecoder):
    """One frame is the data of one event: the values of its `data` lines, joined by LF.

    Comments and other fields are dropped as they arrive, whatever their length; the limit is on the data. An event
    without any `data` line is no frame, one with empty data is an empty frame, and both follow the WHATWG text. So does
    an event that no blank line closes: it is not a frame; `finish` calls it truncated. After `[DONE]`, which is this
    trade's convention and not part of the standard, the rest of the input is ignored.

    `_held` is a line that is not complete and may be a `data` line, `_data` the values so far, each with an LF behind.
    """

    name = "sse"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._data = bytearray()
        self._at_start = True
        self._after_cr = False
        self._in_event = False
        self._in_ignored_line = False
        self._between_events = False

    @property
    def pending(self) -> int:
        return len(self._held) + len(self._data)

    def only(self, data: bytes) -> bytes | None:
        end = data.find(_LF)
        # After an error or the end there is nothing between events.
        if self._between_events and end == len(data) - 2 and data.startswith(_PREFIX) and data.endswith(_LF):
            payload = data[len(_PREFIX) : end]
            if len(payload) <= self._limit and payload != _DONE and _CR not in payload:
                self._complete += 1
                return payload
        return None

    def feed(self, data: bytes) -> list[bytes]:
        if self._error is not None:
            self._raise_again(self._error)
        if self.done:
            return []
        if not self._between_events:
            data = self._join_reads(data)
        if _CR in data:
            self._after_cr = data.endswith(_CR)
            data = _with_lf(data)
        frames = self._lines(data, data.find(_LF))
        self._between_events = not (
            self._held or self._in_event or self._in_ignored_line or self._after_cr or self._at_start
        )
        return frames

    def finish(self) -> list[bytes]:
        if self._error is not None:
            self._raise_again(self._error)
        if self._held or self._in_event:
            return self._fail("truncated", "is not closed, expected a blank line after it", [])
        return []

    def _release(self) -> None:
        self._held.clear()
        self._data.clear()
        self._in_event = False

    def _join_reads(self, data: bytes) -> bytes:
        """`data` without what belongs to the read before: the rest of a byte order mark, the LF of a CR LF."""
        if self._at_start:
            data = self._take(data) if self._held else data
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._held += data
                return b""
            self._at_start = False
            data = data.removeprefix(_BOM)
        elif self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(_LF)
        return data

    def _lines(self, data: bytes, end: int) -> list[bytes]:
        """Take in `data`, whose line ends are all LF and the first of them at `end` (-1: none)."""
        frames: list[bytes] = []
        start = 0
        while end >= 0:
            if self._in_ignored_line:
                self._in_ignored_line = False
            elif end == start and not self._held:
                self._close_event(frames)
                if self.done:
                    return frames
            elif not self._take_line(self._take(data[start:end]) if self._held else data[start:end]):
                return self._fail_too_large(frames)
            start = end + 1
            end = data.find(_LF, start)
        if not self._hold(data[start:]):
            return self._fail_too_large(frames)
        return frames

    def _take_line(self, line: bytes) -> bool:
        """Take in one line that is not blank; False when the event's data is over the limit now."""
        if line[0] == _COLON:
            return True
        self._in_event = True
        if line.startswith(_FIELD):
            value = line[len(_FIELD) :].removeprefix(b" ")
        elif line == b"data":
            value = b""
        else:
            return True
        if len(self._data) + len(value) > self._limit:
            return False
        self._data += value
        self._data += _LF
        return True

    def _close_event(self, frames: list[bytes]) -> None:
        self._in_event = False
        if not self._data:
            return
        del self._data[-1]
        payload = bytes(self._data)
        self._data.clear()
        if payload == _DONE:
            self.done = True
            return
        self._complete += 1
        frames.append(payload)

    def _hold(self, tail: bytes) -> bool:
        """Hold the beginning of a line, if it can still matter; False when it is over the limit already."""
        if not tail or self._in_ignored_line:
            return True
        head = bytes(self._held[: len(_FIELD)]) + tail[: len(_FIELD)]
        if not _FIELD.startswith(head[: len(_FIELD)]):
            self._in_ignored_line = True
            self._in_event = self._in_event or head[0] != _COLON
            self._held.clear()
            return True
        if len(self._data) + len(self._held) + len(tail) - len(_PREFIX) > self._limit:
            return False
        self._held += tail
        return True


def encode_sse(payload: bytes) -> bytes:
    """`payload` as one event, a `data` line for each of its lines.

    An event stream has one kind of line end: CR and CR LF in `payload` come out of a decoder as LF. Raises FramingError
    for the payload `[DONE]`, which would end the stream; `TERMINATOR` is for that.
    """
    if payload == _DONE:
        raise FramingError("malformed", "sse payload is [DONE], the mark that ends a stream, expected data")
    if _LF in payload or _CR in payload:
        payload = _with_lf(payload).replace(_LF, b"\ndata: ")
    return _PREFIX + payload + b"\n\n"


def _with_lf(data: bytes) -> bytes:
    """`data` with every CR LF and every lone CR turned into LF."""
    # Several times faster than replacing the two-byte CR LF.
    first, *others = data.split(_CR)
    return _LF.join([first, *[other.removeprefix(_LF) for other in others]])
