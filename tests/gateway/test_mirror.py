"""Copies of requests for other workers: they are measured, and no client ever notices them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from proxy.limits import MIRRORS_MAX
from proxy.types import Json, JsonObject
from tests.gateway.client import call, connected
from tests.gateway.rig import Rig, until
from tests.gateway.scripted import (
    LAST_CHUNK,
    STREAM_HEAD,
    Part,
    chunk,
    json_response,
    sends,
    then_closed,
    then_gone,
    then_reset,
)
from tests.gateway.two_backends import Talker, said, talk, talker, talking, who, write_packs
from tests.hostile import Request, Visit

TO_OLD: list[Json] = [{"weight": 1, "backend": "old"}, {"weight": 0, "model": "no-such"}]
RULE = "model: body.model} -> model: body.model, mirror: {backend: new, share: 0.25}}"


def mirrored(share: float = 1.0, **more: Json) -> JsonObject:
    """All requests for `m` to old workers, with copies to new ones."""
    return {"m": {"split": TO_OLD, "mirror": {"backend": "new", "share": share}, **more}}


def ends(caplog: pytest.LogCaptureFixture) -> list[str]:
    """How copies ended."""
    return [str(record.__dict__["outcome"]) for record in caplog.records if record.getMessage() == "mirrored"]


async def skipped(rig: Rig) -> dict[str, int]:
    """Why there were none."""
    found = await rig.scrape()
    return {
        dict(labels)["reason"]: int(v) for (name, labels), v in found.items() if name == "gateway_mirrors_skipped_total"
    }


async def until_asked(worker: Talker, count: int) -> None:
    await until(lambda: len(worker.asked) >= count, lambda: f"{len(worker.asked)} of {count} copies came")


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="proxy.access")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_copy_goes_to_the_mirror_and_its_answer_nowhere(
    tmp_path: Path, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The client has the answer of its worker; the other worker got the same request in its own words."""
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path), old, new, models=mirrored()) as rig,
    ):
        assert await who(rig, 5, stream=stream) == {"Old": 5}
        await until_asked(new, 5)
        await until(lambda: ends(caplog) == ["ok"] * 5, lambda: str(ends(caplog)))
        assert {request.body for request in new.asked} == {b'{"model":"m","text":"Who?"}'}
        assert (await rig.outcomes(), await skipped(rig)) == ({"ok": 5}, {})


async def compared(rig: Rig, name: str = "requests_total") -> dict[tuple[str, ...], int]:
    """The counters of calls to workers by backend, model and role (and outcome), those that are not nought."""
    found = {}
    for (sample, labels), value in (await rig.scrape()).items():
        if sample == f"gateway_backend_{name}" and value:
            named = dict(labels)
            found[tuple(named[label] for label in ("backend", "model", "role", "outcome") if label in named)] = int(
                value
            )
    return found


async def test_copies_are_measured_apart(tmp_path: Path) -> None:
    """By backend and model as the calls for clients are, with another role; nothing else counts them."""
    models = {"m": {"split": TO_OLD, "mirror": {"backend": "new", "model": "m-next"}}}
    async with (
        talker("old", "Old", "m") as old,
        talker("new", "New", "m-next") as new,
        talking(write_packs(tmp_path), old, new, models=models) as rig,
    ):
        assert await who(rig, 3, stream=True) == {"Old": 3}
        await until_asked(new, 3)
        await rig.quiet()
        new.part = then_closed()
        assert await who(rig, 2) == {"Old": 2}
        await until_asked(new, 5)
        await rig.quiet()
        assert await compared(rig) == {
            ("old", "m", "main", "ok"): 5,
            ("new", "m-next", "mirror", "ok"): 3,
            ("new", "m-next", "mirror", "upstream_error"): 2,
        }
        for name in ("first_frame_seconds_count", "request_duration_seconds_count"):
            count = {"main": 5, "mirror": 3 if name.startswith("first") else 5}
            assert await compared(rig, name) == {
                ("old", "m", "main"): count["main"],
                ("new", "m-next", "mirror"): count["mirror"],
            }
        assert await compared(rig, "in_flight") == {}
        seen = await rig.scrape()
        assert sum(v for (name, _), v in seen.items() if name == "gateway_time_to_first_frame_seconds_count") == 5
        frames = {dict(labels)["direction"]: v for (name, labels), v in seen.items() if name == "gateway_frames_total"}
        assert frames["received"] == 10


