"""Batches that several workers were asked for come out of a recording as they went."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from proxy.types import Json, JsonObject
from tests.gateway.client import call
from tests.gateway.rig import running
from tests.gateway.scripted import EMBEDDINGS, Part, json_response, scripted
from tests.gateway.test_batches_elsewhere import measures, packs
from tests.gateway.test_recording import attempts, either, lines, recorded
from tests.gateway.two_backends import talker, talking
from tests.hostile import Request, Visit


def one_failing() -> Callable[[], Part]:
    """Workers that answer each text with its length; of all that they are asked the second request fails."""
    count = 0

    async def part(visit: Visit, request: Request) -> None:
        nonlocal count
        count += 1
        texts = json.loads(request.body)["input"]
        done: JsonObject = {"embedding": [[float(len(text))] for text in texts], "token_num": len(texts)}
        await visit.send(json_response(done if count != 2 else {"text": "out of memory", "error_code": 50002}))

    return lambda: part


def exchanges(line: JsonObject) -> list[int]:
    """How many requests each worker got."""
    found = [attempt["exchanges"] for attempt in attempts(line)]
    return [len(each) for each in found if isinstance(each, list)]


TEXTS: list[Json] = ["a" * length for length in range(20)]


@either
async def test_another_model_is_asked_for_all(tmp_path: Path, redact: bool) -> None:
    """Vectors of two models make no answer."""
    part = one_failing()
    models = {"m": {"fallback": "other"}}
    async with (
        scripted({EMBEDDINGS: part()}, ["m"]) as first,
        scripted({EMBEDDINGS: part()}, ["other"]) as second,
        running(first.address, second.address, models=models, given={"recordings": str(tmp_path)}) as rig,
    ):
        first.arm()
        second.arm()
        async with recorded(rig, tmp_path, redact=redact):
            assert (await rig.post("embeddings", {"model": "m", "input": TEXTS})).status == 200
        assert exchanges(lines(tmp_path)[0]) == [2, 3]


@either
async def test_another_worker_is_asked_for_the_rest(tmp_path: Path, redact: bool) -> None:
    """What the first one gave is part of the answer."""
    part = one_failing()
    async with (
        scripted({EMBEDDINGS: part()}, ["m"]) as first,
        scripted({EMBEDDINGS: part()}, ["m"]) as second,
        running(first.address, second.address, given={"recordings": str(tmp_path)}) as rig,
    ):
        first.arm()
        second.arm()
        async with recorded(rig, tmp_path, redact=redact):
            assert (await rig.post("embeddings", {"model": "m", "input": TEXTS})).status == 200
        assert exchanges(lines(tmp_path)[0]) == [2, 2]


async def test_another_kind_of_worker_is_asked_for_all(tmp_path: Path) -> None:
    """Its rules read nothing that the first one said."""
    split: list[Json] = [{"weight": 1, "backend": "old"}, {"weight": 0, "backend": "new"}]
    rules = packs(tmp_path / "rules")
    async with (
        talker("old", "Old", part=measures("old", failing=2)) as old,
        talker("new", "New", part=measures("new")) as new,
        talking(rules, old, new, models={"m": {"split": split}}, recordings=str(tmp_path)) as rig,
    ):
        async with recorded(rig, tmp_path, rules=rules):
            assert (await call(rig.listen, "POST", "/sizes", {"model": "m", "texts": TEXTS[:5]})).status == 200
        assert exchanges(lines(tmp_path)[0]) == [2, 2]
