"""So many requests at a time, each with its verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from benchmarks.chaos.questions import JUDGES, Question, Verdict

PATHS = {True: "/api/worker/generate_stream", False: "/api/worker/generate"}
# Longer than a request may wait and fail on every worker; one that has not ended by then never will.
REQUEST_SECONDS = 90.0


@dataclass(frozen=True)
class Ended:
    """One request: when it began and ended, in seconds after the beginning of the load."""

    question: Question
    verdict: Verdict
    began: float
    ended: float


async def run_load(url: str, questions: Sequence[Question], at_once: int, heard: Callable[[Ended], None]) -> None:
    """Ask all of them, `at_once` at a time; `heard` is called as each ends."""
    waiting = iter(questions)
    begun = time.monotonic()
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=at_once)) as session:

        async def lane() -> None:
            for question in waiting:
                began = time.monotonic() - begun
                verdict = await _ask(session, question)
                heard(Ended(question, verdict, began, time.monotonic() - begun))

        await asyncio.gather(*(lane() for _ in range(at_once)))


async def _ask(session: aiohttp.ClientSession, question: Question) -> Verdict:
    limit = aiohttp.ClientTimeout(total=question.leaves or REQUEST_SECONDS)
    try:
        async with session.post(PATHS[question.stream], json=question.body, timeout=limit) as response:
            body = await response.read()
    except asyncio.TimeoutError:
        if question.leaves is not None:
            return Verdict("left")
        return Verdict("wrong", f"no end within {REQUEST_SECONDS:g} s")
    except aiohttp.ClientError as error:
        return Verdict("wrong", f"broken off: {type(error).__name__}: {error}")
    if response.status != 200:
        return Verdict("wrong", f"status {response.status}: {body[:120]!r}")
    return JUDGES[question.stream](body, question.expected())
