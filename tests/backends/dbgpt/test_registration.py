"""Every controller's registry holds what it should, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.backends.dbgpt.link import ControllerLink, RegistrarSettings
from proxy.backends.dbgpt.registration import Membership, Registrar
from tests.backends.fakes import FakeRegistry, FakeServer, eventually

HOST, PORT = "10.0.0.9", 8090
FAST = RegistrarSettings(
    heartbeat_interval=0.1,
    check_interval=0.03,
    verify_interval=30.0,
    call_timeout=0.3,
    connect_timeout=0.3,
    withdraw_timeout=0.5,
    backoff_first=0.02,
    backoff_max=0.1,
)
MODELS = "/api/controller/models"
HEARTBEAT = "/api/controller/heartbeat"
MANAGER = "WorkerManager@service"


class Harness:
    """A registrar over some registries; `models` is the desired set."""

    def __init__(self) -> None:
        self.models: list[tuple[str, str]] = [("m", "llm")]
        self.at_home: dict[str, frozenset[str]] = {}  # model to the controllers that have it without us
        self.events: Counter[tuple[str, str, str]] = Counter()
        self.settings = FAST
        self.registrar: Registrar | None = None
        self._task: asyncio.Task[None] | None = None
        self._servers: list[FakeServer] = []

    async def serve(self, *servers: FakeServer) -> None:
        for server in servers:
            await server.start()
            self._servers.append(server)

    def desired(self) -> list[Membership]:
        return [
            Membership(model, kind, HOST, PORT, self.at_home.get(model, frozenset())) for model, kind in self.models
        ]

    def count(self, name: str, /, **labels: str) -> None:
        self.events[name, labels["controller"], labels["result"]] += 1

    def start(self, *urls: str) -> Registrar:
        self.registrar = Registrar(
            urls,
            self.desired,
            manager=(HOST, PORT),
            rng=random.Random(1),
            settings=self.settings,
            on_event=self.count,
        )
        self._task = asyncio.create_task(self.registrar.run())
        return self.registrar

    async def close(self) -> None:
        if self.registrar is not None and self._task is not None:
            await self.registrar.close()
            await asyncio.wait_for(self._task, 1)
        for server in self._servers:
            await server.stop()


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    harness = Harness()
    yield harness
    await harness.close()


@pytest.fixture
async def registry(harness: Harness) -> FakeRegistry:
    registry = FakeRegistry()
    await harness.serve(registry)
    return registry


async def test_a_cluster_is_not_given_its_own_models(harness: Harness) -> None:
    """What a controller has by itself is registered elsewhere only, and taken back where it comes to have it."""
    one, two = FakeRegistry(), FakeRegistry()
    await harness.serve(one, two)
    harness.models = [("m", "llm"), ("n", "llm")]
    harness.at_home = {"m": frozenset({one.url})}
    registrar = harness.start(one.url, two.url)
    await eventually(lambda: one.keys == {"n@llm", MANAGER} and two.keys == {"m@llm", "n@llm", MANAGER})
    harness.at_home = {"m": frozenset({one.url}), "n": frozenset({one.url, two.url})}
    registrar.changed()
    await eventually(lambda: one.keys == {MANAGER} and two.keys == {"m@llm", MANAGER})


async def test_registers_models_and_manager(harness: Harness, registry: FakeRegistry) -> None:
    """Each model has a row of each kind, and the manager's row is always there."""
    harness.models = [("m", "llm"), ("m", "text2vec")]
    registrar = harness.start(registry.url)
    await eventually(lambda: registry.keys == {"m@llm", "m@text2vec", MANAGER})
    assert registry.rows["m@llm", HOST, PORT] == {
        "model_name": "m@llm",
        "host": HOST,
        "port": PORT,
        "weight": 1.0,
        "check_healthy": True,
        "healthy": True,
        "enabled": True,
        "prompt_template": None,
        "last_heartbeat": None,
    }
    await eventually(lambda: harness.events["heartbeat", registry.url, "ok"] >= 6)
    status = registrar.status()[0]
    assert status.reachable is True
    assert {str(instance) for instance in status.registered} == {f"{key} at {HOST}:{PORT}" for key in registry.keys}
    assert status.heartbeat_age is not None
    assert status.heartbeat_age < 0.5
    assert harness.events["registration", registry.url, "ok"] == 3


