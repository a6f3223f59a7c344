"""These tests run on the event loop that the program runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from proxy.demo.worker import DemoWorker
from tests.gateway.rig import Rig, with_demo


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def both() -> AsyncIterator[tuple[Rig, DemoWorker]]:
    """A gateway in front of a demonstration worker that serves the model `m`."""
    async with with_demo() as pair:
        yield pair


@pytest.fixture
def rig(both: tuple[Rig, DemoWorker]) -> Rig:
    return both[0]


@pytest.fixture
def worker(both: tuple[Rig, DemoWorker]) -> DemoWorker:
    return both[1]