async def test_a_share_of_the_requests_is_copied(tmp_path: Path) -> None:
    """A quarter of them, by the rule's own word; counts of tokens are no such requests."""
    split = {"m": {"split": TO_OLD}}
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path, talk=RULE), old, new, models=split, limit=64) as rig,
    ):
        rig.gateway._rng.seed(5)
        assert await who(rig, 600) == {"Old": 600}
        await rig.quiet()
        assert len(new.asked) + sum((await skipped(rig)).values()) == pytest.approx(150, abs=40)


async def _silent(visit: Visit, _: Request) -> None:
    await visit.gone()
    raise ConnectionResetError


GARBAGE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("part", "outcome"),
    [
        (then_closed(), "upstream_error"),
        (then_reset(STREAM_HEAD), "upstream_error"),
        (then_closed(b"no HTTP at all\r\n\r\n"), "upstream_error"),
        (sends(STREAM_HEAD + chunk(b"data: {\n\n") + LAST_CHUNK), "upstream_error"),
        (sends(STREAM_HEAD + chunk(b'data: {"error": 5, "all": ""}\n\n') + LAST_CHUNK), "upstream_error"),
        (sends(json_response({"error": "full"}, "503 Service Unavailable")), "upstream_error"),
        (sends(STREAM_HEAD + LAST_CHUNK), "upstream_error"),
        (then_gone(STREAM_HEAD + chunk(b'data: {"all": "N"}\n\n')), "cancelled"),
        (_silent, "cancelled"),
    ],
    ids=["closed", "reset", "no http", "garbage", "error frame", "refusal", "empty", "stalls", "silent"],
)
async def test_whatever_a_mirror_does_the_client_has_its_answer(
    tmp_path: Path, part: Part, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, with no other attempt, and no worker's breaker hears of it; the end of the gateway ends the rest."""
    async with (
        talker("old", "Old") as old,
        talker("new", "New", part=part) as new,
        talking(write_packs(tmp_path), old, new, models=mirrored(), busy_at_end=True) as rig,
    ):
        began = asyncio.get_running_loop().time()
        assert await who(rig, 8, stream=True) == {"Old": 8}
        assert asyncio.get_running_loop().time() - began < 2.0
        await until_asked(new, 4)
        if outcome != "cancelled":
            await rig.quiet()
        view = rig.gateway.fleet.worker(new.peer.url)
        assert view is not None
        assert (view.breaker, view.outcomes["failure"]) == ("closed", 0)
        assert await rig.outcomes() == {"ok": 8}
        assert await rig.upstream_errors() == {}
        seen = await rig.scrape()
        assert not any(name in {"gateway_retries_total", "gateway_failovers_total"} for name, _ in seen)
    assert set(ends(caplog)) == {outcome}, ends(caplog)


async def test_a_mirror_that_is_not_there_is_no_matter(tmp_path: Path) -> None:
    """Without a worker nothing is copied; that is counted."""
    async with talker("old", "Old") as old, talking(write_packs(tmp_path), old, models=mirrored()) as rig:
        assert await who(rig, 5) == {"Old": 5}
        assert await skipped(rig) == {"no_worker": 5}


async def test_a_mirror_of_where_the_request_is_already_is_none(tmp_path: Path) -> None:
    """Without a split the request may fall on the mirror's own workers: then there is nothing to compare."""
    models = {"m": {"mirror": {"backend": "new"}}}
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talker("new", "Newer") as newer,
        talking(write_packs(tmp_path), old, new, newer, models=models) as rig,
    ):
        counts = await who(rig, 30)
        await rig.quiet()
        assert counts["Old"] > 0
        there = counts["New"] + counts["Newer"]
        assert there > 0
        assert (await skipped(rig)).get("same", 0) == there
        assert len(new.asked) + len(newer.asked) - there == counts["Old"]


