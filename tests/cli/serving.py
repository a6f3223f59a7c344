"""`serve` as a process in front of a worker in the test's own event loop, with what the tests of signals need."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.address import Address
from proxy.demo.worker import DemoWorker
from proxy.settings import parse_address
from proxy.types import Json, JsonObject
from tests.cli.process import ANY_PORTS, Started
from tests.gateway.client import Connection, Reply, call, frames_of

STREAM = "/api/worker/generate_stream"
HELLO: JsonObject = {"model": "m", "messages": [{"role": "human", "content": "Hello"}]}


class Serving:
    """A gateway process that serves; `clients` and `admin` are where it listens."""

    def __init__(self, process: Started, clients: Address, admin: Address) -> None:
        self.process = process
        self.clients = clients
        self.admin = admin

    async def get(self, page: str) -> Reply:
        """One of the operator's pages."""
        return await call(self.admin, "GET", page, connection="close")

    async def document(self, page: str) -> Json:
        reply = await self.get(page)
        assert reply.status == 200, reply
        return reply.json

    async def rows(self, page: str) -> list[JsonObject]:
        """One of the operator's pages that is a list."""
        found = await self.document(page)
        assert isinstance(found, list)
        return [row for row in found if isinstance(row, dict)]

    async def ready(self) -> None:
        """Wait until it can answer."""
        for _ in range(200):
            if (await self.get("/readyz")).status == 200:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("it does not become ready")

    async def post(self, path: str, body: Json = None) -> Reply:
        """Something that an operator does."""
        return await call(self.admin, "POST", path, body if body is not None else {}, connection="close")

    async def ask(self, path: str, body: Json) -> Reply:
        """A client's call, on a connection of its own."""
        return await call(self.clients, "POST", path, body, connection="close")

    async def line(self, pattern: str) -> str:
        """The first line of its log that has this pattern."""
        return (await asyncio.to_thread(self.process.until, pattern, errors=True)).string

    async def ended(self) -> int:
        """Its exit code."""
        code = await asyncio.to_thread(self.process.wait)
        assert "Traceback" not in "\n".join(self.process.err), self.process.err
        return code


@contextlib.asynccontextmanager
async def serving(file: Path, *arguments: str) -> AsyncIterator[Serving]:
    """`serve --config FILE`, from the moment at which it serves."""
    with Started("serve", "--config", str(file), *ANY_PORTS, *arguments) as process:
        found = [
            await asyncio.to_thread(process.until, rf"^{name} +http://([^/\s]+)") for name in ("clients", "operators")
        ]
        await asyncio.to_thread(process.until, "^registers ")
        yield Serving(process, parse_address(found[0][1]), parse_address(found[1][1]))


@contextlib.asynccontextmanager
async def worker(*models: str, **options: float) -> AsyncIterator[DemoWorker]:
    """A demonstration worker in this event loop."""
    made = DemoWorker(
        models or ("m",), chunks_per_second=options.get("chunks_per_second", 0.0), concurrency=64, words=10
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


class Stream:
    """A stream that has begun."""

    def __init__(self, connection: Connection, head: Reply) -> None:
        self._connection = connection
        self._pieces = connection.pieces(head)
        self._body = b""

    @classmethod
    async def begin(cls, clients: Address, body: Json = None) -> Stream:
        """Ask for one, and wait for its first frame."""
        connection = await Connection.open(clients)
        await connection.request("POST", STREAM, body or HELLO)
        stream = cls(connection, await connection.head())
        while b"\0" not in stream._body:
            stream._body += await anext(stream._pieces)
        return stream

    async def left(self) -> JsonObject:
        """Its first frame; the client goes."""
        await self._connection.leave()
        return frames_of(self._body.partition(b"\0")[0] + b"\0")[0]

    async def rest(self) -> list[JsonObject]:
        """All its frames, once it has ended in good order."""
        try:
            async for piece in self._pieces:
                self._body += piece
        finally:
            await self._connection.leave()
        return frames_of(self._body)


def written(file: Path, document: Json) -> Path:
    """A settings file with this in it; JSON is YAML."""
    file.write_text(json.dumps(document), encoding="utf-8")
    return file
