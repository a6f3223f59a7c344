"""A raw HTTP/1.1 client: what goes over the socket is exactly what a test says, and it leaves exactly when told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from proxy.settings import Address
from proxy.types import Json, JsonObject

SECONDS = 10.0


class Reply(NamedTuple):
    """One whole response; header names in lower case, `body` with the chunks put together."""

    status: int
    headers: dict[str, str]
    body: bytes
    version: str = "1.1"

    @property
    def json(self) -> Json:
        value: Json = json.loads(self.body)
        return value

    @property
    def object(self) -> JsonObject:
        value = self.json
        assert isinstance(value, dict), self
        return value


class CutShortError(Exception):
    """The connection ended before the response did."""


def request_bytes(
    method: str,
    path: str,
    body: Json | bytes = None,
    headers: Mapping[str, str] | None = None,
    *,
    version: str = "1.1",
) -> bytes:
    """A request on the wire; a body that is not bytes goes as JSON, None means no body."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    fields = {"Host": "gateway"}
    if data or body is not None:
        fields.update({"Content-Type": "application/json", "Content-Length": str(len(data))})
    fields.update(headers or {})
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


class Connection:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: Address, *, receive_buffer: int | None = None) -> Connection:
        """receive_buffer: bytes that the system may hold for a client that does not read."""
        if receive_buffer is None:
            return cls(*await asyncio.open_connection(*address, limit=1 << 24))
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, address)
        return cls(*await asyncio.open_connection(sock=raw, limit=1024))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(self, method: str, path: str, body: Json | bytes = None, **headers: str) -> None:
        """Send a request; `content_encoding="gzip"` is a header."""
        await self.send(request_bytes(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()}))

    async def head(self) -> Reply:
        """The response's head, without its body."""
        try:
            raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), SECONDS)
        except asyncio.IncompleteReadError as error:
            raise CutShortError(f"within the head: {error.partial!r}") from None
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        version, status, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Reply(int(status), headers, b"", version.removeprefix("HTTP/"))

    async def pieces(self, head: Reply) -> AsyncIterator[bytes]:
        """The body as it arrives; CutShortError where it ends before its framing says so."""
        if head.headers.get("transfer-encoding") == "chunked":
            while True:
                size = int(await self._line(), 16)
                if size:
                    yield await self._exactly(size)
                assert await self._line() == b""
                if not size:
                    return
        elif "content-length" in head.headers:
            if int(head.headers["content-length"]):
                yield await self._exactly(int(head.headers["content-length"]))
        elif head.status not in (204, 304):
            while data := await asyncio.wait_for(self.reader.read(65536), SECONDS):
                yield data

    async def reply(self, *, bodiless: bool = False) -> Reply:
        """One whole response; bodiless: the answer to HEAD."""
        head = await self.head()
        body = b"" if bodiless else b"".join([piece async for piece in self.pieces(head)])
        return head._replace(body=body)

    async def ended(self) -> bool:
        """Whether the gateway closes the connection, with nothing more on it."""
        try:
            return await asyncio.wait_for(self.reader.read(1), SECONDS) == b""
        except ConnectionError:
            return True

    async def leave(self, *, reset: bool = False) -> None:
        """Close at once, in order or with a TCP reset."""
        if reset and not self.writer.transport.is_closing():
            connection = self.writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def _line(self) -> bytes:
        try:
            return (await asyncio.wait_for(self.reader.readuntil(b"\r\n"), SECONDS))[:-2]
        except asyncio.IncompleteReadError as error:
            raise CutShortError(f"within a chunk's head: {error.partial!r}") from None

    async def _exactly(self, size: int) -> bytes:
        try:
            return await asyncio.wait_for(self.reader.readexactly(size), SECONDS)
        except asyncio.IncompleteReadError as error:
            raise CutShortError(f"{len(error.partial)} of {size} bytes") from None


@contextlib.asynccontextmanager
async def connected(address: Address, *, receive_buffer: int | None = None) -> AsyncIterator[Connection]:
    """A connection that is closed at the end, whatever came over it."""
    connection = await Connection.open(address, receive_buffer=receive_buffer)
    try:
        yield connection
    finally:
        await connection.leave()


async def call(address: Address, method: str, path: str, body: Json | bytes = None, **headers: str) -> Reply:
    """One request on a connection of its own."""
    async with connected(address) as connection:
        await connection.request(method, path, body, **headers)
        return await connection.reply()


def frames_of(body: bytes) -> list[JsonObject]:
    """The frames of a stream's body, each closed by a NUL."""
    *closed, rest = body.split(b"\0")
    assert rest == b"", f"the stream ends within a frame: {rest!r}"
    frames: list[JsonObject] = [json.loads(frame) for frame in closed if frame]
    return frames
