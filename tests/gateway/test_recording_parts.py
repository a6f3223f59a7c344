"""A request of which its rule makes several is recorded and replayed as they were: in a stream, or in one answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.tools.commands import replay
from proxy.types import JsonObject
from tests.gateway.client import connected
from tests.gateway.rig import until
from tests.gateway.scripted import STREAM_HEAD, chunk, frame
from tests.gateway.several import preferring
from tests.gateway.test_recording import NAME, attempts, either, lines, recorded
from tests.gateway.test_several_parts import (
    ANSWER,
    ERRORS,
    PACK,
    TELL,
    Teller,
    asked,
    breaks,
    breaks_midway,
    hangs,
    refuses,
    served,
    slowly,
    told,
)
from tests.hostile import Visit
from tests.tools.packs import run, run_json


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    for name, text in (("pack", PACK), ("errors", ERRORS), ("tell", TELL), ("answer", ANSWER)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@either
async def test_all_parts_come_again(rules: Path, tmp_path: Path, redact: bool) -> None:
    """One behind the other or all at once, in whatever order their answers came; also with a question before."""
    async with served(rules, Teller(a=slowly("a", 0.05)), Teller(), recordings=str(tmp_path)) as (rig, _):
        async with recorded(rig, tmp_path, rules=rules, redact=redact):
            assert len(await told(rig, ["a", "bee", "c"])) > 6
            await told(rig, ["a"], framing="ndjson", count=True)
            assert (await asked(rig, ["a", "bee", "c", "d", "e", "f"], count=True)).status == 200
        parts = [[attempt["part"] for attempt in attempts(line)] for line in lines(tmp_path)]
        assert parts == [[0, 1, 2], [0], [0, 1, 2, 3, 4, 5]]


@either
async def test_parts_that_fail(rules: Path, tmp_path: Path, redact: bool) -> None:
    """The first, a later one, in mid-stream, or on one worker only: the end is the one that the client saw."""
    actions = {"broken": breaks, "halfway": breaks_midway, "refused": refuses}
    async with served(rules, Teller(**actions), recordings=str(tmp_path)) as (rig, _):
        async with recorded(rig, tmp_path, rules=rules, redact=redact):
            for parts in (["broken", "b"], ["a", "broken"], ["a", "halfway", "c"], ["a", "refused"]):
                await asked(rig, parts, stream=True)
                assert (await asked(rig, parts)).status == 502
            await asked(rig, [])
        assert len(lines(tmp_path)) == 9


async def test_parts_that_another_worker_answers(rules: Path, tmp_path: Path) -> None:
    """Each part is tried on workers of its own choice."""
    async with served(rules, Teller(b=breaks), Teller(), recordings=str(tmp_path)) as (rig, workers):
        async with recorded(rig, tmp_path, rules=rules):
            for _ in range(4):
                with preferring(rig, *workers):
                    await told(rig, ["b", "a"])
                assert (await asked(rig, ["a", "b", "c"])).status == 200
        assert any(attempt["failure"] for line in lines(tmp_path) for attempt in attempts(line))


async def test_other_numbers_of_parts(rules: Path, tmp_path: Path) -> None:
    """A rule that makes more of a request now, or fewer: what is sent, and that nobody knows the answer."""
    async with served(rules, Teller(), recordings=str(tmp_path)) as (rig, _), recorded(rig, tmp_path, rules=rules):
        await told(rig, ["a", "b"])
        await asked(rig, ["a", "b"])
    for change, expected in (("steps.parts[:1]", (2, 0)), ("[steps.parts, steps.parts][]", (0, 4))):
        text = TELL.replace("each: steps.parts", f'each: "{change}"')
        (rules / "tell.yaml").write_text(text[: text.index("tests:")], encoding="utf-8")
        (rules / "answer.yaml").write_text(ANSWER[: ANSWER.index("tests:")], encoding="utf-8")
        found = await asyncio.to_thread(run_json, replay, tmp_path / NAME, "--rules", rules, code=1)
        differences = json.loads(json.dumps(found["differences"]))
        places: list[JsonObject] = [each for request in differences for each in request["differences"]]
        gone = [each for each in places if str(each["path"]).startswith("upstream[") and each["now"] == "(absent)"]
        new = [each for each in places if str(each["path"]).startswith("upstream[") and each["then"] == "(absent)"]
        assert (len(gone), len(new)) == expected
        unknown = [each for each in places if each["now"] == "(only a worker can tell)"]
        assert bool(unknown) is bool(new)


@either
async def test_parts_that_are_given_up(rules: Path, tmp_path: Path, redact: bool) -> None:
    """What they would have been asked is no difference: another part had failed, or the client had left."""
    teller = Teller(bad=refuses, slow=hangs)
    async with served(rules, teller, balance={"worker_limit": 2}, recordings=str(tmp_path)) as (rig, _):
        async with recorded(rig, tmp_path, rules=rules, redact=redact):
            assert (await asked(rig, ["slow", "bad", "c", "d", "e"])).status == 502
            async with connected(rig.listen) as connection:
                await connection.request("POST", "/tell", {"model": "m", "parts": ["slow", "slow", "c", "d"]})
                await until(lambda: teller.begun.count("slow") == 3, lambda: f"only {teller.begun}")
            await rig.quiet()
        assert [line["outcome"] for line in lines(tmp_path)] == ["upstream_error", "cancelled"]
    text = (tmp_path / NAME).read_text()
    slow = attempts(lines(tmp_path)[0])[0]
    sent = json.dumps(slow["exchanges"], separators=(",", ":"))
    assert (slow["failure"], len(sent) > 2) == (None, True)
    (tmp_path / NAME).write_text(text.replace(sent, "[]", 1))  # it was given up in the moment before
    assert run(replay, tmp_path / NAME, "--rules", rules).exit_code == 0


async def test_parts_that_nobody_began(rules: Path, tmp_path: Path) -> None:
    """The gateway stopped before them, which the client of a stream is told behind what there was."""

    async def lingers(visit: Visit) -> None:
        await visit.send(STREAM_HEAD, chunk(frame("A")), chunk(frame("A", "stop")))
        await hangs(visit)

    teller = Teller(a=lingers)
    async with served(rules, teller, recordings=str(tmp_path)) as (rig, _), recorded(rig, tmp_path, rules=rules):
        asking = asyncio.ensure_future(told(rig, ["a", "b"]))
        await until(lambda: teller.begun == ["a"], lambda: f"only {teller.begun}")
        await asyncio.sleep(0.05)  # so that the answer has come
        assert rig.gateway.gateway is not None
        await rig.gateway.gateway.cut()
        assert (await asking)[-1].get("error") == "model_unavailable"
