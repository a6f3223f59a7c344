"""One whole run: start everything, load and torment it together, let it come to rest, look at what is left."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.chaos.checks import Check, Sampled, checks, quiet
from benchmarks.chaos.fleet import WorkerProcess, torment
from benchmarks.chaos.load import Ended, run_load
from benchmarks.chaos.questions import questions
from benchmarks.chaos.schedule import schedule
from benchmarks.process import Process, free_port, started
from proxy.types import JsonObject

WORKERS = 4
# A run that takes longer has lost its bound; what has not ended by then is counted as not ended.
MOST_SECONDS = 240.0


@dataclass(frozen=True)
class Plan:
    """What to run. as_shipped: the gateway's retries and breakers stay as they are when nobody sets them; otherwise a
    request may try each worker, however many fail, so that it finds the one that is well."""

    requests: int = 2_000
    at_once: int = 64
    seed: int = 1
    seconds: float = MOST_SECONDS
    as_shipped: bool = False


@dataclass
class Outcome:
    """What a run gave."""

    ended: list[Ended]
    troubles: Counter[str]
    left: Sampled
    checks: list[Check]
    seconds: float
    log: str


def settings(plan: Plan, listen: str, admin: str, workers: Sequence[str]) -> JsonObject:
    """The gateway's: time limits that fit workers which answer within half a second, and a budget for many retries."""
    balance: JsonObject = {
        "retries": {"attempts": WORKERS, "share": 1.0, "burst": 1_000},
        "breaker": {"open_seconds": 1.0, "most_open_seconds": 4.0},
    }
    return {
        "listen": listen,
        "admin": admin,
        "fastchat": {"workers": [*workers], "probe_seconds": 0.5},
        "timeouts": {"connect_seconds": 1.0, "first_seconds": 1.5, "idle_seconds": 1.5, "total_seconds": 30.0},
        "balance": {"queue_length": plan.at_once, **({} if plan.as_shipped else balance)},
        "shutdown_seconds": 2.0,
    }


async def run(plan: Plan, heard: Callable[[Ended], None]) -> Outcome:
    """Raises StartError when a program does not start."""
    begun = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        workers = [WorkerProcess(number, folder, plan.seed) for number in range(WORKERS)]
        for worker in workers:
            stack.callback(worker.close)
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait()
        urls = [worker.url for worker in workers]
        own = stack.enter_context(ExitStack())
        gateway, url, admin = _start_gateway(plan, urls, folder, own)
        ended, troubles = await _play(plan, url, workers, heard)
        for worker in workers:
            await asyncio.to_thread(worker.wait)
        left = await quiet(admin, urls)
        await asyncio.to_thread(own.close)
        log = (folder / "gateway.err").read_text(errors="replace")
        found = checks(ended, plan.requests, left, log, gateway.returncode)
    return Outcome(ended, troubles, left, found, time.monotonic() - begun, log)


def _start_gateway(plan: Plan, workers: Sequence[str], folder: Path, stack: ExitStack) -> tuple[Process, str, str]:
    """Its process, and where it serves and is administered."""
    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(settings(plan, listen, admin, workers)), encoding="utf-8")
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(file)]
    process = stack.enter_context(started("gateway", command, folder))
    process.wait_for_answer(f"http://{admin}/readyz")
    return process, f"http://{listen}", f"http://{admin}"


async def _play(
    plan: Plan, url: str, workers: Sequence[WorkerProcess], heard: Callable[[Ended], None]
) -> tuple[list[Ended], Counter[str]]:
    asked = questions(plan.requests, random.Random(f"questions {plan.seed}"))
    episodes = schedule(plan.seconds, len(workers), random.Random(f"schedule {plan.seed}"))
    troubles: Counter[str] = Counter()
    found: list[Ended] = []

    def note(ended: Ended) -> None:
        found.append(ended)
        heard(ended)

    tormenting = asyncio.create_task(torment(workers, episodes, troubles, began=time.monotonic()))
    try:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(run_load(url, asked, plan.at_once, note), plan.seconds)
    finally:
        tormenting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tormenting
    return found, troubles
