"""A sink that writes down what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.upstream import Exchange, ResponseHead, Target, Timeouts, UpstreamError, UpstreamPool
from tests.hostile import Peer

QUICK = Timeouts(connect=5, first=5, idle=5, total=10)


class Recorder:
    """`events` holds the names of the calls in order; `over` is done after the last one; begun: with any byte, unless
    a test says otherwise."""

    def __init__(self) -> None:
        self.begun = True
        self.events: list[str] = []
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.error: UpstreamError | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.when_data: Callable[[bytes], None] | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def on_head(self, head: ResponseHead) -> None:
        self.events.append("head")
        self.head = head

    def on_data(self, data: bytes) -> None:
        self.events.append("data")
        self.pieces.append(data)
        if self.when_data is not None:
            self.when_data(data)

    def on_end(self) -> None:
        self.events.append("end")
        self.over.set_result(None)

    def on_error(self, error: UpstreamError) -> None:
        self.events.append("error")
        self.error = error
        self.over.set_result(None)

    async def finished(self) -> Recorder:
        await asyncio.wait_for(asyncio.shield(self.over), 10)
        return self


async def start(
    pool: UpstreamPool,
    worker: Peer | str,
    sink: Recorder,
    *,
    method: str = "POST",
    path: str = "/generate",
    body: bytes = b"{}",
    timeouts: Timeouts = QUICK,
) -> Exchange:
    """Open one exchange; returns when its head is there."""
    target = Target.parse(worker if isinstance(worker, str) else worker.url)
    return await pool.open(target, method=method, path=path, headers={}, body=body, timeouts=timeouts, sink=sink)


async def fetch(pool: UpstreamPool, worker: Peer | str, *, method: str = "POST", body: bytes = b"{}") -> Recorder:
    """One exchange from beginning to end."""
    sink = Recorder()
    await start(pool, worker, sink, method=method, body=body)
    return await sink.finished()
