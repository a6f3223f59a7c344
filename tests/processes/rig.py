"""A gateway of several processes, started as its operator does, with what the tests of their ends need."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from proxy.demo.worker import DemoWorker
from proxy.types import Json, JsonObject
from tests.cli.serving import HELLO, STREAM, Serving, Stream, serving, worker, written
from tests.gateway.client import CutShortError, frames_of


class Several:
    """One with two serving processes; `fleet` is its worker, `file` has its settings."""

    def __init__(self, gateway: Serving, fleet: DemoWorker, file: Path) -> None:
        self.gateway, self.fleet, self.file = gateway, fleet, file

    async def stop(self, code: int = 0) -> None:
        """Stop it in good order."""
        self.gateway.process.send(signal.SIGTERM)
        assert await self.gateway.ended() == code

    async def pids(self) -> dict[str, int]:
        """The process of each place, but for those that are leaving."""
        status = await self.gateway.document("/status")
        assert isinstance(status, dict)
        rows = status["processes"]
        assert isinstance(rows, list)
        found: dict[str, int] = {}
        for row in rows:
            assert isinstance(row, dict)
            if not row.get("leaving"):
                found[str(row["role"])] = int(str(row["pid"]))
        return found

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """End one process; its pid."""
        pid = (await self.pids())[name]
        os.kill(pid, number)
        return pid

    async def replaced(self, name: str, pid: int, seconds: float = 2.0) -> None:
        """Wait until another one has this place, no longer than it may take."""

        async def other() -> bool:
            with contextlib.suppress(OSError, CutShortError, AssertionError):
                return (await self.pids()).get(name, pid) != pid
            return False

        await self.until(other, f"{name} was not replaced", seconds)

    async def until(self, condition: Callable[[], Awaitable[bool]], otherwise: str, seconds: float = 5.0) -> None:
        """Wait for a condition that is awaited."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not await condition():
            assert asyncio.get_running_loop().time() < deadline, otherwise
            await asyncio.sleep(0.01)

    async def in_flight(self) -> int:
        """Leases that the fleet counts."""
        rows = await self.gateway.rows("/workers")
        return sum(int(str(row["in_flight"])) for row in rows)

    async def counts(self, count: int) -> None:
        """Wait until the fleet counts so many leases."""

        async def so_many() -> bool:
            with contextlib.suppress(OSError, CutShortError):
                return await self.in_flight() == count
            return False

        await self.until(so_many, f"not {count} in flight")

    async def streams(self, count: int, body: Json = None) -> list[Stream]:
        """So many, each with its first frame there."""
        return [*await asyncio.gather(*(Stream.begin(self.gateway.clients, body) for _ in range(count)))]

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels."""
        page = (await self.gateway.get("/metrics")).body.decode()
        found = [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found if all(each in line for each in wanted))

    async def asked(self, count: int) -> list[list[JsonObject]]:
        """The frames of so many more streams, to their ends."""
        replies = await asyncio.gather(*(self.gateway.ask(STREAM, HELLO) for _ in range(count)))
        return [frames_of(reply.body) for reply in replies]


async def ends(streams: list[Stream]) -> list[str]:
    """How each stream ended: its finish reason, or `cut`."""

    async def end(stream: Stream) -> str:
        try:
            frames = await stream.rest()
        except (CutShortError, OSError):
            return "cut"
        return str(frames[-1].get("finish_reason") or frames[-1].get("error_code"))

    return [*await asyncio.gather(*map(end, streams))]


@contextlib.asynccontextmanager
async def several(
    folder: Path,
    *arguments: str,
    chunks: float = 80,
    limit: int = 60,
    accept: Json = None,
    more: Sequence[str] = (),
    **settings: Json,
) -> AsyncIterator[Several]:
    """`serve --workers 2` in front of one worker of the model `m`, from the moment at which it serves.

    chunks: of each stream in a second; a stream has 61. limit: of requests at once; accept: where workers register;
    more: addresses of further workers.
    """
    async with worker(chunks_per_second=chunks) as fleet:
        chosen: JsonObject = {
            "fastchat": {"workers": [fleet.address, *more], "worker_limits": {fleet.address: limit}, "accept": accept},
            "rules": ["dbgpt-worker", "fastchat-worker"],  # all of them would take their time to be read
            "shutdown_seconds": 5.0,
            "watch_files": False,
            **settings,
        }
        file = written(folder / "settings.yaml", chosen)
        async with serving(file, "--workers", "2", *arguments) as gateway:
            yield Several(gateway, fleet, file)
