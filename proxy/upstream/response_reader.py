"""One HTTP/1.x response read from pieces of a byte stream; no sockets here.

What is accepted beside the plain cases (llhttp, the parser inside httptools, refuses bare line feeds, folded or doubled
framing headers and malformed chunks by itself):

- 1xx heads are skipped, `101` is refused, since nobody asked for an upgrade;
- chunk extensions and trailers are ignored;
- 204, 304 and the answer to HEAD have no body, whatever their headers say;
- without a length and without chunks the body lasts until the peer closes;
- a transfer coding other than `chunked`, and versions other than 1.0 and 1.1, are refused;
- bytes after the end do not spoil the response, they spoil the connection (`reusable` is False).
"""

from __future__ import annotations

from typing import NamedTuple

import httptools

from .contract import ErrorKind, ResponseHead


class Failure(NamedTuple):
    """Why reading stopped: the kind of the error, and what was wrong."""

    kind: ErrorKind
    text: str


class ResponseReader:
    """Feed it what the socket gave, then look at `head`, `complete` and `failure`.

    `max_head_bytes` also bounds what may come without any body byte after the head (trailers, chunk extensions);
    `max_headers` bounds the header lines of all heads up to and including the final one.
    """

    __slots__ = (
        "_barren",
        "_body_pieces",
        "_head_bytes",
        "_header_count",
        "_headers",
        "_is_head",
        "_leftover",
        "_max_head_bytes",
        "_max_headers",
        "_parser",
        "_persistent",
        "_pieces",
        "complete",
        "failure",
        "head",
        "on_body",
    )

    def __init__(self, method: str, *, max_head_bytes: int, max_headers: int) -> None:
        self.head: ResponseHead | None = None
        self.complete = False
        self.failure: Failure | None = None
        self._is_head = method == "HEAD"
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self._headers: dict[str, str] = {}
        self._header_count = 0
        self._head_bytes = 0
        self._barren = 0
        self._leftover = False
        self._persistent = False
        self._pieces: list[bytes] = []
        self._body_pieces = 0
        # The parser looks its callbacks up once, here; the body's is the list's own method.
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)

    @property
    def reusable(self) -> bool:
        """The response is complete, and the connection may carry another one."""
        return self.complete and self._persistent and not self._leftover

    @property
    def begun(self) -> bool:
        """Response bytes have come."""
        return self._head_bytes > 0

    def feed(self, data: bytes) -> bytes:
        """The body bytes that `data` brought (may be empty); never called again after `complete` or `failure`."""
        pieces = self._pieces
        if self.head is None:
            self._feed_head(data)
            if self.head is None:
                pieces.clear()  # of a response whose head was refused
                return b""
        else:
            self._run(data)
            self._barren += len(data)
        if self.complete:
            # What follows was taken for the body of a second response.
            del pieces[self._body_pieces :]
        if not pieces:
            if self._barren > self._max_head_bytes and not (self.complete or self.failure):
                self.failure = Failure(
                    "too_large", f"more than {self._max_head_bytes} bytes without a body byte in them"
                )
            return b""
        self._barren = 0
        if len(pieces) == 1:
            return pieces.pop()
        body = b"".join(pieces)
        pieces.clear()
        return body

    def ends_at_eof(self) -> bool:
        """Whether a connection closed by the peer now is the proper end of the body."""
        if self.head is None:
            return False
        return not ("content-length" in self.head.headers or "transfer-encoding" in self.head.headers)

    def progress(self) -> str:
        """How far the response came, for messages."""
        if self.head is not None:
            return "within the body"
        return "within the response head" if self.begun else "before the response"

    def discard(self) -> None:
        """Let go of the parser: it holds this object's methods, and the cycle would wait for the garbage collector."""
        del self._parser

    def _feed_head(self, data: bytes) -> None:
        room = self._max_head_bytes - self._head_bytes
        self._head_bytes += len(data)
        if len(data) <= room:
            self._run(data)
            return
        self._run(data[:room])
        if self.failure is not None:
            return
        if self.head is None:
            self.failure = Failure("too_large", f"the response head is longer than {self._max_head_bytes} bytes")
        else:
            self._run(data[room:])

    def _run(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.complete:
                self._leftover = True
            elif self.failure is None:
                self.failure = Failure("protocol", f"not valid HTTP {self.progress()}: {error}")

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        if self.complete:
            self._leftover = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is not None:
            return
        self._header_count += 1
        if self._header_count > self._max_headers:
            self.failure = Failure("too_large", f"the response has more than {self._max_headers} headers")
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        known = self._headers.get(key)
        self._headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        if self.head is not None or self.failure is not None:
            return
        status = self._parser.get_status_code()
        self.failure = self._objection(status)
        if self.failure is not None:
            return
        if status < 200:
            self._headers = {}
            return
        self.head = ResponseHead(status, self._headers)
        if self._is_head:
            # The parser cannot be told that no body follows, so the connection is not used again.
            self.complete = True

    def on_message_complete(self) -> None:
        # An interim response ends here too, with no head kept.
        if self.head is not None and not self.complete:
            self.complete = True
            self._body_pieces = len(self._pieces)
            self._persistent = self._parser.should_keep_alive()

    def _objection(self, status: int) -> Failure | None:
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return Failure("protocol", f"the response is HTTP/{version}, expected 1.0 or 1.1")
        if status == 101 or status < 100:
            return Failure("protocol", f"the response has status {status:03d}, which was not asked for")
        coding = self._headers.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            return Failure("protocol", f"the response has transfer-encoding {coding!r}, expected chunked")
        return None
