"""A worker that refuses at once, or is lost with much on it, costs no client its answer while another one is well."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.errors import GatewayError
from proxy.server.outcomes import rest_after, verdict_of, worth_retrying
from proxy.types import Json
from tests.gateway.rig import HELLO, Rig, running, until
from tests.gateway.scripted import GOOD, LAST_CHUNK, STREAM, STREAM_HEAD, Part, ScriptedWorker, chunk, scripted, sends
from tests.gateway.several import counted, one_fails, view_of
from tests.hostile import Request, Visit, response

FULL = json.dumps({"text": "full", "error_code": 42903}).encode() + b"\0"


async def takes_its_time(visit: Visit, _: Request) -> None:
    await asyncio.sleep(0.01)
    await visit.send(GOOD)


@asynccontextmanager
async def refusing(part: Part, **settings: object) -> AsyncIterator[tuple[Rig, ScriptedWorker, ScriptedWorker]]:
    """A worker that does `part` at once, and one that answers well and takes a moment for it."""
    async with (
        scripted({STREAM: part}) as bad,
        scripted({STREAM: takes_its_time}) as good,
        running(bad.address, good.address, given=settings) as rig,
    ):
        bad.arm()
        good.arm()
        yield rig, bad, good


async def codes(rig: Rig, count: int, at_once: int) -> list[Json]:
    """How so many streams end, of which so many run at a time."""
    door = asyncio.Semaphore(at_once)

    async def one() -> Json:
        async with door:
            return (await rig.stream(HELLO))[-1]["error_code"]

    return [*await asyncio.gather(*(one() for _ in range(count)))]


@pytest.mark.parametrize(
    "part",
    [
        sends(response(b"full", "503 Service Unavailable")),
        sends(response(b"full", "429 Too Many Requests", ["Retry-After: 20"])),
        sends(STREAM_HEAD + chunk(FULL) + LAST_CHUNK),
        sends(response(b"nope", "404 Not Found")),
        sends(response(b"nope", "405 Method Not Allowed")),
    ],
    ids=["503", "429", "error_code 42903", "404", "405"],
)
async def test_a_worker_that_refuses_at_once_attracts_nothing(part: Part) -> None:
    """It is never busy, and still gets few of the requests; all of them are answered."""
    async with refusing(part) as (rig, bad, _):
        assert await codes(rig, 100, 4) == [0] * 100
        assert len(bad.struck) < 15


async def test_being_sent_on_by_a_full_worker_costs_nothing() -> None:
    """The budget of retries is for workers that fail."""
    given = {"retries": {"attempts": 2, "share": 0, "burst": 0}}
    async with one_fails(sends(response(b"full", "503 Service Unavailable")), balance=given) as (rig, _, good):
        assert (await rig.stream(HELLO))[-1]["error_code"] == 0
        assert len(good.bodies(STREAM)) == 1
        assert await counted(rig, "gateway_retries_total") == {("upstream_status",): 1}


@pytest.mark.parametrize(
    ("header", "least", "most"), [([], 0.5, 1.0), (["Retry-After: 7"], 6.0, 7.0), (["Retry-After: 900"], 29.0, 30.0)]
)
async def test_how_long_a_full_worker_rests(header: list[str], least: float, most: float) -> None:
    """A second, or what it says itself, though not for ever."""
    async with refusing(sends(response(b"", "503 Service Unavailable", header))) as (rig, bad, _):
        while not bad.struck:
            await rig.stream(HELLO)
        assert least < view_of(rig, bad).rests_until - asyncio.get_running_loop().time() <= most


@pytest.mark.parametrize(
    ("error", "verdict", "again", "rest"),
    [
        (GatewayError("upstream_status", "", upstream_status=503), "neutral", True, 1.0),
        (GatewayError("upstream_status", "", upstream_status=503, retry_after=0.0), "neutral", True, 1.0),
        (GatewayError("upstream_status", "", upstream_status=429, retry_after=float("inf")), "neutral", True, 30.0),
        (GatewayError("upstream_error", "", upstream_code=42901), "neutral", True, 1.0),
        (GatewayError("upstream_error", "", upstream_code=40303), "neutral", False, 0.0),
        (GatewayError("upstream_status", "", upstream_status=404), "failure", True, 0.0),
        (GatewayError("upstream_status", "", upstream_status=405), "failure", True, 0.0),
        (GatewayError("upstream_status", "", upstream_status=422), "neutral", False, 0.0),
        (GatewayError("upstream_reset", ""), "failure", True, 0.0),
        (GatewayError("busy", ""), "neutral", False, 0.0),
        (None, "success", None, 0.0),
    ],
)
def test_what_an_end_says(error: GatewayError | None, verdict: str, again: bool | None, rest: float) -> None:
    """Load makes a worker rest, a path that it does not have is its failure, and neither is the caller's fault."""
    assert verdict_of(error) == verdict
    assert rest_after(error) == rest
    assert error is None or worth_retrying(error) is again


async def test_a_worker_that_is_lost_with_much_on_it() -> None:
    """All that was under way there goes to the other one, however much it was."""
    over = asyncio.Event()

    async def dies(visit: Visit, _: Request) -> None:
        await over.wait()
        visit.reset()
        raise ConnectionResetError

    async def lives(visit: Visit, _: Request) -> None:
        await over.wait()
        await visit.send(GOOD)

    async with (
        scripted({STREAM: dies}) as bad,
        scripted({STREAM: lives}) as good,
        running(bad.address, good.address, balance={"worker_limit": 1000}) as rig,
    ):
        bad.arm()
        good.arm()
        asking = asyncio.create_task(codes(rig, 80, 80))
        await until(lambda: len(bad.struck) == len(good.struck) == 40, lambda: "not all are under way")
        over.set()
        assert await asking == [0] * 80
