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
from proxy.translate.plan import Route
from proxy.translate.request import whole_result
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
        """As `answer`, for one of several, which is given up when another one fails. What all share is read from the
        first one.
        """
        try:
            made = await self.answer()
        except asyncio.CancelledError:
            self._tries.release(None, neutral=True)
            raise
        if self._tries.call.index:
            self._tries.forget()
        return made

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
        found = whole_result(built, whole)
        if asked.asking is not None:
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

    One for which there is no place while others are under way is made when one of these is over: they may have it.
    """
    found: dict[int, Made] = {}
    under_way = {asyncio.ensure_future(first.part()): 0}
    beginning: set[asyncio.Future[Any]] = {*under_way, first.elements}
    at_once = ELEMENTS_AT_ONCE
    try:
        await asyncio.wait(beginning, return_when=asyncio.FIRST_COMPLETED)
        to_do = list(reversed(range(1, first.elements.result() if first.elements.done() else 1)))
        while under_way or to_do:
            while to_do and len(under_way) < at_once:
                index = to_do.pop()
                under_way[asyncio.ensure_future(another(index).part())] = index
            done, left = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            refused = {task for task in done if _had_no_place(task)}
            if refused and (left or refused != done):
                at_once = max(1, len(left))
                to_do += sorted((under_way.pop(task) for task in refused), reverse=True)
                done -= refused
            for task in done:
                found[under_way.pop(task)] = task.result()
        return [made for _, made in sorted(found.items(), key=lambda item: item[0])]
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _had_no_place(task: asyncio.Future[Any]) -> bool:
    """Whether the request never came to a worker, because all have enough to do."""
    error = None if task.cancelled() else task.exception()
    return isinstance(error, GatewayError) and error.kind == "busy" and error.upstream_status is None
