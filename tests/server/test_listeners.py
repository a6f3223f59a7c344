"""The addresses that are listened at: ports of models that come and go, and the limits of every listener."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from proxy.address import Address
from proxy.fleet.facts import ModelFacts, WorkerReport
from proxy.http import Request, Response
from proxy.server import listeners
from proxy.server.listeners import ModelPortSites, client_server, port_opener
from proxy.types import JsonObject
from tests.backends.fakes import FakeRegistry, eventually
from tests.gateway.client import Connection, call
from tests.gateway.rig import HELLO, demo_worker, running
from tests.ports import bound, free_row, listens


@pytest.fixture
def first() -> int:
    """The first of four ports in a row that nobody uses."""
    return free_row(4, 30_000, 32_000)


@pytest.fixture
async def sites(first: int) -> AsyncIterator[ModelPortSites]:
    """Two ports."""

    async def answer(_: Request) -> Response:
        return Response(200, b"here")

    server = client_server(answer)
    yield ModelPortSites(port_opener(server, "127.0.0.1"), "127.0.0.1", first, first + 1)
    await server.close()


async def test_a_port_is_kept_over_an_absence(sites: ModelPortSites, first: int) -> None:
    """A model that cannot be answered for a while finds its port as it was, whoever came meanwhile."""
    await sites.ensure(["a"], {"a": True})
    await sites.ensure(["b", "c"], {"a": True, "b": True, "c": True})
    assert (sites.port("a"), sites.port("b"), sites.port("c")) == (first, first + 1, None)
    await sites.ensure(["a", "b"], {"a": True, "b": True, "c": True})
    assert (sites.port("a"), sites.model(first)) == (first, "a")


async def test_a_port_of_a_forgotten_model_is_free_again(sites: ModelPortSites, first: int) -> None:
    """It is closed when the fleet knows the model no more, and goes to the next one; who is connected is served on."""
    await sites.ensure(["a", "b"], {"a": True, "b": True})
    there = await Connection.open(Address("127.0.0.1", first))
    await there.request("GET", "/")
    assert (await there.reply()).body == b"here"
    await sites.ensure(["b"], {"b": True})
    assert (sites.port("a"), sites.model(first), listens(first)) == (None, None, False)
    await there.request("GET", "/")
    assert (await there.reply()).body == b"here"
    await there.leave()
    await sites.ensure(["b", "c"], {"b": True, "c": True})
    assert (sites.port("c"), listens(first)) == (first, True)


async def test_a_port_of_a_model_that_no_worker_has_is_lent(
    sites: ModelPortSites, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays open while nobody needs it, and goes to a model that finds no other."""
    await sites.ensure(["a", "b"], {"a": True, "b": True})
    await sites.ensure(["b"], {"a": False, "b": True})
    assert sites.port("a") == first
    await sites.ensure(["b", "c"], {"a": False, "b": True, "c": True})
    assert (sites.port("a"), sites.port("b"), sites.port("c")) == (None, first + 1, first)
    await sites.ensure(["a", "b", "c"], {"a": True, "b": True, "c": True})
    await sites.ensure(["a", "b", "c"], {"a": True, "b": True, "c": True})
    assert caplog.text.count("no port of model_ports is left for model a") == 1


