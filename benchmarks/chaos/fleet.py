"""The workers as processes: tormented by the schedule, and well again afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import aiohttp

from benchmarks.chaos.schedule import Episode
from benchmarks.process import Process, free_port, started

TELL_SECONDS = 5.0


class WorkerProcess:
    """One worker on a port that stays the same when the process is killed and started again. Close it at the end."""

    def __init__(self, number: int, folder: Path, seed: int) -> None:
        self._number, self._folder, self._seed = number, folder, seed
        self._port = free_port()
        self._lives = 0
        self._stack = ExitStack()
        self._process: Process | None = None
        self._stopped = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._lives += 1
        seed = f"{self._seed} {self._number} {self._lives}"
        command = [sys.executable, "-m", "benchmarks.chaos.worker", "--port", str(self._port), "--seed", seed]
        name = f"worker-{self._number}-{self._lives}"
        self._process = self._stack.enter_context(started(name, command, self._folder))

    def wait(self) -> None:
        """Until it listens. StartError when it does not."""
        if self._process is None:
            raise RuntimeError(f"worker {self._number} was never started")
        self._process.wait_for_address()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._stack.close()  # collects the ended process

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)
        self._stopped = True

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)
        self._stopped = False

    def close(self) -> None:
        """End the process; a stopped one could not."""
        if self._stopped:
            self.go_on()
        self._stack.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError(f"worker {self._number} was never started")
        os.kill(self._process.pid, number)


async def torment(
    workers: Sequence[WorkerProcess], episodes: Sequence[Episode], counts: Counter[str], *, began: float
) -> None:
    """Play the episodes; cancel it when the load has ended. Every worker is well again when it returns or ends so."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TELL_SECONDS)) as session:
        playing = [asyncio.create_task(_play(session, workers[e.worker], e, counts, began)) for e in episodes]
        try:
            await asyncio.gather(*playing)
        finally:
            for task in playing:
                task.cancel()
            await asyncio.gather(*playing, return_exceptions=True)


async def _play(
    session: aiohttp.ClientSession, worker: WorkerProcess, episode: Episode, counts: Counter[str], began: float
) -> None:
    await asyncio.sleep(max(0.0, began + episode.at - time.monotonic()))
    counts[episode.trouble] += 1
    lasting = asyncio.sleep(episode.seconds)
    if episode.trouble == "kill":
        worker.kill()
        try:
            await lasting
        finally:
            worker.start()
    elif episode.trouble == "stop":
        worker.stop()
        try:
            await lasting
        finally:
            worker.go_on()
    else:
        await _tell(session, worker, episode.trouble)
        try:
            await lasting
        finally:
            await _tell(session, worker, None)


async def _tell(session: aiohttp.ClientSession, worker: WorkerProcess, trouble: str | None) -> None:
    async with session.post(f"{worker.url}/chaos", json={"trouble": trouble}) as response:
        response.raise_for_status()
