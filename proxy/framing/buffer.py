"""The state that all decoders share: a bounded buffer that is never searched, and an error that stays."""

from __future__ import annotations

from typing import NoReturn

from proxy.framing.base import FramingError, FramingErrorKind


class BufferedDecoder:
    """Base of the decoders.

    `_held` is the beginning of the frame that is not complete. A decoder searches each read once, when it arrives, and
    appends what is left over; so a frame in many small reads costs time in proportion to its length.
    """

    name = ""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"{self.name} decoder: the frame limit is {limit} bytes, expected at least 1")
        self.done = False
        self._limit = limit
        self._held = bytearray()
        self._complete = 0
        self._error: FramingError | None = None

    @property
    def pending(self) -> int:
        return len(self._held)

    def only(self, data: bytes) -> bytes | None:
        return None

    def _take(self, rest: bytes = b"") -> bytes:
        """The held bytes and `rest` as one; nothing is held afterwards."""
        self._held += rest
        taken = bytes(self._held)
        self._held.clear()
        return taken

    def _release(self) -> None:
        """Let go of everything held."""
        self._held.clear()

    def _raise_again(self, error: FramingError) -> NoReturn:
        # A bare second raise would add to the first one's traceback, call after call.
        raise error.with_traceback(None)

    def _fail(self, kind: FramingErrorKind, what: str, frames: list[bytes]) -> list[bytes]:
        """Fail for good: now, or with the next call when there are `frames` to hand out first."""
        self._release()
        self._error = FramingError(kind, f"{self.name} frame {self._complete + 1} {what}")
        if not frames:
            raise self._error
        return frames

    def _fail_too_large(self, frames: list[bytes]) -> list[bytes]:
        return self._fail("too_large", f"is over the limit of {self._limit} bytes", frames)
