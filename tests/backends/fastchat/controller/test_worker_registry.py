"""Registrations over time: floods, expiry, restarts, and names whose addresses change."""

from __future__ import annotations

import asyncio
import logging
import socket
import stat
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from proxy.backends.fastchat.controller.guard import Admission, Guard, LookUp, Peer, Rejection
from proxy.backends.fastchat.controller.network import NameLookUps, is_own_address
from proxy.backends.fastchat.controller.registry import RegistryLimits, WorkerRegistry
from proxy.backends.fastchat.source import FleetSource
from proxy.backends.fastchat.source_settings import REGISTERED, SourceSettings
from proxy.fleet.table import Fleet
from tests.backends.fakes import FakeModel, FakeWorker, eventually
from tests.backends.fastchat.harness import Controller, Harness, no_names

HERE = Peer("127.0.0.1", same_machine=True)


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    harness = Harness()
    yield harness
    await harness.close()


class Clock:
    """Real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def registry(
    harness: Harness,
    source: FleetSource,
    *,
    look_up: LookUp = no_names,
    allow: Sequence[str] = (),
    state_file: Path | None = None,
    limits: RegistryLimits | None = None,
    clock: Clock | None = None,
) -> WorkerRegistry:
    guard = Guard(allow=allow, is_own=is_own_address)
    return WorkerRegistry(
        source,
        guard,
        look_up,
        limits=limits,
        state_file=None if state_file is None else str(state_file),
        clock=clock or Clock(),
        on_event=harness.count,
    )


def dead_urls(count: int) -> list[str]:
    """Addresses on loopback where nobody listens."""
    return [f"http://127.0.{number // 250}.{number % 250 + 2}:9" for number in range(count)]


async def test_ten_thousand_registrations_leave_good_workers_alone(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers that were there stay up, one that comes amid the flood is taken in, and table and log stay bounded."""
    caplog.set_level(logging.INFO, "proxy")
    static, before, amid = (FakeWorker(m=FakeModel()) for _ in range(3))
    await harness.serve(static, before, amid)
    harness.settings = SourceSettings(probe_interval=0.5)  # with the usual patience: the flood keeps the machine busy
    source = await harness.source([static.url])
    table = registry(harness, source)
    await table.register(before.url, HERE)
    await eventually(lambda: len(harness.up()) == 2)
    for number, url in enumerate(dead_urls(10_000)):
        await table.register(url, HERE)
        if number == 5_000:
            await _until_admitted(table, amid.url)
        if number % 100 == 0:
            await asyncio.sleep(0)
    await eventually(lambda: harness.up() == {static.url, before.url, amid.url})
    assert len(table.rows()) <= 66
    assert len(harness.fleet.workers()) == 3
    assert len([record for record in caplog.records if record.name.startswith("proxy.")]) < 20
    assert table.heartbeat(before.url, "127.0.0.1", 0)
    assert table.heartbeat(amid.url, "127.0.0.1", 0)


async def _until_admitted(table: WorkerRegistry, url: str) -> None:
    deadline = time.monotonic() + 5
    while not isinstance(await table.register(url, HERE), Admission):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_peers_that_hold_connections_block_nobody_else(harness: Harness) -> None:
    """One peer whose workers never answer has a bounded share; another peer still gets in."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as silent:
        port = silent.getsockname()[1]
        worker = FakeWorker(m=FakeModel())
        await harness.serve(worker)
        source = await harness.source()
        limits = RegistryLimits(newcomers=8, newcomers_of_peer=4)
        table = registry(harness, source, limits=limits, allow=["127.0.0.0/8"])
        judged = [await table.register(f"http://127.0.0.1:{port}/{n}", HERE) for n in range(20)]
        assert sum(isinstance(each, Rejection) and each.reason == "full" for each in judged) == 16
        other = Peer("127.0.0.2", same_machine=True)
        assert isinstance(await table.register(worker.url, other), Admission)
        await eventually(lambda: harness.up() == {worker.url})


async def test_a_worker_that_never_answers_is_dropped(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """It has no place in the fleet, is told once, goes after its time, and may register again."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    harness.settings = replace(harness.settings, newcomer_seconds=0.3)
    source = await harness.source()
    table = registry(harness, source, clock=clock)
    url = dead_urls(1)[0]
    assert isinstance(await table.register(url, HERE), Admission)
    await eventually(lambda: harness.events["probe", "refused"] >= 2)
    clock.ahead = 11
    table.expire()
    table.expire()
    assert len([record for record in caplog.records if "cannot be used" in record.getMessage()]) == 1
    assert harness.fleet.workers() == []
    await eventually(lambda: source.watch(url) is None)
    assert not table.heartbeat(url, "127.0.0.1", 0)
    table.expire()
    assert table.rows() == []
    assert isinstance(await table.register(url, HERE), Admission)


