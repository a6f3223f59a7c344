"""`json`: the whole body is one frame."""

from __future__ import annotations

from proxy.framing.buffer import BufferedDecoder


class WholeDecoder(BufferedDecoder):
    """Returns nothing until the input ends, then the body. An empty body is truncated."""

    name = "json"

    def feed(self, data: bytes) -> list[bytes]:
        if self._error is not None:
            self._raise_again(self._error)
        if len(self._held) + len(data) > self._limit:
            return self._fail_too_large([])
        self._held += data
        return []

    def finish(self) -> list[bytes]:
        if self._error is not None:
            self._raise_again(self._error)
        if not self._held:
            return self._fail("truncated", "is empty, expected a body of at least one byte", [])
        return [self._take()]


def encode_whole(payload: bytes) -> bytes:
    """`payload` as it is."""
    return payload
