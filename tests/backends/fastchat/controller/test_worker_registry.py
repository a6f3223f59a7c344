"""Registrations over time: floods, expiry, restarts, and names whose addresses change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import stat
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from proxy.backends.fastchat.controller.guard import Admission, Guard, LookUp, Peer, Rejection
from proxy.backends.fastchat.controller.registry import RegistryLimits, WorkerRegistry
from proxy.backends.workers.network import NameLookUps, is_own_address
from proxy.backends.workers.settings import REGISTERED, SourceSettings
from proxy.backends.workers.source import FleetSource
from proxy.fleet.table import Fleet
from tests.backends.fakes import FakeModel, FakeWorker, eventually
from tests.backends.fastchat.harness import Controller, Harness, no_names

HERE = Peer("127.0.0.1", same_machine=True)


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
        harness.looks,
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
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(10)]
        worker = FakeWorker(m=FakeModel())
        await harness.serve(worker)
        source = await harness.source()
        limits = RegistryLimits(newcomers=8, newcomers_of_peer=4)
        table = registry(harness, source, limits=limits, allow=["127.0.0.0/8"])
        judged = [await table.register(f"http://127.0.0.1:{each.getsockname()[1]}", HERE) for each in silent]
        assert sum(isinstance(each, Rejection) and each.reason == "full" for each in judged) == 6
        other = Peer("127.0.0.2", same_machine=True)
        assert isinstance(await table.register(worker.url, other), Admission)
        await eventually(lambda: harness.up() == {worker.url})


async def test_one_peer_does_not_fill_the_fleet(harness: Harness) -> None:
    """Workers that answer count too: a peer has its share, another one gets in, and this machine has more."""
    workers = [FakeWorker(m=FakeModel()) for _ in range(5)]
    await harness.serve(*workers)
    source = await harness.source()
    limits = RegistryLimits(of_peer=2, of_this_machine=3)
    table = registry(harness, source, limits=limits, allow=["127.0.0.0/8"])
    one, two = Peer("203.0.113.1"), Peer("203.0.113.2")
    for peer, worker in ((one, workers[0]), (one, workers[1])):
        assert isinstance(await table.register(worker.url, peer._replace(same_machine=True)), Admission)
    await eventually(lambda: len(harness.up()) == 2)
    for host in ("203.0.113.1", "203.0.113.2"):
        entries = [row for row in table.rows() if row.peer == host]
        assert len(entries) == (2 if host == one.host else 0)
    refused = await table.register("http://203.0.113.1:9", one)
    assert isinstance(refused, Rejection)
    assert refused.reason == "full"
    assert "2 workers have registered from 203.0.113.1" in refused.text
    assert await table.refusal("http://203.0.113.1:9", one) == refused
    assert await table.refusal("http://203.0.113.2:9", two) is None
    assert isinstance(await table.register("http://203.0.113.2:9", two), Admission)
    for worker in workers[2:]:
        assert isinstance(await table.register(worker.url, HERE), Admission)
    await eventually(lambda: len(harness.up()) == 5)
    assert isinstance(await table.register("http://127.0.0.1:9", HERE), Rejection)
    assert isinstance(await table.register(workers[2].url, HERE), Admission), "who is known registers on"


async def test_one_worker_under_many_names_makes_room_for_itself(harness: Harness) -> None:
    """A worker that was dropped a moment ago is new, whatever names it had."""

    async def look_up(host: str) -> Sequence[str]:
        return ["127.0.0.1"]

    source = await harness.source()
    table = registry(harness, source, look_up=look_up, limits=RegistryLimits(workers=1, newcomers=1))
    for name in "abcd":
        assert isinstance(await table.register(f"http://{name}.example:9", HERE), Admission)
    source.drop("http://127.0.0.1:9")
    assert isinstance(await table.register("http://e.example:9", HERE), Admission)
    assert [row.names for row in table.rows()] == [("http://e.example:9",)]
    assert not table.heartbeat("http://a.example:9", "127.0.0.1", 0)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "gpu7", "0.0.0.0", "[::ffff:127.0.0.1]"])
async def test_a_named_worker_that_registers_is_one(harness: Harness, host: str) -> None:
    """However settings and registration call its host, it is one worker with one limit, under the settings' name."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    harness.names = {"gpu7": ["127.0.0.1"]}
    source = await harness.source([f"http://{host}:{worker.port}"])
    (view,) = harness.fleet.workers()
    table = registry(harness, source, look_up=harness.look_up)
    for posted in (worker.url, f"http://localhost:{worker.port}", f"http://gpu7:{worker.port}"):
        judged = await table.register(posted, HERE)
        assert isinstance(judged, Admission)
        assert judged.address == view.address
        assert table.heartbeat(posted, HERE.host, 0)
    assert [each.address for each in harness.fleet.workers()] == [view.address]
    assert source.sources(view.address) == (REGISTERED, "settings")
    assert [row.address for row in table.rows()] == [view.address]


