"""A demonstration worker as a process of its own that can be told to fail: `python -m benchmarks.chaos.worker`.

`POST /chaos {"trouble": "reset"}` begins a trouble, one of those in `schedule.py` that a worker can make itself; null
ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
from collections.abc import Sequence

from aiohttp import web

from benchmarks.chaos.questions import CHUNKS_PER_SECOND, MODEL, WORDS
from benchmarks.loop import run_loop
from proxy.demo.faults import Fault
from proxy.demo.worker import DemoWorker
from proxy.types import JsonObject

STREAM = "/worker_generate_stream"
SHARE = 0.3
# A head that is late, but not too late; and the pause of a stall. The gateway's limits lie between.
SLOW_SECONDS = (0.2, 0.8)
STALL_SECONDS = (2.5, 4.0)
BROKEN_FRAMES = (
    b'{"text": "half an\0',
    b"\xff\xfe\0",
    b"[1, 2]\0",
    b"<html>Bad Gateway</html>\0",
    b'{"error_code": 0}\0',
)


class TroubledWorker(DemoWorker):
    """A demonstration worker with a trouble that can be changed from outside."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__([MODEL], chunks_per_second=CHUNKS_PER_SECOND, words=WORDS, fault=self._strike)
        self._rng = rng
        self._trouble: str | None = None

    def app(self) -> web.Application:
        app = super().app()
        app.router.add_post("/chaos", self._change)
        return app

    async def _change(self, request: web.Request) -> web.Response:
        self._trouble = json.loads(await request.read())["trouble"]
        return web.Response()

    def _strike(self, path: str, body: JsonObject) -> Fault | None:
        if path != STREAM or self._trouble is None:
            return None
        rng, struck = self._rng, self._rng.random() < SHARE
        place = rng.choice((None, 0, 1, 2, 5, 15))
        if self._trouble == "head":
            return Fault("stall", seconds=rng.uniform(*(STALL_SECONDS if struck else SLOW_SECONDS)))
        if not struck:
            return None
        if self._trouble == "reset":
            return Fault(rng.choice(("reset", "cut")), after=place)
        if self._trouble == "stall":
            return Fault("stall", after=place, seconds=rng.uniform(*STALL_SECONDS))
        return Fault("frame", after=place or 0, data=rng.choice(BROKEN_FRAMES))


async def _serve(port: int, seed: str) -> None:
    worker = TroubledWorker(random.Random(seed))
    address = await worker.start(port=port)
    print(f"listening {address.removeprefix('http://')}", flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await worker.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.worker", description="A worker to be tormented.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", required=True)
    options = parser.parse_args(arguments)
    run_loop(_serve(options.port, options.seed))


if __name__ == "__main__":
    main()
