"""Every test of this folder runs on asyncio's own loop and on uvloop, and must leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from proxy.upstream import UpstreamPool


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def pool() -> AsyncIterator[UpstreamPool]:
    """A pool with its defaults; afterwards no connection, timer or task of it may be left."""
    pool = UpstreamPool()
    yield pool
    await assert_nothing_left(pool)


async def assert_nothing_left(pool: UpstreamPool) -> None:
    for _ in range(100):
        if pool.open_now == pool.idle_now:
            break
        await asyncio.sleep(0.005)
    assert pool.open_now == pool.idle_now, "a connection is neither idle nor closed"
    await pool.close()
    assert (pool.open_now, pool.idle_now) == (0, 0)
    loop = asyncio.get_running_loop()
    scheduled: list[asyncio.TimerHandle] = getattr(loop, "_scheduled", [])
    assert [handle for handle in scheduled if not handle.cancelled() and "upstream" in repr(handle)] == []
    assert asyncio.all_tasks() - {asyncio.current_task()} == set()
