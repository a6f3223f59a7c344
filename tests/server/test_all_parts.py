"""The answers to several parts of a request, some of them at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from proxy.limits import ELEMENTS_AT_ONCE
from proxy.server.whole import WholeRun, all_parts


class Parts:
    """Stand-ins for the answers to `count` parts. `wait` says how long each takes, in turns of the loop; a part whose
    number is in `failing` fails.
    """

    def __init__(self, count: int, wait: Callable[[int], int], failing: int | None = None) -> None:
        self.count, self.wait, self.failing = count, wait, failing
        self.begun: list[int] = []
        self.ended = 0
        self.most = 0

    def part(self, index: int) -> WholeRun[int]:
        return cast("WholeRun[int]", _Part(self, index))


class _Part:
    def __init__(self, parts: Parts, index: int) -> None:
        self._parts, self._index = parts, index
        self.elements: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def part(self) -> int:
        parts = self._parts
        parts.begun.append(self._index)
        parts.most = max(parts.most, len(parts.begun) - parts.ended)
        try:
            await asyncio.sleep(0)
            self.elements.set_result(parts.count)
            for _ in range(parts.wait(self._index)):
                await asyncio.sleep(0)
            if self._index == parts.failing:
                raise ValueError(self._index)
            return self._index
        finally:
            parts.ended += 1


WAITS: list[Callable[[int], int]] = [
    lambda _: 0,
    lambda index: index,
    lambda index: 20 - index,
    lambda index: index % 3,
]


@pytest.mark.parametrize("wait", range(len(WAITS)))
@pytest.mark.parametrize("count", [1, 2, ELEMENTS_AT_ONCE, ELEMENTS_AT_ONCE + 1, 3 * ELEMENTS_AT_ONCE, 17])
async def test_all_are_answered_in_their_order(count: int, wait: int) -> None:
    """Also where several are ready in the same moment."""
    parts = Parts(count, WAITS[wait])
    assert await all_parts(parts.part(0), parts.part) == [*range(count)]
    assert parts.begun == [*range(count)]
    assert parts.most <= min(count, ELEMENTS_AT_ONCE)


@pytest.mark.parametrize("failing", [0, 1, 5, 9])
async def test_a_failure_ends_all_before_it_is_told(failing: int) -> None:
    """None is left under way, and hardly one is begun any more."""
    parts = Parts(10, lambda index: 1 if index == failing else 3, failing)
    with pytest.raises(ValueError, match=str(failing)):
        await all_parts(parts.part(0), parts.part)
    assert len(parts.begun) == parts.ended <= failing + ELEMENTS_AT_ONCE


async def test_who_stops_waiting_stops_them_all() -> None:
    """As a client that leaves."""
    parts = Parts(10, lambda index: 1000)
    waiting = asyncio.ensure_future(all_parts(parts.part(0), parts.part))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(parts.begun) == ELEMENTS_AT_ONCE
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert parts.ended == ELEMENTS_AT_ONCE