async def test_silence_alone_forgets_nobody_who_answers(harness: Harness) -> None:
    """Without a heartbeat for 90 s a worker that answers stays, one that does not is forgotten and registers again."""
    alive, dead = FakeWorker(m=FakeModel()), FakeWorker(m=FakeModel())
    await harness.serve(alive, dead)
    clock = Clock()
    source = await harness.source()
    table = registry(harness, source, clock=clock)
    for worker in (alive, dead):
        await table.register(worker.url, HERE)
    await eventually(lambda: len(harness.up()) == 2)
    await dead.stop()
    await eventually(lambda: harness.up() == {alive.url})
    clock.ahead = 80
    table.expire()
    assert len(table.rows()) == 2
    clock.ahead = 91
    table.expire()
    assert [row.address for row in table.rows()] == [alive.url]
    assert not table.heartbeat(dead.url, "127.0.0.1", 0)
    assert table.heartbeat(alive.url, "127.0.0.1", 0)
    assert harness.events["registered_worker", "expired"] == 1


async def test_a_worker_that_said_it_sends_no_heartbeats_is_not_expected_to(harness: Harness) -> None:
    """check_heart_beat false leaves it to the probes."""
    clock = Clock()
    source = await harness.source()
    table = registry(harness, source, clock=clock)
    await table.register("http://127.0.0.1:9", HERE, heartbeats=False)
    clock.ahead = 1_000
    table.expire()
    assert len(table.rows()) == 1


async def test_a_heartbeat_of_a_worker_that_is_down_brings_a_probe(harness: Harness) -> None:
    """Whoever says that it is there again is looked at without waiting for the next probe."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    await worker.stop()
    harness.settings = replace(harness.settings, probe_interval=20.0)
    source = await harness.source()
    table = registry(harness, source)
    await table.register(worker.url, HERE)
    await eventually(lambda: harness.events["probe", "refused"] == 1)
    await worker.start()
    assert table.heartbeat(worker.url, "127.0.0.1", 0)
    await eventually(lambda: harness.up() == {worker.url}, seconds=2)


async def test_the_same_name_from_two_machines_is_two_workers(harness: Harness) -> None:
    """http://localhost:21002 is each machine's own; a heartbeat counts for the one that it comes from."""
    source = await harness.source()
    table = registry(harness, source)
    name = "http://localhost:21002"
    first, second = Peer("203.0.113.1"), Peer("203.0.113.2")
    assert isinstance(await table.register(name, first), Admission)
    assert not table.heartbeat(name, second.host, 0)
    assert isinstance(await table.register(name, second), Admission)
    assert [row.address for row in table.rows()] == ["http://203.0.113.1:21002", "http://203.0.113.2:21002"]
    assert table.heartbeat(name, second.host, 0)
    assert table.heartbeat(name + "/", first.host, 0)


async def test_a_name_that_moves_is_followed_when_it_registers(harness: Harness) -> None:
    """After a registration under a name its heartbeats count for where the name leads then."""
    old, new = FakeWorker(m=FakeModel()), FakeWorker(m=FakeModel())
    await harness.serve(old, new)
    where = {"host": "127.0.0.1"}

    async def look_up(host: str) -> Sequence[str]:
        return [where["host"]]

    source = await harness.source()
    table = registry(harness, source, look_up=look_up)
    name = f"http://gpu1.example:{old.port}"
    assert await table.register(name, HERE) == Admission(old.url)
    where["host"] = "127.0.0.2"
    assert table.heartbeat(name, "127.0.0.1", 0), "a heartbeat looks nothing up"
    assert await table.register(name, HERE) == Admission(f"http://127.0.0.2:{old.port}")
    assert {row.address: row.names for row in table.rows()} == {
        old.url: (),
        f"http://127.0.0.2:{old.port}": (name,),
    }


