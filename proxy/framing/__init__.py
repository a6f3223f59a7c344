"""Bytes to frames and back. `FRAMINGS` is the one table of what a rule can name."""

from __future__ import annotations

from proxy.framing import sse
from proxy.framing.base import Decoder, Framing, FramingError, FramingErrorKind
from proxy.framing.delimited import NdjsonDecoder, NulDecoder, encode_ndjson, encode_nul
from proxy.framing.whole import WholeDecoder, encode_whole

__all__ = ["FRAMINGS", "Decoder", "Framing", "FramingError", "FramingErrorKind"]

FRAMINGS: dict[str, Framing] = {
    framing.name: framing
    for framing in (
        # No media type is registered for it; intermediaries leave this one alone.
        Framing("nul", "application/octet-stream", NulDecoder, encode_nul, b"", (b"", b"\0")),
        Framing("sse", "text/event-stream", sse.SseDecoder, sse.encode_sse, sse.TERMINATOR, (b"data: ", b"\n\n")),
        Framing("ndjson", "application/x-ndjson", NdjsonDecoder, encode_ndjson, b"", (b"", b"\n")),
        Framing("json", "application/json", WholeDecoder, encode_whole, b""),
    )
}
