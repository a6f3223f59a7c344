"""Several workers of which a test knows the first one that is asked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator

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


async def counted(rig: Rig, name: str) -> dict[tuple[str, ...], int]:
    """A counter's series that are not nought, by the values of their labels in order of the labels' names."""
    return {
        tuple(value for _, value in sorted(labels)): int(count)
        for (sample, labels), count in (await rig.scrape()).items()
        if sample == name and count
    }
