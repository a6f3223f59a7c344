"""Frames that end with one byte: `nul` (JSON and a NUL) and `ndjson` (JSON and a line feed)."""

from __future__ import annotations

from proxy.framing.base import FramingError
from proxy.framing.buffer import BufferedDecoder

_NUL = b"\0"
_LF = b"\n"
_CR = b"\r"


class DelimitedDecoder(BufferedDecoder):
    """Splits at every `_delimiter`. Blank frames are keep-alives and are skipped."""

    _delimiter = b""
    _trimmed = 0
    """How many bytes `_payload` may remove from the end of a frame."""

    def only(self, data: bytes) -> bytes | None:
        last = len(data) - 1
        # A last byte above the space is neither blank nor a carriage return.
        if data.find(self._delimiter) != last or self._held or not 0 < last <= self._limit or data[last - 1] <= 0x20:
            return None
        if self._error is not None:
            self._raise_again(self._error)
        self._complete += 1
        return data[:last]

    def feed(self, data: bytes) -> list[bytes]:
        if self._error is not None:
            self._raise_again(self._error)
        payloads: list[bytes] = []
        start = 0
        end = data.find(self._delimiter)
        while end >= 0:
            frame = self._take(data[start:end]) if self._held else data[start:end]
            if not self._take_frame(frame, payloads):
                return self._fail_too_large(payloads)
            start = end + 1
            end = data.find(self._delimiter, start)
        if len(self._held) + len(data) - start > self._limit + self._trimmed:
            return self._fail_too_large(payloads)
        self._held += data[start:]
        return payloads

    def _take_frame(self, frame: bytes, payloads: list[bytes]) -> bool:
        """Append what `frame` carries to `payloads`; False when it is over the limit."""
        payload = self._payload(frame)
        if len(payload) > self._limit:
            return False
        if not self._is_blank(payload):
            payloads.append(payload)
            self._complete += 1
        return True

    def _payload(self, frame: bytes) -> bytes:
        return frame

    def _is_blank(self, payload: bytes) -> bool:
        return not payload


class NulDecoder(DelimitedDecoder):
    """`nul`: every frame, also the last one, ends with a NUL byte."""

    name = "nul"
    _delimiter = _NUL

    def finish(self) -> list[bytes]:
        if self._error is not None:
            self._raise_again(self._error)
        if not self._held:
            return []
        return self._fail("truncated", f"ends after {len(self._held)} bytes, expected a NUL byte to close it", [])


class NdjsonDecoder(DelimitedDecoder):
    """`ndjson`: lines that end with LF or CR LF; the end of the input ends the last line too."""

    name = "ndjson"
    _delimiter = _LF
    _trimmed = len(_CR)

    def finish(self) -> list[bytes]:
        if self._error is not None:
            self._raise_again(self._error)
        payloads: list[bytes] = []
        return payloads if self._take_frame(self._take(), payloads) else self._fail_too_large(payloads)

    def _payload(self, frame: bytes) -> bytes:
        return frame.removesuffix(_CR)

    def _is_blank(self, payload: bytes) -> bool:
        return not payload or payload.isspace()


def encode_nul(payload: bytes) -> bytes:
    """`payload` and a NUL byte; an empty payload is a keep-alive. Raises FramingError when `payload` holds a NUL."""
    if _NUL in payload:
        raise _uncarried("nul", "a NUL byte", payload.index(_NUL))
    return payload + _NUL


def encode_ndjson(payload: bytes) -> bytes:
    """`payload` and a line feed; a blank payload is a keep-alive. Raises FramingError when `payload` holds an LF."""
    if _LF in payload:
        raise _uncarried("ndjson", "a line feed", payload.index(_LF))
    return payload + _LF


def _uncarried(framing: str, delimiter: str, offset: int) -> FramingError:
    return FramingError(
        "malformed", f"{framing} payload has {delimiter} at offset {offset}, expected none inside a frame"
    )
