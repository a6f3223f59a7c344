"""A request that gets one answer: a worker's, or one that is put together from those to the elements of an array."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from proxy.errors import GatewayError
from proxy.limits import ELEMENTS_AT_ONCE
from proxy.server.attempt import Attempt
from proxy.server.sinks import broke_off
from proxy.server.tries import Tries
from proxy.translate.answer import call_result
from proxy.translate.plan import Route
from proxy.types import Json, JsonObject

Made = TypeVar("Made")


class WholeRun(Generic[Made]):
    """One answer; `answer` may be called once. finish: what is made of what the worker said, by the route as it is for
    that worker; another worker is tried where that fails. elements: for how many the call is made, once that is known.
    """

    def __init__(self, tries: Tries, finish: Callable[[Route, JsonObject], Made]) -> None:
        self._tries = tries
        self._finish = finish
        self.elements: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # To the slices that were asked for, also by earlier attempts; and who answered them.
        self._answers: list[Json] = []
        self._answered: tuple[str, Route] | None = None

    async def answer(self) -> Made:
        """The answer, from the first worker that gives one."""
        tries = self._tries
        attempt = await tries.first()
        while True:
            try:
                made = self._finish(*await self._said(attempt))
            except GatewayError as error:  # noqa: PERF203  one for each worker
                attempt = await tries.another(error)
            else:
                follower = await self._instead(attempt)
                if follower is None:
                    tries.release(None)
                    return made
                attempt = follower

    async def part(self) -> Made:
        """As `answer`, for one of several, which is given up when another one fails."""
        try:
            return await self.answer()
        except asyncio.CancelledError:
            self._tries.release(None, neutral=True)
            raise

    async def _instead(self, attempt: Attempt) -> Attempt | None:
        """Another attempt where this one's answer may have been cut off and the operator wants lost streams whole."""
        if not attempt.broke_off or not self._tries.call.traffic.resumes(attempt.lease.facts.model):
            return None
        try:
            return await self._tries.another(broke_off(attempt.address), neutral=True)
        except GatewayError:
            return None  # then it stands

    async def _said(self, attempt: Attempt) -> tuple[Route, JsonObject]:
        """What the answer of one worker means."""
        built = await attempt.build()
        if not self.elements.done():
            self.elements.set_result(built.elements)
        asked = built.route
        if asked.source is not None:
            found = await attempt.collect(asked.source, built)
            attempt.broke_off = attempt.broke_off and asked.upstream is not None and asked.upstream.resume is not None
            return asked, found
        if asked.upstream is None:
            return asked, {}
        answers = self._kept(attempt.lease.facts.model, asked)
        for body in built.bodies[len(answers) :]:
            answers.append(await attempt.ask(built, body))
        whole = answers.copy()
        answers.clear()  # if they do not make an answer together, the next worker is asked for all of them
        if asked.asking is None:
            return asked, {"answers": whole, "upstream": whole[0] if whole else None}
        found = call_result(asked.asking, built.scope, whole)
        self._tries.call.tally.resulted(found)
        return asked, found

    def _kept(self, model: str, asked: Route) -> list[Json]:
        """What came before of the same: parts by two models, or in the words of two backends, make no answer."""
        if self._answered is None or self._answered[0] != model or self._answered[1] is not asked:
            self._answers, self._answered = [], (model, asked)
        return self._answers


async def all_parts(first: WholeRun[Made], another: Callable[[int], WholeRun[Made]]) -> list[Made]:
    """The answers to all elements in their order, `ELEMENTS_AT_ONCE` at the same time. Where one fails, or nobody waits
    any more, the others are given up; then nothing of them is under way.
    """
    tasks = [asyncio.ensure_future(first.part())]
    beginning: set[asyncio.Future[Any]] = {tasks[0], first.elements}
    try:
        await asyncio.wait(beginning, return_when=asyncio.FIRST_COMPLETED)
        count = first.elements.result() if first.elements.done() else 1
        under_way = {tasks[0]}
        while under_way or len(tasks) < count:
            while len(tasks) < count and len(under_way) < ELEMENTS_AT_ONCE:
                tasks.append(asyncio.ensure_future(another(len(tasks)).part()))
                under_way.add(tasks[-1])
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