async def test_manager_is_there_without_models(harness: Harness, registry: FakeRegistry) -> None:
    """A cluster finds the gateway before any model is up."""
    harness.models = []
    harness.start(registry.url)
    await eventually(lambda: registry.keys == {MANAGER})


async def test_change_is_applied_at_once(harness: Harness, registry: FakeRegistry) -> None:
    """A model that comes is entered and one that goes is removed, long before the next round."""
    harness.settings = replace(FAST, check_interval=30.0, heartbeat_interval=20.0)
    registrar = harness.start(registry.url)
    await eventually(lambda: registry.keys == {"m@llm", MANAGER})
    harness.models = [("n", "llm")]
    registrar.changed()
    await eventually(lambda: registry.keys == {"n@llm", MANAGER}, seconds=1)
    assert harness.events["registration", registry.url, "withdrawn"] == 1


async def test_restarted_registry_gets_everything_back(harness: Harness, registry: FakeRegistry) -> None:
    """A controller that was away and forgot all is full again as soon as it answers."""
    harness.settings = replace(FAST, heartbeat_interval=20.0)
    harness.models = [("m", "llm"), ("n", "llm")]
    registrar = harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 3)
    await registry.stop()
    await eventually(lambda: registrar.status()[0].reachable is False)
    assert registrar.status()[0].registered == ()
    registry.rows.clear()
    await registry.start()
    await eventually(lambda: registry.keys == {"m@llm", "n@llm", MANAGER}, seconds=1)


async def test_restart_too_quick_to_be_noticed_is_repaired_by_heartbeats(
    harness: Harness, registry: FakeRegistry
) -> None:
    """State that is lost without one failed call is back after the next heartbeat."""
    harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 2)
    registry.rows.clear()
    await eventually(lambda: registry.keys == {"m@llm", MANAGER}, seconds=1)


async def test_lost_or_unhealthy_rows_are_repaired_by_comparison(harness: Harness, registry: FakeRegistry) -> None:
    """A row that somebody removed or marked is entered again although heartbeats are far away."""
    harness.settings = replace(FAST, heartbeat_interval=20.0, verify_interval=0.05)
    harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 2)
    registry.rows["m@llm", HOST, PORT]["healthy"] = False
    del registry.rows[MANAGER, HOST, PORT]
    await eventually(
        lambda: registry.keys == {"m@llm", MANAGER} and all(row["healthy"] for row in registry.rows.values())
    )


async def test_left_over_rows_of_ours_are_removed_and_no_others(harness: Harness, registry: FakeRegistry) -> None:
    """After a crash the rows at our address go; those of other workers stay."""
    for key, host in (("old@llm", HOST), ("other@llm", "10.0.0.1")):
        registry.rows[key, host, PORT] = {"model_name": key, "host": host, "port": PORT, "healthy": True}
    registry.rows["odd", "", 0] = {"model_name": 7}
    harness.start(registry.url)
    await eventually(lambda: registry.keys == {"m@llm", MANAGER, "other@llm", "odd"})