async def test_a_name_of_several_machines_is_no_workers_other_name(harness: Harness) -> None:
    """A registration is not lost in a name behind which there is one machine after the other."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    harness.names = {"pool": ["127.0.0.1", "127.0.0.2"]}
    source = await harness.source([f"http://pool:{worker.port}"])
    table = registry(harness, source, look_up=harness.look_up)
    assert await table.register(worker.url, HERE) == Admission(worker.url)
    await eventually(lambda: worker.url in harness.up())


async def test_a_registration_that_is_no_longer_allowed_goes(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Narrower rules take out whom they refuse and whom they send elsewhere, with a line each; the rest stays."""
    own, listed, mapped, shared = (FakeWorker(m=FakeModel()) for _ in range(4))
    await harness.serve(own, listed, mapped, shared)
    source = await harness.source([shared.url])
    table = registry(harness, source)
    away = Peer("203.0.113.5")
    wide = Guard(allow=["127.0.0.0/8"], rewrite=False, addresses={"http://gpu8:1": mapped.url}, is_own=is_own_address)
    table.update(wide)
    assert isinstance(await table.register(own.url, HERE), Admission)
    for name in (listed.url, "http://gpu8:1", shared.url):
        assert isinstance(await table.register(name, away), Admission)
    await eventually(lambda: len(harness.up()) == 4)
    await table.judge_again()
    assert len(table.rows()) == 4
    running = asyncio.create_task(table.run())
    table.update(Guard(addresses={"http://gpu8:1": "http://203.0.113.8:1"}, rewrite=False, is_own=is_own_address))
    await eventually(lambda: len(table.rows()) == 1)
    assert harness.up() == {own.url, shared.url}, "the settings name one of them"
    assert [row.address for row in table.rows()] == [own.url]
    assert source.sources(shared.url) == ("settings",)
    assert not table.heartbeat(listed.url, away.host, 0)
    assert len([record for record in caplog.records if "is used no more" in record.getMessage()]) == 3
    assert harness.events["registered_worker", "refused"] == 3
    table.update(wide)
    assert isinstance(await table.register(listed.url, away), Admission), "wider again, it may come back"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_name_service_that_is_away_drops_nobody(harness: Harness) -> None:
    """While nobody can say where a name leads a registration stays, and is judged when somebody can."""
    answers: list[Sequence[str] | OSError] = [["127.0.0.1"], OSError(-3, "Try again"), ["127.0.0.1"], ["127.0.0.5"]]

    async def look_up(host: str) -> Sequence[str]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    clock = Clock()
    source = await harness.source()
    table = registry(harness, source, look_up=look_up, clock=clock)
    assert isinstance(await table.register("http://gpu7:9", HERE), Admission)
    running = asyncio.create_task(table.run())
    table.update(Guard(is_own=is_own_address))
    await eventually(lambda: len(answers) == 2)
    assert len(table.rows()) == 1
    clock.ahead = 11
    await eventually(lambda: len(answers) == 1)
    assert len(table.rows()) == 1
    table.update(Guard(is_own=is_own_address))
    await eventually(lambda: not table.rows())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


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


async def test_a_failed_write_is_tried_again(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When the folder is back the registrations are in it, without another one; the failures are one line."""
    source = await harness.source()
    table = registry(harness, source, state_file=tmp_path / "away" / "workers.json")
    await table.register("http://127.0.0.1:9", HERE)
    for _ in range(3):
        await table.save()
    (tmp_path / "away").mkdir()
    await table.save()
    assert orjson.loads((tmp_path / "away" / "workers.json").read_bytes())[0]["peer"] == "127.0.0.1"
    assert caplog.text.count("cannot be kept") == 1


async def test_a_state_file_says_nothing_about_machines(harness: Harness, tmp_path: Path) -> None:
    """Which peers are this machine is found out anew: a row of the file opens no loopback address to a stranger."""
    state = tmp_path / "workers.json"
    rows = [{"worker_name": "http://127.0.0.1:6379", "peer": "203.0.113.8", "same_machine": True}]
    state.write_bytes(orjson.dumps([*rows, {"worker_name": "http://127.0.0.1:9", "peer": "127.0.0.1"}]))
    source = await harness.source()
    table = registry(harness, source, state_file=state)
    await table.restore()
    assert [row.address for row in table.rows()] == ["http://127.0.0.1:9", "http://203.0.113.8:6379"]


@pytest.mark.parametrize(("mode", "told"), [(0o600, 0), (0o644, 0), (0o664, 1), (0o602, 1)])
async def test_a_state_file_that_others_may_write_is_told(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, told: int
) -> None:
    """Whoever writes it decides where prompts go, which its owner has to know."""
    state = tmp_path / "workers.json"
    state.write_bytes(b"[]")
    state.chmod(mode)
    await registry(harness, await harness.source(), state_file=state).restore()
    assert caplog.text.count("others may write this file") == told


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
    look_ups = NameLookUps(seconds=0.05, pending=4)
    began = time.monotonic()
    results = await asyncio.gather(*(look_ups(f"h{n}.example") for n in range(6)), return_exceptions=True)
    assert time.monotonic() - began < 0.25
    assert all(isinstance(result, OSError) for result in results)
    assert sum("already" in str(result) for result in results) == 2


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"])
async def test_the_system_reads_every_spelling(host: str) -> None:
    """Decimal, octal and hexadecimal spellings of an IPv4 address are looked up, so the guard sees what they mean."""
    look_ups = NameLookUps()
    assert await look_ups(host) == ["127.0.0.1"]


def test_own_addresses_are_known_without_a_packet() -> None:
    """Loopback is this machine, an address of the documentation's networks is not, and neither is a word."""
    assert is_own_address("127.0.0.1")
    assert is_own_address("127.8.8.8")
    assert not is_own_address("203.0.113.5")
    assert not is_own_address("gpu1")
    assert not is_own_address("")
