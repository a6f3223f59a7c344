"""The chaos run: its schedule, its judgement of answers, its checks, and a short run of it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from benchmarks.chaos.checks import IDLE, Sampled, checks
from benchmarks.chaos.load import Ended
from benchmarks.chaos.questions import (
    CONTEXT_LENGTH,
    MODEL,
    WORDS,
    Question,
    Verdict,
    judge_answer,
    judge_stream,
    questions,
)
from benchmarks.chaos.schedule import CALM_SECONDS, PHASE_SECONDS, TROUBLES, schedule
from proxy.demo.worker import SYSTEM_SENTENCE, DemoWorker
from proxy.types import Json, JsonObject

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The moon 🌙 is far."


def frames(*documents: JsonObject) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\0" for document in documents)


def part(text: str, finish: str | None = None) -> JsonObject:
    return {"text": text, "error_code": 0, **({"finish_reason": finish} if finish else {})}


ERROR: JsonObject = {"text": "the worker failed", "error_code": 50001, "incremental": False}
END = part(TEXT, "stop")


def test_somebody_is_always_well() -> None:
    """In each phase one of the workers has no trouble, every trouble happens, and between phases nobody has any."""
    episodes = schedule(240, 4, random.Random(5))
    assert {episode.trouble for episode in episodes} == set(TROUBLES)
    phases: dict[int, set[int]] = {}
    for episode in episodes:
        phase, begin = divmod(episode.at - 1.0, PHASE_SECONDS + CALM_SECONDS)
        assert begin + episode.seconds <= PHASE_SECONDS
        assert episode.worker not in phases.setdefault(int(phase), set()), "two troubles at a time"
        phases[int(phase)].add(episode.worker)
    assert max(len(sick) for sick in phases.values()) == 3
    assert len({frozenset(sick) for sick in phases.values() if len(sick) == 3}) > 1, "always the same one is well"


def test_a_seed_decides_the_schedule_and_the_questions() -> None:
    """A run that failed can be run again."""
    assert schedule(60, 4, random.Random(1)) == schedule(60, 4, random.Random(1)) != schedule(60, 4, random.Random(2))
    asked = questions(50, random.Random(1))
    assert asked == questions(50, random.Random(1))
    assert len({question.content for question in asked}) == 50


async def test_the_expected_text_is_what_the_worker_answers() -> None:
    """The worker that serves the run gives it for the prompt that the gateway makes."""
    worker = DemoWorker([MODEL], chunks_per_second=0, words=WORDS, context_length=CONTEXT_LENGTH)
    await worker.start()
    question = Question(1, stream=False, content="你好 🌙 (1)", max_new_tokens=300)
    body = {**question.body, "prompt": f"{SYSTEM_SENTENCE} USER: {question.content} ASSISTANT:", "echo": False}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{worker.address}/worker_generate", json=body) as response,
        ):
            assert (await response.json())["text"] == question.expected()
    finally:
        await worker.stop()


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (frames(part("The"), part("The moon \ufffd"), END), "right", ""),
        (frames(ERROR), "failed", "the worker failed"),
        (frames(part("The"), ERROR), "broken", "the worker failed"),
        (frames(part("The sun"), END), "wrong", "another text"),
        (frames(part("The")), "wrong", "unfinished"),
        (frames(part("The", "stop")), "wrong", "unfinished"),
        (frames(END, part(TEXT)), "wrong", "after the end"),
        (frames(ERROR, END), "wrong", "after the end"),
        (frames(part("The"), END)[:-3], "wrong", "ends within a frame"),
        (frames({"text": "", "error_code": 50001}), "wrong", "not an error of the dialect"),
        (frames({"text": "so", "error_code": 12}), "wrong", "not an error of the dialect"),
        (b"<html>\0", "wrong", "not a JSON object"),
        (b"", "wrong", "an empty stream"),
    ],
)
def test_streams_are_judged(body: bytes, kind: str, says: str) -> None:
    """Right is only the whole text with its end; an error is right where it is the dialect's own, and last."""
    verdict = judge_stream(body, TEXT)
    assert verdict.kind == kind, verdict
    assert says in verdict.detail


@pytest.mark.parametrize(
    ("document", "kind"),
    [(END, "right"), (part("The"), "wrong"), (ERROR, "failed"), ({"error_code": 50001}, "wrong"), ([], "wrong")],
)
def test_whole_answers_are_judged(document: Json, kind: str) -> None:
    """An error instead of an answer is always one before anything was shown."""
    assert judge_answer(json.dumps(document).encode(), TEXT).kind == kind


REST = Sampled({f'{name}{{state="active"}}': 0.0 for name in IDLE}, leases=0, queue_lengths=[0, 0])
FINE = Ended(Question(0, stream=True, content="Hi", max_new_tokens=24), Verdict("right"), 0.0, 1.0)


def failing(
    ended: list[Ended], left: Sampled = REST, log: str = "", exit_code: int | None = 0, asked: int = 1
) -> list[str]:
    return [check.name for check in checks(ended, asked, left, log, exit_code) if not check.holds]


def test_each_check_can_fail() -> None:
    """What must not be is found, each by its own check, and nothing else is."""
    assert failing([FINE]) == []
    assert failing([FINE], asked=2) == ["every request ended"]
    for kind, name in (
        ("wrong", "each in a right answer or a right error"),
        ("failed", "none failed before its stream began"),
    ):
        assert failing([FINE, Ended(FINE.question, Verdict(kind, "x"), 0.0, 1.0)], asked=2) == [name]  # type: ignore[arg-type]
    assert failing([Ended(FINE.question, Verdict("broken", "x", 50001), 0.0, 1.0)]) == []
    held = "nothing in flight, leased or waiting in the gateway"
    assert failing([FINE], REST._replace(leases=1)) == [held]
    for name in IDLE:
        busy = {**REST.metrics, f'{name}{{state="active"}}': 1.0}
        assert failing([FINE], REST._replace(metrics=busy)) == [held]
        missing = {series: value for series, value in REST.metrics.items() if not series.startswith(name)}
        assert failing([FINE], REST._replace(metrics=missing)) == [held]
    assert failing([FINE], REST._replace(queue_lengths=[0, 1])) == ["no slot of a worker lost"]
    assert failing([FINE], log="Traceback (most recent call last):") == ["no fault of the gateway in its log"]
    assert failing([FINE], exit_code=-9) == ["the gateway ended in order when told to"]


def test_a_short_run_goes_well() -> None:
    """The gateway as it is shipped keeps what it promises while workers are killed and fail."""
    command = [sys.executable, "-m", "benchmarks.chaos", "--requests", "150", "--at-once", "30", "--seconds", "45"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=58, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| ok ") == 7