async def test_unreachable_then_reachable(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """A controller that starts after the gateway is found; until then one warning, not one a second."""
    registry = FakeRegistry()
    await harness.serve(registry)
    await registry.stop()
    registrar = harness.start(registry.url)
    await asyncio.sleep(0.3)
    status = registrar.status()[0]
    assert (status.reachable, status.heartbeat_age) == (False, None)
    assert "connection refused" in status.error
    await registry.start()
    await eventually(lambda: registry.keys == {"m@llm", MANAGER}, seconds=1)
    assert caplog.text.count("unreachable") == 1


async def test_dead_controllers_delay_no_other(harness: Harness, registry: FakeRegistry) -> None:
    """One that refuses, one that never answers and one that is fine: the last is served in time."""
    dead = FakeRegistry()
    await harness.serve(dead)
    await dead.stop()
    harness.settings = replace(FAST, call_timeout=20.0, connect_timeout=20.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registrar = harness.start(dead.url, f"http://127.0.0.1:{silent.getsockname()[1]}", registry.url)
        await eventually(lambda: registry.count(HEARTBEAT) >= 4, seconds=2)
        assert [status.reachable for status in registrar.status()] == [False, None, True]
        started = time.monotonic()
        await registrar.withdraw_all()
        assert time.monotonic() - started < 1
    assert registry.rows == {}


async def test_withdraw_all_leaves_nothing(harness: Harness, registry: FakeRegistry) -> None:
    """After the withdrawal the registry is empty and stays so."""
    second = FakeRegistry()
    await harness.serve(second)
    registrar = harness.start(registry.url, second.url)
    await eventually(lambda: len(registry.rows) == len(second.rows) == 2)
    await registrar.withdraw_all()
    registrar.changed()
    await asyncio.sleep(0.1)
    assert registry.rows == second.rows == {}


async def test_withdraw_all_is_bounded(
    harness: Harness, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A controller that hangs at shutdown costs the bound and is named in the log."""
    harness.settings = replace(FAST, call_timeout=30.0)
    registrar = harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 2)
    registry.hang.add(MODELS)
    started = time.monotonic()
    await registrar.withdraw_all()
    assert 0.4 < time.monotonic() - started < 1.5
    assert "may still hold" in caplog.text
    assert "m@llm" in caplog.text


async def test_model_gone_while_the_controller_was_away(harness: Harness, registry: FakeRegistry) -> None:
    """A controller with a database keeps its rows over a restart; ours that are not wanted any more are removed."""
    harness.models = [("m", "llm"), ("n", "llm")]
    registrar = harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 3)
    await registry.stop()
    await eventually(lambda: registrar.status()[0].reachable is False)
    harness.models = [("n", "llm")]
    registrar.changed()
    await registry.start()
    await eventually(lambda: registry.keys == {"n@llm", MANAGER})


async def test_one_refused_instance_stops_no_other(harness: Harness, registry: FakeRegistry) -> None:
    """A controller that cannot take one row still gets the rest, and the row again and again."""
    registry.refuse_keys.add("bad@llm")
    harness.models = [("bad", "llm"), ("m", "llm")]
    registrar = harness.start(registry.url)
    await eventually(lambda: registry.keys == {"m@llm", MANAGER})
    await eventually(lambda: harness.events["registration", registry.url, "failed"] >= 2)
    assert "bad@llm" in registrar.status()[0].error
    registry.refuse_keys.clear()
    await eventually(lambda: registry.keys == {"m@llm", "bad@llm", MANAGER})


@pytest.mark.parametrize(
    "reply",
    [
        web.Response(status=307, headers={"Location": "/elsewhere"}),
        web.Response(status=502, text="proxy"),
        web.Response(text="false"),
        web.Response(body=b'"' + b"x" * 5_000_000 + b'"'),
        web.Response(text="<html>"),
    ],
    ids=["redirect", "502", "false", "oversized", "html"],
)
async def test_answers_that_are_no_agreement(harness: Harness, registry: FakeRegistry, reply: web.Response) -> None:
    """A redirect, a false or a page of somebody else is no registration, and is not followed."""
    registry.replies[MODELS] = reply
    registrar = harness.start(registry.url)
    await eventually(lambda: harness.events["registration", registry.url, "failed"] >= 4)
    assert registrar.status()[0].registered == ()
    assert registry.count("/elsewhere") == 0
    registry.replies.clear()
    await eventually(lambda: registry.keys == {"m@llm", MANAGER})


async def test_something_else_at_the_address_is_unreachable(harness: Harness) -> None:
    """A server without the health call is not a controller; the state says what it answered."""
    other = FakeServer()
    await harness.serve(other)
    registrar = harness.start(other.url)
    await eventually(lambda: registrar.status()[0].reachable is False)
    assert "/api/health answered 404, expected 200" in registrar.status()[0].error


async def test_failed_heartbeat_registers_again(harness: Harness, registry: FakeRegistry) -> None:
    """An instance whose heartbeat is refused does not count as registered, and is entered again."""
    registrar = harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 2)
    before = harness.events["registration", registry.url, "ok"]
    registry.replies[HEARTBEAT] = web.Response(status=500)
    await eventually(lambda: harness.events["registration", registry.url, "ok"] > before)
    assert registrar.status()[0].reachable is True


async def test_names_with_at_signs(harness: Harness, registry: FakeRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """No key ever has two "@"; of two models with one name the second stays out, told once."""
    harness.models = [("a@b", "llm"), ("c@d", "llm"), ("a-b", "llm")]
    harness.start(registry.url)
    await eventually(lambda: registry.keys == {"a-b@llm", "c-d@llm", MANAGER})
    await eventually(lambda: registry.count(HEARTBEAT) >= 6)
    assert harness.events["registration", "all", "collision"] == 1
    assert [record.levelno for record in caplog.records if "'a@b'" in record.getMessage()] == [logging.ERROR]


async def test_fault_in_the_desired_set_is_survived(
    harness: Harness, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A callable that raises neither ends the loop nor withdraws anything."""
    registrar = harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 2)
    harness.models = [("m",)]  # type: ignore[list-item]
    await eventually(lambda: "fault" in caplog.text)
    await asyncio.sleep(0.1)
    assert caplog.text.count("Traceback") == 1
    assert len(registry.rows) == 2
    harness.models = [("n", "llm")]
    registrar.changed()
    await eventually(lambda: registry.keys == {"n@llm", MANAGER})


async def test_stop_ends_although_a_timeout_falls_into_it(harness: Harness, registry: FakeRegistry) -> None:
    """A gateway that was blocked for a moment stops all the same: no loop misses its cancellation."""
    registry.hang.add("/api/health")
    registrar = harness.start(registry.url)
    await eventually(lambda: registry.count("/api/health"))
    time.sleep(FAST.call_timeout + 0.05)  # both the timeout and the cancellation are due when the loop goes on
    closing = asyncio.ensure_future(registrar.withdraw_all())
    done, _ = await asyncio.wait([closing], timeout=2)
    assert done


async def test_pauses_grow_to_their_bound_and_are_spread(harness: Harness) -> None:
    """An unreachable controller is asked less and less often, never less than every ten seconds, for ever."""
    registry = FakeRegistry()
    await harness.serve(registry)
    await registry.stop()
    harness.settings = RegistrarSettings()
    registrar = harness.start(registry.url)
    await eventually(lambda: registrar.status()[0].reachable is False)
    link = registrar._links._links[registry.url]
    assert isinstance(link, ControllerLink)
    pauses = []
    for _ in range(60):
        await link.step()
        pauses.append(link._pause())
    assert pauses[0] < 1
    assert all(7.0 <= pause <= 10.0 for pause in pauses[20:])
    assert len(set(pauses[20:])) > 10
    assert sum(pause < 3.0 for pause in pauses) >= 6


def test_heartbeat_interval_is_bounded() -> None:
    """A setting with which a controller would give up on us is refused with its bound."""
    with pytest.raises(ValueError, match="heartbeat_interval is 30 s, expected more than 0 and at most 20"):
        RegistrarSettings(heartbeat_interval=30)


async def test_withdraw_before_run_is_harmless() -> None:
    """A gateway that fails to start can be shut down like any other."""
    registrar = Registrar(["http://127.0.0.1:9"], list, manager=(HOST, PORT), rng=random.Random(1))
    assert [(status.url, status.reachable) for status in registrar.status()] == [("http://127.0.0.1:9", None)]
    await registrar.withdraw_all()
    await registrar.close()


async def test_other_controllers_from_now_on(harness: Harness, registry: FakeRegistry) -> None:
    """One that is no longer named loses our rows, a new one gets them, one that stays notices nothing."""
    left, new = FakeRegistry(), FakeRegistry()
    await harness.serve(left, new)
    registrar = harness.start(registry.url, left.url)
    await eventually(lambda: len(registry.rows) == len(left.rows) == 2)
    before = registry.count(MODELS)
    registrar.update([registry.url, new.url], 0.1)
    await eventually(lambda: left.rows == {} and new.keys == {"m@llm", MANAGER}, seconds=2)
    await asyncio.sleep(0.1)
    assert registry.count(MODELS) == before
    assert [status.url for status in registrar.status()] == [registry.url, new.url]
    beats = left.count(HEARTBEAT)
    await eventually(lambda: new.count(HEARTBEAT) >= 4)
    assert left.count(HEARTBEAT) == beats


async def test_a_controller_that_is_left_and_named_again(harness: Harness, registry: FakeRegistry) -> None:
    """However often it is changed, what is named last has every row, and what is not has none."""
    registrar = harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 2)
    for _ in range(10):
        registrar.update([], 0.1)
        await asyncio.sleep(0)
        registrar.update([registry.url], 0.1)
    await eventually(lambda: registrar.status()[0].reachable is True)
    await asyncio.sleep(0.3)
    assert registry.keys == {"m@llm", MANAGER}
    registrar.update([], 0.1)
    await eventually(lambda: registry.rows == {})


async def test_a_dead_controller_that_is_left(harness: Harness, registry: FakeRegistry) -> None:
    """It delays neither the change nor the end."""
    dead = FakeRegistry()
    await harness.serve(dead)
    harness.settings = replace(FAST, call_timeout=20.0)
    registrar = harness.start(dead.url)
    await eventually(lambda: len(dead.rows) == 2)
    dead.hang.add(MODELS)
    registrar.update([registry.url], 0.1)
    await eventually(lambda: registry.keys == {"m@llm", MANAGER}, seconds=1)
    started = time.monotonic()
    await registrar.withdraw_all()
    assert time.monotonic() - started < 1.5
    assert registry.rows == {}


async def test_a_bad_address_changes_nothing(harness: Harness, registry: FakeRegistry) -> None:
    """An address that cannot be used is refused in one sentence, and the registrations stay."""
    registrar = harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 2)
    with pytest.raises(ValueError, match="is not an address"):
        registrar.update(["ftp://a"], 0.1)
    assert [status.url for status in registrar.status()] == [registry.url]
    assert len(registry.rows) == 2


async def test_a_second_gateway_is_an_ordinary_second_instance(harness: Harness, registry: FakeRegistry) -> None:
    """Two gateways with the same models at two addresses: neither takes the other's rows away, at start or end."""
    other = Registrar(
        [registry.url],
        lambda: [Membership("m", "llm", HOST, PORT + 1)],
        manager=(HOST, PORT + 1),
        rng=random.Random(2),
        settings=replace(FAST, verify_interval=0.05),
    )
    task = asyncio.create_task(other.run())
    await eventually(lambda: len(registry.rows) == 2)
    harness.settings = replace(FAST, verify_interval=0.05)
    registrar = harness.start(registry.url)
    await eventually(lambda: len(registry.rows) == 4)
    await asyncio.sleep(0.2)
    assert len(registry.rows) == 4
    await other.withdraw_all()
    await other.close()
    await task
    await asyncio.sleep(0.2)
    assert {port for _, _, port in registry.rows} == {PORT}
    assert {str(instance).rpartition(":")[2] for instance in registrar.status()[0].registered} == {str(PORT)}
