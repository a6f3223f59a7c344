"""Requests split by weight between workers of two kinds, or of two models."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.documents import DocumentError
from proxy.reload import read_rules
from proxy.types import Json, JsonObject
from tests.gateway.client import call
from tests.gateway.rig import Rig
from tests.gateway.scripted import then_closed, then_reset
from tests.gateway.two_backends import said, talk, talker, talking, who, write_packs

NINE_TO_ONE: list[Json] = [{"weight": 90, "backend": "old"}, {"weight": 10, "backend": "new"}]
HALVES: list[Json] = [{"weight": 1, "backend": "old"}, {"weight": 1, "backend": "new"}]
RULE = "model: body.model} -> model: body.model, split: [{weight: 90, backend: old}, {weight: 10, backend: new}]}"

# A route that is tied to the workers of its pack's own backend.
OWN = """\
route: own
description: x
match: {method: POST, path: /own}
worker: {kind: llm, model: body.model, mirror: {backend: old}}
request: {path: /old, body: {fields: {text: body.text}}}
stream: {from: {framing: ndjson, text: incremental, read: {text: chunk.token, finish: chunk.done}}}
answer: {body: {fields: {said: text}}}
"""


def of_model(split: list[Json], **more: Json) -> JsonObject:
    return {"m": {"split": split, **more}}


async def elsewhere(rig: Rig) -> int:
    """How many requests went to another side than theirs."""
    found = await rig.scrape()
    return sum(int(value) for (name, _), value in found.items() if name == "gateway_split_fallbacks_total")


@pytest.mark.parametrize("place", ["settings", "rule"])
async def test_weights_are_shares_of_the_requests(tmp_path: Path, place: str) -> None:
    """Of 2,000 requests a tenth goes to the new workers, whether the settings or the rule say so."""
    rules = write_packs(tmp_path, talk=RULE) if place == "rule" else write_packs(tmp_path)
    models = {} if place == "rule" else of_model(NINE_TO_ONE)
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(rules, old, new, models=models) as rig,
    ):
        rig.gateway._rng.seed(7)
        counts = await who(rig, 2_000)
        assert counts["Old"] + counts["New"] == 2_000
        assert counts["New"] == pytest.approx(200, abs=40)
        assert (len(old.asked), len(new.asked)) == (counts["Old"], counts["New"])
        assert await elsewhere(rig) == 0


async def test_streams_are_split_too(tmp_path: Path) -> None:
    """Each request is written for the side that it went to."""
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path), old, new, models=of_model(HALVES)) as rig,
    ):
        counts = await who(rig, 40, stream=True)
        assert counts.keys() == {"Old", "New"}


async def test_the_settings_beat_the_rule(tmp_path: Path) -> None:
    """The operator's word about one model is the last one."""
    models = of_model([{"weight": 0, "backend": "old"}, {"weight": 1, "backend": "new"}])
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path, talk=RULE), old, new, models=models) as rig,
    ):
        assert await who(rig, 20) == {"New": 20}


async def test_a_key_stays_on_its_side(tmp_path: Path) -> None:
    """With a hash key a session sees one kind of worker, however often it comes; the sides still have their shares."""
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path), old, new, models=of_model(HALVES, hash_header="X-Session")) as rig,
    ):
        sides = {}
        for session in range(60):
            counts = await who(rig, 3, x_session=f"s{session}")
            assert len(counts) == 1
            sides[session] = next(iter(counts))
        assert 15 < sum(side == "New" for side in sides.values()) < 45


async def test_a_side_of_another_model(tmp_path: Path) -> None:
    """Two models can share one name; the answer is that of the model asked for, under the name that the client used."""
    split: list[Json] = [{"weight": 1, "model": "m"}, {"weight": 1, "model": "m-next"}]
    async with (
        talker("old", "Old", "m") as old,
        talker("old", "Next", "m-next") as following,
        talking(write_packs(tmp_path), old, following, models=of_model(split)) as rig,
    ):
        found = {
            (said(reply), str(reply.object.get("asked") or reply.object["model"]))
            for reply in [await talk(rig) for _ in range(30)]
        }
        assert found == {("Old", "m"), ("Next", "m")}
        assert (await talk(rig, model="m-next")).object == {"said": "Next", "model": "m-next"}


