"""One request: its head as it came, its body as it comes, and the way back to its client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from proxy.http.connection import Connection
    from proxy.http.head import Head
    from proxy.http.response import Streamed

# Bytes of a body that may wait for who reads it; then the client has to.
_BODY_WAITS = 512 * 1024
# What a part of it takes beside its bytes. A body may come in chunks of a byte.
_PART_TAKES = 64
_PARTS_MAX = 16


class BodyError(Exception):
    """The rest of a body will not come as it was begun: it is not legal HTTP. One sentence says why."""


class Request:
    """path: as it came, percent-encoded, without the query; headers: by lower-case name, several of one name between
    commas; version: (1, 0) or (1, 1); content_length: None where it is not said; expects: the client waits for leave
    to send its body. connection: whose it is; streamed: the response, once it is begun as a stream.

    A header that is not UTF-8 is read as Latin-1, so that each is text that can be written down anywhere.
    """

    __slots__ = (
        "_complete",
        "_failure",
        "_parts",
        "_waiter",
        "_waiting",
        "connection",
        "content_length",
        "expects",
        "headers",
        "method",
        "path",
        "query_string",
        "streamed",
        "version",
    )

    def __init__(self, connection: Connection, head: Head) -> None:
        self.connection = connection
        self.method, self.path, self.query_string, self.headers = (
            head.method,
            head.path,
            head.query_string,
            head.headers,
        )
        self.version, self.content_length = head.version, head.content_length
        self.expects = self.version >= (1, 1) and self.headers.get("expect", "").lower() == "100-continue"
        self.streamed: Streamed | None = None
        self._parts: list[bytes] = []
        self._waiting = 0
        self._complete = False
        self._failure: str | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def query(self) -> dict[str, str]:
        """The query's fields, the first of each name."""
        found: dict[str, str] = {}
        if self.query_string:
            for name, value in parse_qsl(self.query_string, keep_blank_values=True):
                found.setdefault(name, value)
        return found

    @property
    def left(self) -> bool:
        """Whether the client is gone."""
        return self.connection.lost

    # The body

    @property
    def complete(self) -> bool:
        """Whether all of the body has come, and there is nothing to wait for."""
        return self._complete

    def ends_soon(self, most: int) -> bool:
        """Whether the rest of the body will come, unless the client breaks its word, and is not known to be over `most`
        bytes.
        """
        return self._failure is None and not self.expects and (self.content_length or 0) <= most

    async def parts(self) -> list[bytes]:
        """What came of the body since the last call; empty at its end. Waits where nothing did.

        BodyError; ConnectionError where the client has left within it.
        """
        while not self._parts and not self._complete:
            if self._failure is not None:
                raise BodyError(self._failure)
            if self.left:
                raise ConnectionResetError("the client left within its body")
            if self.expects:
                self.expects = False
                self.connection.go_on()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.came()

    def came(self) -> list[bytes]:
        """As `parts`, without waiting: what came and was not taken, which is all of a body that is `complete`."""
        found, self._parts = self._parts, []
        if len(found) > _PARTS_MAX:
            found = [b"".join(found)]
        if self._waiting > _BODY_WAITS:
            self.connection.resume_body()
        self._waiting = 0
        return found

    def take(self, data: bytes) -> bool:
        """The connection's: a part of the body came. Whether the client has to wait now."""
        self._parts.append(data)
        self._waiting += len(data) + _PART_TAKES
        self.expects = False
        self.wake()
        return self._waiting > _BODY_WAITS

    def end(self, failure: str | None = None) -> None:
        """The connection's: the body is complete, or will never be."""
        if failure is None:
            self._complete = True
        else:
            self._failure = failure
        self.wake()

    def wake(self) -> None:
        """The connection's: who waits for the body is to look again, as the client is gone."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # The way back

    def stream(self, status: int, content_type: str, headers: Mapping[str, str]) -> Streamed:
        """Begin a response that is written piece by piece to the connection's transport: framed in chunks where
        `chunked` says so, and ended by `end_stream`.
        """
        self.streamed = self.connection.begin_stream(self, status, content_type, headers)
        return self.streamed

    @property
    def chunked(self) -> bool:
        """Whether a stream's pieces are chunks of HTTP; an old client knows its end from the connection's."""
        return self.version >= (1, 1)

    def end_stream(self) -> None:
        """The stream is complete."""
        self.connection.end_stream(self)
