"""Heads of requests read from pieces of a byte stream; no sockets here.

llhttp, the parser inside httptools, refuses by itself what could be read in two ways: bare line feeds, a length beside
chunks, several lengths, folded lines, control characters, versions that there are not.
"""

from __future__ import annotations

from typing import Final, Protocol

import httptools

# The request line and all header lines of one request: what servers in front of this one let through.
HEAD_MAX_BYTES: Final = 64 * 1024
HEADERS_MAX: Final = 200
# Those of 64 bits. Python refuses to read a number of some thousands, which may be noughts.
_LENGTH_DIGITS: Final = 20
# Names that most requests have: to find one costs less than to write it in lower case.
_USUAL: Final = {
    spelled.encode(): name
    for name in (
        *("accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"),
        *("traceparent", "transfer-encoding", "user-agent", "x-forwarded-for", "x-request-id"),
    )
    for spelled in (name, name.title())
}
_VERSIONS: Final = {"1.0": (1, 0), "1.1": (1, 1)}


class IllegalRequest(Exception):
    """What came is no request. status: of the answer; the message is one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Taker(Protocol):
    """What is told what was read, from inside `RequestReader.feed`."""

    def head_read(self, head: Head) -> None:
        """A request begins."""

    def body_read(self, data: bytes) -> None:
        """A part of its body."""

    def end_read(self) -> None:
        """It is complete."""


class Head:
    """The head of one request, as `Request` has it; keep: the connection may carry another one."""

    __slots__ = ("content_length", "headers", "keep", "method", "path", "query_string", "version")

    def __init__(
        self, method: str, target: bytes, headers: dict[str, str], version: tuple[int, int], *, keep: bool
    ) -> None:
        self.method = method
        self.path, self.query_string = _split(target)
        self.headers = headers
        self.version = version
        self.keep = keep
        length = headers.get("content-length")
        if length is not None and len(length) > _LENGTH_DIGITS:
            raise IllegalRequest(400, "the Content-Length has more digits than a length")
        self.content_length = int(length) if length is not None else None


class RequestReader:
    """Feed it what the socket gave. IllegalRequest ends the connection; nothing is fed after it."""

    __slots__ = ("_bytes", "_count", "_headers", "_in_head", "_parser", "_resumed", "_size", "_taker", "_target")

    def __init__(self, taker: Taker) -> None:
        self._taker = taker
        self._in_head = True
        self._bytes = 0  # that came since a head or a part of a body was complete
        self._count = 0  # of the head's lines
        self._size = 0  # of their text
        self._target = b""
        self._headers: dict[str, str] = {}
        self._resumed = False  # this parser reads the body of a request whose head another one read
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """What it holds is told to the taker before this returns. IllegalRequest."""
        self._bytes += len(data)
        while data:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserCallbackError as error:
                if isinstance(error.__context__, IllegalRequest):
                    raise error.__context__ from None
                raise
            except httptools.HttpParserError as error:
                raise IllegalRequest(400, f"not valid HTTP: {error}") from None
        if self._bytes > HEAD_MAX_BYTES:
            if self._in_head:
                raise _head_too_large()
            raise IllegalRequest(400, f"more than {HEAD_MAX_BYTES} bytes came that are no part of the body they are in")

    @property
    def is_between(self) -> bool:
        """Whether nothing of a next request has come."""
        return self._in_head and not self._bytes

    def discard(self) -> None:
        """Let go of the parser: it holds this object's methods, and the cycle would wait for the garbage collector."""
        del self._parser, self._taker

    def _without_upgrade(self) -> bytes:
        """A client that offers another protocol gets this one: the parser, which ends here, makes way for a new one,
        which reads the body as it would have been read, behind the head that is returned.
        """
        length, coding = self._headers.get("content-length"), self._headers.get("transfer-encoding")
        framing = f"Content-Length: {length or 0}" if coding is None else f"Transfer-Encoding: {coding}"
        self._resumed = True
        self._parser = httptools.HttpRequestParser(self)
        return f"POST / HTTP/1.1\r\n{framing}\r\n\r\n".encode()

    # Callbacks of the parser

    def on_url(self, target: bytes) -> None:
        if not self._resumed:
            self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._resumed or not self._in_head:
            return  # of a trailer
        headers, key = self._headers, _USUAL.get(name) or name.decode("latin-1").lower()
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        text, known = text.rstrip(" \t"), headers.get(key)
        headers[key] = text if known is None else f"{known}, {text}"
        self._size += len(name) + len(value)
        self._count += 1
        if self._count > HEADERS_MAX:
            raise IllegalRequest(431, f"the request has more than {HEADERS_MAX} headers")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._bytes = 0
        if self._resumed:
            return
        if self._size + len(self._target) > HEAD_MAX_BYTES:
            raise _head_too_large()  # it came in one piece
        parser, headers = self._parser, self._headers
        method = parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise IllegalRequest(405, "CONNECT is not served here")
        version = _VERSIONS.get(parser.get_http_version())
        if version is None:
            raise IllegalRequest(505, f"HTTP/{parser.get_http_version()} is not served here, only 1.0 and 1.1 are")
        if "transfer-encoding" in headers:
            _check_coding(headers["transfer-encoding"].lower(), version)
        self._taker.head_read(Head(method, self._target, headers, version, keep=parser.should_keep_alive()))

    def on_body(self, data: bytes) -> None:
        self._bytes = 0
        self._taker.body_read(data)

    def on_message_complete(self) -> None:
        if not self._resumed and self._parser.should_upgrade():
            return  # its body is still to come
        self._in_head, self._resumed = True, False
        self._bytes = self._count = self._size = 0
        self._target, self._headers = b"", {}
        self._taker.end_read()


def _check_coding(coding: str, version: tuple[int, int]) -> None:
    """IllegalRequest where a body is not simply in chunks, before anything of it is answered."""
    if version == (1, 0):
        # Who passed it on may know no chunks, and see another end of this request.
        raise IllegalRequest(400, "the request is HTTP/1.0, which has no Transfer-Encoding")
    if coding != "chunked":
        status = 501 if coding.endswith("chunked") else 400  # else nobody knows where the body ends
        raise IllegalRequest(status, f"the Transfer-Encoding {coding[:40]!a} is not read here, only chunked is")


def _head_too_large() -> IllegalRequest:
    return IllegalRequest(431, f"the head of the request has more than {HEAD_MAX_BYTES} bytes")


def _split(target: bytes) -> tuple[str, str]:
    """Path and query of a request's target. IllegalRequest for a target that has no path."""
    if not target.isascii():
        raise IllegalRequest(400, "the target of the request is not ASCII")
    text = target.decode("ascii")
    if not text.startswith("/") and text != "*":
        try:
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            raise IllegalRequest(400, f"the target of the request is no path: {text[:80]}") from None
        text = (url.path or b"/").decode("ascii") + (f"?{url.query.decode('ascii')}" if url.query else "")
    path, _, query = text.partition("#")[0].partition("?")
    return path, query
