"""What a framing is: where one frame of a body ends and the next begins.

A decoder takes the bytes of one body as they arrive, cut anywhere, and returns the payload of every frame that is
complete. What it returns, and the error it ends with, depend on the bytes alone and never on where they were cut.
An encoder turns one payload into its bytes on the wire. Payloads are not parsed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

FramingErrorKind = Literal["too_large", "malformed", "truncated"]


class FramingError(ValueError):
    """Bytes that cannot be framed; the message names the framing, the frame (counted from 1) and what was expected.

    `too_large`: a payload over the decoder's limit. `truncated`: the input ended inside a frame.
    `malformed`: a payload that the framing cannot carry; only encoders raise it.
    """

    def __init__(self, kind: FramingErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: FramingErrorKind = kind


class Decoder(Protocol):
    """Decodes one body. After a FramingError it stays failed: every further call raises the same error again."""

    @property
    def done(self) -> bool:
        """Whether the stream said that it is over (SSE: `[DONE]`); always False in framings without such a mark."""

    @property
    def pending(self) -> int:
        """Bytes held now for a frame that is not complete; at most the limit and 6 bytes of framing around it."""

    def only(self, data: bytes) -> bytes | None:
        """The payload where `data` is just one frame, which it then counts as fed; None where it is anything else, and
        `feed` has to take it. A decoder for which this is no simpler may always say None.
        """

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that `data` completes.

        Raises FramingError `too_large`. When the same `data` also completed frames before the oversized one, those are
        returned and the next call raises, so that no read boundary decides whether a good frame is seen.
        """

    def finish(self) -> list[bytes]:
        """Say that the input has ended; return the payloads that the end completes. The last call on a decoder.

        Raises FramingError: `truncated`, or `too_large` (also one that `feed` has kept back).
        """


@dataclass(frozen=True)
class Framing:
    """One row of the table of framings."""

    name: str
    content_type: str
    new_decoder: Callable[[int], Decoder]
    """Takes the largest payload accepted, in bytes (at least 1)."""
    encode: Callable[[bytes], bytes]
    """One payload as it goes on the wire; raises FramingError `malformed` for one that the framing cannot carry."""
    terminator: bytes
    """What ends a stream after its last frame; empty where the end of the body is enough."""
    around: tuple[bytes, bytes] | None = None
    """What `encode` puts before and behind a payload without control characters, as JSON in one line is."""