async def test_a_request_on_the_only_worker_of_its_mirror_is_not_one_whose_mirror_is_missing(tmp_path: Path) -> None:
    """What is counted says that nothing is wrong with the mirror."""
    models = {"m": {"mirror": {"backend": "new"}}}
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path), old, new, models=models) as rig,
    ):
        counts = await who(rig, 20)
        await rig.quiet()
        assert counts["Old"] > 0
        assert counts["New"] > 0
        assert await skipped(rig) == {"same": counts["New"]}


async def test_another_model_can_be_the_mirror(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two models of one kind of worker are compared in the same way."""
    models = {"m": {"mirror": {"model": "m-next"}}}
    async with (
        talker("old", "Old", "m") as old,
        talker("old", "Next", "m-next") as following,
        talking(write_packs(tmp_path), old, following, models=models) as rig,
    ):
        assert await who(rig, 3) == {"Old": 3}
        await until(lambda: ends(caplog) == ["ok"] * 3, lambda: str(ends(caplog)))
        assert [request.body for request in following.asked] == [b'{"model":"m-next","text":"Who?"}'] * 3


async def test_a_copy_does_not_slow_its_own_request_down(tmp_path: Path) -> None:
    """It never goes to the worker that the request is on."""
    models = {"m": {"mirror": {"model": "m-next"}}}
    async with (
        talker("old", "Both", "m", "m-next") as both,
        talking(write_packs(tmp_path), both, models=models) as rig,
    ):
        assert await who(rig, 3) == {"Both": 3}
        assert len(both.asked) == 3
        assert await skipped(rig) == {"no_worker": 3}


async def test_a_worker_on_trial_is_left_to_clients(tmp_path: Path) -> None:
    """Only a request that may say how it went can close a breaker again, so no copy takes its place."""
    models = mirrored()
    breaker = {"breaker": {"failures": 1, "open_seconds": 0.05, "most_open_seconds": 0.05}}
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path), old, new, models=models, balance={**breaker, "pin_header": "X-W"}) as rig,
    ):
        new.part = then_closed()
        assert (await talk(rig, x_w=new.peer.url)).status == 500
        new.part = None
        await asyncio.sleep(0.1)  # now the breaker admits one request
        assert await who(rig, 3) == {"Old": 3}
        assert (len(new.asked), await skipped(rig)) == (1, {"no_worker": 3})
        assert await who(rig, 1, x_w=new.peer.url) == {"New": 1}
        assert await who(rig, 1) == {"Old": 1}
        await until_asked(new, 3)


async def test_a_question_is_not_copied(tmp_path: Path) -> None:
    """A count of tokens is nothing to compare."""
    async with (
        talker("old", "Old") as old,
        talker("new", "New") as new,
        talking(write_packs(tmp_path), old, new, models=mirrored()) as rig,
    ):
        for _ in range(3):
            assert (await call(rig.listen, "POST", "/length", {"model": "m", "text": "x"})).json == {"tokens": 3}
        await rig.quiet()
        assert {request.path for request in new.peer.requests} == {"/models"}
        assert await skipped(rig) == {}


async def test_a_mirror_waits_for_nobody(tmp_path: Path) -> None:
    """Where its workers are busy there is no copy."""
    async with (
        talker("old", "Old") as old,
        talker("new", "New", part=_silent) as new,
        talking(write_packs(tmp_path), old, new, models=mirrored(), limit=2, busy_at_end=True) as rig,
    ):
        assert await who(rig, 5) == {"Old": 5}
        assert await skipped(rig) == {"busy": 3}
        assert len(new.asked) == 2


async def test_a_client_gets_the_place_that_a_copy_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A request that finds its workers full of copies ends one of them and goes there at once."""
    models = {
        "m": {"split": [{"weight": 1, "backend": "old"}, {"weight": 0, "model": "x"}], "mirror": {"backend": "new"}},
        "m2": {"queue_seconds": 5.0},
    }
    async with (
        talker("old", "Old", "m") as old,
        talker("new", "New", "m", "m2", part=_silent) as new,
        talking(write_packs(tmp_path), old, new, models=models, limit=1) as rig,
    ):
        assert await who(rig, 1) == {"Old": 1}
        await until_asked(new, 1)
        new.part = None
        began = asyncio.get_running_loop().time()
        assert said(await talk(rig, model="m2")) == "New"
        assert asyncio.get_running_loop().time() - began < 1.0
        assert ends(caplog) == ["cancelled"]


async def test_a_client_that_leaves_takes_its_copy_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The mirror has the load that it would have for real."""
    async with (
        talker("old", "Old", part=_silent) as old,
        talker("new", "New", part=_silent) as new,
        talking(write_packs(tmp_path), old, new, models=mirrored()) as rig,
    ):
        async with connected(rig.listen) as connection:
            await connection.request("POST", "/talk", {"model": "m", "text": "x", "stream": True})
            await until_asked(old, 1)
            await until_asked(new, 1)
            await connection.leave()
        await rig.quiet()
        assert ends(caplog) == ["cancelled"]
        await new.peer.until(lambda peer: peer.open <= 1)


async def test_a_copy_outlives_its_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A slow mirror is measured to its end."""
    going = asyncio.Event()

    async def slow(visit: Visit, _: Request) -> None:
        await visit.send(STREAM_HEAD, chunk(b'data: {"all": "N"}\n\n'))
        await going.wait()
        await visit.send(chunk(b'data: {"all": "New", "why": "stop"}\n\n'), LAST_CHUNK)

    async with (
        talker("old", "Old") as old,
        talker("new", "New", part=slow) as new,
        talking(write_packs(tmp_path), old, new, models=mirrored()) as rig,
    ):
        assert await who(rig, 1) == {"Old": 1}
        await until_asked(new, 1)
        assert ends(caplog) == []
        assert await compared(rig, "in_flight") == {("new", "m", "mirror"): 1}
        going.set()
        await until(lambda: ends(caplog) == ["ok"], lambda: str(ends(caplog)))


async def test_copies_are_bounded(tmp_path: Path) -> None:
    """However many requests there are, so many copies are under way at most."""
    async with (
        talker("old", "Old") as old,
        talker("new", "New", part=_silent) as new,
        talking(write_packs(tmp_path), old, new, models=mirrored(), limit=100, busy_at_end=True) as rig,
    ):
        assert await who(rig, MIRRORS_MAX + 5) == {"Old": MIRRORS_MAX + 5}
        await until_asked(new, MIRRORS_MAX)
        assert await skipped(rig) == {"full": 5}


async def test_a_copy_has_room_for_its_body_or_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bodies may have together counts copies too, and is given back."""
    monkeypatch.setattr("proxy.server.gateway.BODIES_MAX_BYTES", 150)
    going = asyncio.Event()

    async def slow(visit: Visit, _: Request) -> None:
        await going.wait()
        raise ConnectionResetError

    async with (
        talker("old", "Old") as old,
        talker("new", "New", part=slow) as new,
        talking(write_packs(tmp_path), old, new, models=mirrored()) as rig,
    ):
        assert await who(rig, 3) == {"Old": 3}  # each has some 50 bytes
        assert await skipped(rig) == {"full": 1}
        going.set()
        await rig.quiet()
        gateway = rig.gateway.gateway
        assert gateway is not None
        assert gateway._bodies.held == 0


async def test_an_answer_without_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mirror cannot fill the memory, nor go on for ever."""
    monkeypatch.setattr("proxy.server.mirror.MIRROR_ANSWER_BYTES", 1_000)

    async def endless(visit: Visit, _: Request) -> None:
        await visit.send(STREAM_HEAD)
        while True:
            await visit.send(chunk(b'{"token": "abcdefgh"}\n'))

    models = {"m": {"mirror": {"model": "m-next"}}}
    async with (
        talker("old", "Old", "m") as old,
        talker("old", "Next", "m-next", part=endless) as following,
        talking(write_packs(tmp_path), old, following, models=models) as rig,
    ):
        assert await who(rig, 1) == {"Old": 1}
        await until(lambda: ends(caplog) == ["upstream_error"], lambda: str(ends(caplog)))
    monkeypatch.setattr("proxy.server.mirror.MIRROR_SECONDS", 0.1)
    caplog.clear()
    async with (
        talker("old", "Old") as old,
        talker("new", "New", part=_silent) as new,
        talking(write_packs(tmp_path), old, new, models=mirrored()) as rig,
    ):
        assert await who(rig, 1) == {"Old": 1}
        await until(lambda: ends(caplog) == ["upstream_error"], lambda: str(ends(caplog)))
