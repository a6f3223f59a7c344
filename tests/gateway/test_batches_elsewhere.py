"""A batch that is begun on a worker of one kind and finished on one of another: nothing of both is mixed."""

from __future__ import annotations

import json
from pathlib import Path

from proxy.types import Json
from tests.gateway.client import call
from tests.gateway.scripted import Part, json_response
from tests.gateway.two_backends import talker, talking, write_packs
from tests.hostile import Request, Visit

ROUTE = """\
route: sizes
description: x
match: {method: POST, path: /sizes}
worker: {kind: llm, model: body.model}
call: {operation: embed, with: {input: body.texts}}
answer: {body: {fields: {sizes: vectors}}}
"""
OLD = """\
name: embed
operation: embed
description: x
request: {path: /old, batch: {of: call.input, size: 2}, body: {fields: {texts: batch}}}
result: {fields: {vectors: "answers[].old[]"}}
"""
NEW = """\
name: embed
operation: embed
description: x
request: {path: /new, batch: {of: call.input, size: 3}, body: {fields: {texts: batch}}}
result: {fields: {vectors: "answers[].new[]"}}
"""


def measures(key: str, failing: int = 0) -> Part:
    """Answers each text with its length, and fails at the request of this number."""
    asked: list[Request] = []

    async def part(visit: Visit, request: Request) -> None:
        asked.append(request)
        if len(asked) == failing:
            await visit.send(json_response({"detail": "no"}, "500 Internal Server Error"))
            return
        sizes: list[Json] = [[len(text)] for text in json.loads(request.body)["texts"]]
        await visit.send(json_response({key: sizes}))

    return part


def packs(folder: Path) -> Path:
    write_packs(folder)
    for name, text in (("talk/sizes", ROUTE), ("backends/old/embed", OLD), ("backends/new/embed", NEW)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


async def test_a_worker_of_another_kind_is_asked_for_all(tmp_path: Path) -> None:
    """What the first one answered is no part of an answer that the second one's rules read."""
    split: list[Json] = [{"weight": 1, "backend": "old"}, {"weight": 0, "backend": "new"}]
    texts: list[Json] = ["a", "bb", "ccc", "dddd", "eeeee"]
    async with (
        talker("old", "Old", part=measures("old", failing=2)) as old,
        talker("new", "New", part=measures("new")) as new,
        talking(packs(tmp_path), old, new, models={"m": {"split": split}}) as rig,
    ):
        reply = await call(rig.listen, "POST", "/sizes", {"model": "m", "texts": texts})
        assert (len(old.asked), len(new.asked)) == (2, 2)
        assert reply.object == {"sizes": [[1], [2], [3], [4], [5]]}


async def test_a_worker_of_the_same_kind_is_asked_for_the_rest(tmp_path: Path) -> None:
    """What came before the failure need not be made again."""
    texts: list[Json] = ["a", "bb", "ccc", "dddd", "eeeee"]
    first, second = measures("old", failing=2), measures("old", failing=2)
    async with (
        talker("old", "One", part=first) as one,
        talker("old", "Two", part=second) as two,
        talking(packs(tmp_path), one, two) as rig,
    ):
        reply = await call(rig.listen, "POST", "/sizes", {"model": "m", "texts": texts[:4]})
        assert reply.object == {"sizes": [[1], [2], [3], [4]]}
        assert len(one.asked) + len(two.asked) == 3