async def test_one_worker_known_in_three_ways_is_one(harness: Harness) -> None:
    """A worker that the settings name and that registers under two names is probed and counted once."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    source = await harness.source([worker.url])
    table = registry(harness, source)
    for host in ("localhost", "127.0.0.1", "[::ffff:127.0.0.1]"):
        assert await table.register(f"http://{host}:{worker.port}", HERE) == Admission(worker.url)
    assert len(harness.fleet.workers()) == 1
    assert source.sources(worker.url) == (REGISTERED, "settings")
    assert len(table.rows()[0].names) == 3


async def test_a_full_fleet_refuses_with_its_reason(harness: Harness) -> None:
    """Beyond the bound of the fleet a registration is refused, and who is known registers on."""
    workers = [FakeWorker(m=FakeModel()) for _ in range(3)]
    await harness.serve(*workers)
    harness.fleet = Fleet(max_workers=2, max_models_per_worker=8)
    harness.settings = replace(harness.settings, max_workers=2)
    source = await harness.source()
    table = registry(harness, source)
    for worker in workers[:2]:
        await table.register(worker.url, HERE)
    await eventually(lambda: len(harness.up()) == 2)
    judged = await table.register(workers[2].url, HERE)
    assert isinstance(judged, Rejection)
    assert judged.reason == "full"
    assert isinstance(await table.register(workers[0].url, HERE), Admission)


async def test_registrations_outlive_the_gateway(harness: Harness, tmp_path: Path) -> None:
    """After a restart the workers are known before their next heartbeat; what is no longer allowed stays out."""
    state = tmp_path / "workers.json"
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    source = await harness.source()
    first = registry(harness, source, state_file=state, allow=["203.0.113.0/24"])
    await first.register(worker.url, HERE, multimodal=True)
    await first.register("http://203.0.113.7:1", HERE)
    await first.save()
    source.drop(worker.url)
    second = registry(harness, source, state_file=state)
    await second.restore()
    assert [row.address for row in second.rows()] == [worker.url]
    assert second.is_multimodal(worker.url)
    assert second.heartbeat(worker.url, "127.0.0.1", 0)
    await eventually(lambda: harness.up() == {worker.url})
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["workers.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b'[{"worker_name": 1}]', b"\xff", b"[" * 5_000, b"[" + b" " * 2_000_000 + b"]"],
    ids=["empty", "object", "number", "wrong type", "not UTF-8", "deep", "huge"],
)
async def test_a_broken_state_file_is_a_warning(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """The gateway starts without it, says so once, and writes a good one with the next registration."""
    state = tmp_path / "workers.json"
    state.write_bytes(content)
    source = await harness.source()
    table = registry(harness, source, state_file=state)
    await table.restore()
    assert table.rows() == []
    assert caplog.text.count("cannot be read") == 1
    await table.register("http://127.0.0.1:9", HERE)
    await table.save()
    assert orjson.loads(state.read_bytes())[0]["worker_name"] == "http://127.0.0.1:9"


async def test_a_state_file_that_cannot_be_written_is_a_warning(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that is not there takes nothing but the memory over a restart."""
    source = await harness.source()
    table = registry(harness, source, state_file=tmp_path / "gone" / "workers.json")
    await table.restore()
    await table.register("http://127.0.0.1:9", HERE)
    await table.save()
    assert "cannot be kept" in caplog.text
    assert len(table.rows()) == 1


async def test_the_table_writes_itself(controller: Controller, tmp_path: Path) -> None:
    """While it runs, a change is in the file within seconds, and nothing is written without one."""
    controller.state_file = str(tmp_path / "workers.json")
    await controller.start()
    task = asyncio.create_task(controller.registry.run())
    await controller.register("http://127.0.0.1:9")
    await eventually((tmp_path / "workers.json").exists, seconds=3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_slow_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that hangs costs a registration its time and the gateway nothing; too many at once are refused."""

    def hang(*_: object, **__: object) -> list[object]:
        time.sleep(0.3)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    look_ups = NameLookUps(seconds=0.05, threads=2, pending=4)
    began = time.monotonic()
    results = await asyncio.gather(*(look_ups(f"h{n}.example") for n in range(6)), return_exceptions=True)
    assert time.monotonic() - began < 0.25
    assert all(isinstance(result, OSError) for result in results)
    assert sum("already" in str(result) for result in results) == 2
    look_ups.close()


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"])
async def test_the_system_reads_every_spelling(host: str) -> None:
    """Decimal, octal and hexadecimal spellings of an IPv4 address are looked up, so the guard sees what they mean."""
    look_ups = NameLookUps()
    assert await look_ups(host) == ["127.0.0.1"]
    look_ups.close()


def test_own_addresses_are_known_without_a_packet() -> None:
    """Loopback is this machine, an address of the documentation's networks is not, and neither is a word."""
    assert is_own_address("127.0.0.1")
    assert is_own_address("127.8.8.8")
    assert not is_own_address("203.0.113.5")
    assert not is_own_address("gpu1")
    assert not is_own_address("")
