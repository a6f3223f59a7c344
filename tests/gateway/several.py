"""Several workers of which a test knows the first one that is asked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from proxy.fleet.facts import WorkerView
from tests.gateway.rig import MODEL, Rig, running
from tests.gateway.scripted import STREAM, Part, ScriptedWorker, scripted


@contextlib.contextmanager
def preferring(rig: Rig, first: ScriptedWorker, *others: ScriptedWorker) -> Iterator[None]:
    """While this lasts requests go to `first`, because the others have something to do."""
    fleet = rig.gateway.fleet
    fleet.enable(first.address, time.monotonic())  # whatever it did before
    leases = [fleet.acquire(MODEL, "llm", time.monotonic(), pinned=other.address) for other in others]
    try:
        yield
    finally:
        for lease in leases:
            lease.release("neutral", time.monotonic())


@contextlib.asynccontextmanager
async def one_fails(
    part: Part, path: str = STREAM, **settings: object
) -> AsyncIterator[tuple[Rig, ScriptedWorker, ScriptedWorker]]:
    """A gateway, a worker that does `part` on `path` and is asked first, and one that answers well."""
    async with (
        scripted({path: part}) as bad,
        scripted({}) as good,
        running(bad.address, good.address, given=settings) as rig,
    ):
        bad.arm()
        with preferring(rig, bad, good):
            yield rig, bad, good


@contextlib.asynccontextmanager
async def with_scripts(*parts: Part, **settings: object) -> AsyncIterator[tuple[Rig, list[ScriptedWorker]]]:
    """A gateway in front of a worker for each part, which does that where a stream is asked for."""
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(scripted({STREAM: part})) for part in parts]
        rig = await stack.enter_async_context(running(*(worker.address for worker in workers), given=settings))
        for worker in workers:
            worker.arm()
        yield rig, workers


def view_of(rig: Rig, worker: ScriptedWorker) -> WorkerView:
    """What the gateway knows of a worker."""
    view = rig.gateway.fleet.worker(worker.address)
    assert view is not None
    return view


def verdicts(rig: Rig, worker: ScriptedWorker) -> dict[str, int]:
    """How many requests to a worker were judged how; what never was is left out."""
    return {name: count for name, count in view_of(rig, worker).outcomes.items() if count}


async def counted(rig: Rig, name: str) -> dict[tuple[str, ...], int]:
    """A counter's series that are not nought, by the values of their labels in order of the labels' names."""
    return {
        tuple(value for _, value in sorted(labels)): int(count)
        for (sample, labels), count in (await rig.scrape()).items()
        if sample == name and count
    }