async def test_a_rule_can_choose_the_model_by_the_request(tmp_path: Path) -> None:
    """`model` of a side is an expression; where it gives nothing the request's own model is meant."""
    rule = (
        "model: body.model} -> model: body.model, split: [{weight: 1, model: body.other}, {weight: 0, backend: new}]}"
    )
    async with (
        talker("old", "Old", "m") as old,
        talker("old", "Next", "m-next") as following,
        talking(write_packs(tmp_path, talk=rule), old, following) as rig,
    ):
        for other, name in ((None, "Old"), ("m-next", "Next"), (5, "Old")):
            reply = await call(rig.listen, "POST", "/talk", {"model": "m", "text": "x", "other": other})
            assert said(reply) == name


async def test_a_name_that_no_worker_has_can_be_split(tmp_path: Path) -> None:
    """With a fallback it is a model like any other: listed, counted, and answered under its own name."""
    models = {
        "both": {
            "fallback": "m",
            "split": [{"weight": 1, "model": "m"}, {"weight": 1, "model": "m-next"}],
        }
    }
    async with (
        talker("old", "Old", "m") as old,
        talker("old", "Next", "m-next") as following,
        talking(write_packs(tmp_path), old, following, models=models) as rig,
    ):
        replies = [await talk(rig, model="both") for _ in range(30)]
        assert {said(reply) for reply in replies} == {"Old", "Next"}
        assert {reply.object["asked"] for reply in replies} == {"both"}
        seen = await rig.scrape()
        sides = {
            dict(labels)["model"]
            for (name, labels), v in seen.items()
            if name == "gateway_backend_requests_total" and v
        }
        assert sides == {"m", "m-next"}
        (count,) = [v for (name, labels), v in seen.items() if name == "gateway_requests_total" and v]
        assert count == 30
        assert any(dict(labels).get("model") == "both" for (name, labels) in seen if name == "gateway_requests_total")


async def test_a_side_without_a_worker_loses_nothing(tmp_path: Path) -> None:
    """Its requests go to the other sides, and are counted; a model that nobody knows is no worker either."""
    split: list[Json] = [
        {"weight": 9, "backend": "new"},
        {"weight": 1, "model": "no-such"},
        {"weight": 0, "backend": "old"},
    ]
    async with talker("old", "Old") as old, talking(write_packs(tmp_path), old, models=of_model(split)) as rig:
        assert await who(rig, 10) == {"Old": 10}
        assert await elsewhere(rig) == 10
        assert (await call(rig.listen, "POST", "/length", {"model": "m", "text": "x"})).json == {"tokens": 3}


async def test_a_side_that_fails_is_made_up_for_by_its_own_workers_first(tmp_path: Path) -> None:
    """Another worker of the same side takes over; only where there is none does the other side."""
    split: list[Json] = [{"weight": 1, "backend": "new"}, {"weight": 0, "backend": "old"}]
    async with (
        talker("old", "Old") as old,
        talker("new", "Bad", part=then_reset()) as bad,
        talker("new", "New") as new,
        talking(write_packs(tmp_path), old, bad, new, models=of_model(split)) as rig,
    ):
        assert await who(rig, 8) == {"New": 8}
        assert await elsewhere(rig) == 0
        new.part = then_reset()
        assert await who(rig, 3) == {"Old": 3}
        assert await elsewhere(rig) == 3


async def test_where_every_side_fails_the_client_is_told(tmp_path: Path) -> None:
    """The error is that of the side which the request fell on."""
    split: list[Json] = [{"weight": 1, "backend": "new"}, {"weight": 0, "model": "no-such"}]
    async with talker("old", "Old") as old, talking(write_packs(tmp_path), old, models=of_model(split)) as rig:
        reply = await talk(rig)
        assert (reply.status, reply.object["kind"]) == (500, "unsupported")
    async with (
        talker("new", "New", part=then_closed()) as new,
        talking(write_packs(tmp_path), new, models=of_model(split)) as rig,
    ):
        assert (await talk(rig)).object["kind"] == "upstream_reset"