async def test_a_port_in_use_is_tried_again(
    sites: ModelPortSites, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Once the other program has gone its port is used; it is told of once, and nothing of the attempts is kept."""
    with bound(first) as other:
        other.listen()
        for _ in range(3):
            await sites.ensure(["a", "b"], {"a": True, "b": True})
        assert (sites.port("a"), sites.port("b")) == (first + 1, None)
    await sites.ensure(["a", "b"], {"a": True, "b": True})
    assert sites.port("b") == first
    assert caplog.text.count(f"port {first} for model") == 1


async def test_which_ports_are_ours(sites: ModelPortSites, first: int) -> None:
    """Those of the range that are open here or could be; not those at which another program listens."""
    await sites.ensure(["a"], {"a": True})
    assert [sites.is_own(port) for port in range(first - 1, first + 3)] == [False, True, True, False]
    with bound(first + 1) as other:
        other.listen()
        assert not sites.is_own(first + 1)
    assert sites.is_own(first + 1)


def _left_over(key: str, port: int) -> JsonObject:
    return {"model_name": key, "host": "127.0.0.1", "port": port, "healthy": True}


async def test_rows_of_an_earlier_run_go(first: int) -> None:
    """What a killed gateway left at ports of the range goes at the start, also where this run opened none of them.

    Rows of a program that lives at such a port stay, as those of others do.
    """
    registry = FakeRegistry()
    await registry.start()
    kept = {("d@llm", "127.0.0.1", first + 3), ("e@llm", "127.0.0.1", first + 4), ("f@llm", "10.0.0.1", first + 1)}
    left = {("b@llm", "127.0.0.1", first + 1), ("c@llm", "127.0.0.1", first + 2), ("x@llm", "127.0.0.1", first)}
    registry.rows = {row: {**_left_over(row[0], row[2]), "host": row[1]} for row in kept | left}
    settings = {"model_ports": {"first": first, "last": first + 3}, "dbgpt": {"controllers": [registry.url]}}
    with bound(first + 3) as other:
        other.listen()
        async with demo_worker("a") as worker, running(worker.address, given=settings):
            await eventually(lambda: ("a@llm", "127.0.0.1", first) in registry.rows and not left & registry.rows.keys())
            assert kept < registry.rows.keys()
    assert registry.rows.keys() == kept
    await registry.stop()


async def test_two_gateways_with_one_range(first: int) -> None:
    """The second one beside the first takes the ports that are left, and neither takes away what the other entered."""
    registry = FakeRegistry()
    await registry.start()
    settings = {"model_ports": {"first": first, "last": first + 3}, "dbgpt": {"controllers": [registry.url]}}
    async with demo_worker("a", "b") as worker, running(worker.address, given=settings):
        await eventually(lambda: len(registry.rows) == 5)
        of_the_first = dict(registry.rows)
        async with running(worker.address, given=settings) as second:
            await eventually(lambda: len(registry.rows) == 10)
            (status,) = second.gateway.backends.status()
            assert isinstance(status, dict)
            assert status["reachable"]
            assert {port for key, _, port in registry.rows if key == "a@llm"} == {first, first + 2}
        assert registry.rows == of_the_first
    assert registry.rows == {}
    await registry.stop()


async def test_a_port_follows_the_fleet(first: int) -> None:
    """A new version of a model takes the port of the old one where the range has no other."""
    given = {"model_ports": {"first": first, "last": first}}
    async with demo_worker("m") as worker, running(worker.address, given=given) as rig:
        fleet = rig.gateway.fleet
        facts = fleet.known("m")
        assert facts is not None
        newer = ModelFacts("n", facts.kinds, facts.context_length, facts.conversation, {**facts.document, "model": "n"})
        fleet.report(WorkerReport(worker.address, (newer,)), time.monotonic())
        own = Address("127.0.0.1", first)
        for _ in range(200):
            with contextlib.suppress(OSError):
                reply = await call(own, "POST", "/api/worker/model_metadata", {"span_id": "x"}, connection="close")
                if reply.status == 200 and reply.object["model"] == "n":
                    return
            await asyncio.sleep(0.01)
        raise AssertionError("the port stays with the old model")


@pytest.mark.parametrize("sent", [b"", b"POST /reload HTTP/1.1\r\nHost: x\r\nX-A: "])
async def test_who_sends_no_request_is_not_waited_for(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every listener closes a connection on which no whole request comes, the operator's one too."""
    monkeypatch.setattr(listeners, "KEEPALIVE_SECONDS", 0.2)
    async with running(fastchat={"accept": {"listen": "127.0.0.1:0"}}) as rig:
        assert rig.gateway.accepts is not None
        for address in (rig.listen, rig.gateway.accepts, rig.gateway.admin):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()


async def test_the_workers_listener_manages_nothing() -> None:
    """Who may register cannot take a model out of service: there is no such path at that address."""
    given: JsonObject = {"dbgpt": {"management": True}}
    headers = {"connection": "close", "X-Gateway-Token": "a-secret"}
    async with demo_worker("m") as worker:
        given["fastchat"] = {"workers": [worker.address], "accept": {"listen": "127.0.0.1:0", "token": "a-secret"}}
        async with running(worker.address, given=given) as rig:
            there = rig.gateway.accepts
            assert there is not None
            for path in ("/api/worker/models/shutdown", "/a-secret/api/worker/models/shutdown"):
                refused = await call(there, "POST", path, {"model": "m", "worker_type": "llm"}, **headers)
                assert refused.status == 404, refused
            assert "text" in (await call(there, "POST", "/api/worker/generate", HELLO, **headers)).object
            assert "text" in (await rig.post("generate", HELLO)).object