async def test_a_full_side_keeps_its_requests_waiting(tmp_path: Path) -> None:
    """Weights are kept under load; only who waited in vain, or finds the queue full, goes to the other side."""
    split: list[Json] = [{"weight": 1, "backend": "new"}, {"weight": 0, "backend": "old"}]
    models = of_model(split, queue_seconds=0.2)
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path), old, new, models=models, limit=1) as rig,
    ):
        fleet = rig.gateway.fleet
        held = fleet.acquire("m", "llm", 0.0, pinned=new.peer.url)
        assert await who(rig, 1) == {"Old": 1}
        assert await elsewhere(rig) == 1
        held.release("neutral", 0.0)
        assert await who(rig, 1) == {"New": 1}


async def test_a_pinned_request_goes_where_it_says(tmp_path: Path) -> None:
    """Whoever looks for a fault names the worker."""
    split: list[Json] = [{"weight": 1, "backend": "new"}, {"weight": 0, "backend": "old"}]
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path), old, new, models=of_model(split), balance={"pin_header": "X-Worker"}) as rig,
    ):
        assert await who(rig, 5, x_worker=old.peer.url) == {"Old": 5}


@pytest.mark.parametrize(
    ("worker", "says"),
    [
        ("split: [{weight: 1, backend: old}]", "split: expected two sides at least"),
        ("split: [{weight: 0, backend: old}, {weight: 0, backend: new}]", "the weights are all 0"),
        ("split: [{weight: 1, backend: old}, {weight: 1, backend: old}]", "two sides are the same workers"),
        ("split: [{weight: 1, backend: old}, {weight: 1, backend: nwe}]", "no backend 'nwe' that this route can ask"),
        ("split: [{weight: 1, backend: old}, {weight: 1}]", "expected backend, model, or both"),
        ("split: [{weight: -1, backend: old}, {weight: 1, backend: new}]", "greater than or equal to 0"),
        ("split: [{weight: 1, backend: old}, {weight: 1, model: bdy.x}]", "reads 'bdy', which does not exist here"),
        ("mirror: {backend: nwe}", "no backend 'nwe' that this route can ask"),
        ("mirror: {share: 0.5}", "expected backend, model, or both"),
        ("mirror: {backend: new, share: 0}", "greater than 0"),
        (
            "mirror: {backend: old}, split: [{weight: 1, backend: old}, {weight: 0, backend: new}]",
            "is what it mirrors",
        ),
        ("need: known, mirror: {backend: new}", "split and mirror are for requests that a worker answers"),
    ],
)
def test_what_cannot_be_meant_is_a_mistake(tmp_path: Path, worker: str, says: str) -> None:
    """Told when the rules are read, with its place."""
    rules = write_packs(tmp_path, talk=f"model: body.model}} -> model: body.model, {worker}}}")
    with pytest.raises(DocumentError) as caught:
        read_rules([str(rules)])
    mistakes = [str(each) for each in caught.value.diagnostics if "talk.yaml" in each.file]
    assert len(mistakes) == 1, mistakes
    assert says in mistakes[0]


def test_a_mirror_of_the_only_workers_there_are_is_a_mistake(tmp_path: Path) -> None:
    """It would copy requests to where they are; so would one of calls that take turns, in which others would wait."""
    rules = write_packs(tmp_path, length="model: body.model} -> model: body.model, mirror: {backend: new}}")
    with pytest.raises(DocumentError, match="a mirror never waits"):
        read_rules([str(rules)])
    rules = write_packs(tmp_path)
    (rules / "talk/own.yaml").write_text(OWN, encoding="utf-8")
    with pytest.raises(DocumentError, match="the mirror is what it mirrors"):
        read_rules([str(rules)])


def test_a_route_beside_another_is_asked_too(tmp_path: Path) -> None:
    """A pass-through for workers of one backend may be split with those that are asked in its name by a call."""
    (tmp_path / "pack.yaml").write_text("pack: own\ndescription: x\nextends: fastchat-worker\n", encoding="utf-8")
    split = "worker: {split: [{weight: 1, backend: fastchat}, {weight: 1, backend: openai}]}"
    (tmp_path / "own.yaml").write_text(f"extends: worker_generate_stream\n{split}\n", encoding="utf-8")
    (route,) = [each for each in read_rules([str(tmp_path)]).table.routes if each.name == "worker_generate_stream"]
    assert [side.backend for side in route.spread.sides] == ["fastchat", "openai"]
