"""The gateway as it is run in production, on real sockets in the test's own event loop; what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import CoroutineType

from proxy.app import RunningGateway, read_rules
from proxy.demo import worker as demo
from proxy.demo.worker import DemoWorker
from proxy.ruleset import RuleSet
from proxy.settings import Address, Settings
from proxy.types import Json, JsonObject
from tests.gateway.client import Reply, call, frames_of
from tests.gateway.remote_worker import PREFIX, RemoteWorker
from tests.gateway.scripted import Part, ScriptedWorker, scripted

MODEL = "m"
HELLO: JsonObject = {"model": MODEL, "messages": [{"role": "human", "content": "Hello"}]}

Sample = tuple[str, frozenset[tuple[str, str]]]


@functools.cache
def shipped() -> RuleSet:
    """The shipped rules, read and tested once."""
    return read_rules([])


def asked(worker: DemoWorker) -> list[tuple[str, JsonObject]]:
    """What came to a worker beside the question how it is, which the gateway puts to it all the time."""
    return [(path, body) for path, body in worker.requests if path != "/worker_get_status"]


async def looked_at(worker: DemoWorker) -> None:
    """Wait until the gateway's watch over a worker has asked for the last time before its long interval."""
    await until(lambda: len(worker.requests) - len(asked(worker)) > 1, lambda: f"not watched: {worker.requests}")


class Rig:
    """A running gateway; `listen` is where clients call it."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.client = RemoteWorker(gateway.listen, MODEL)

    @property
    def listen(self) -> Address:
        return self.gateway.listen

    async def post(self, path: str, body: Json | bytes, **headers: str) -> Reply:
        """A call of the worker API; `path` without its prefix."""
        return await call(self.listen, "POST", f"{PREFIX}/{path}", body, **headers)

    async def stream(self, body: Json) -> list[JsonObject]:
        """The frames of a stream, which is whole and well formed."""
        reply = await self.post("generate_stream", body)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/octet-stream"), reply
        return frames_of(reply.body)

    async def scrape(self) -> dict[Sample, float]:
        """What Prometheus would read, by sample name and labels. Not from the page: to parse that for each test would
        take most of its time.
        """
        families = self.gateway.metrics.registry.collect()
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    async def outcomes(self, route: str | None = None) -> dict[str, int]:
        """How many requests ended how, in all routes or one; outcomes without any are left out."""
        found: dict[str, int] = {}
        for (name, labels), value in (await self.scrape()).items():
            named = dict(labels)
            if name == "gateway_requests_total" and value and route in (None, named["route"]):
                found[named["outcome"]] = found.get(named["outcome"], 0) + int(value)
        return found

    async def upstream_errors(self) -> dict[str, int]:
        """Failures of calls to workers, by kind."""
        found: dict[str, int] = {}
        for (name, labels), value in (await self.scrape()).items():
            if name == "gateway_upstream_errors_total":
                kind = dict(labels)["kind"]
                found[kind] = found.get(kind, 0) + int(value)
        return found

    async def down(self) -> None:
        """Wait until the gateway knows that its workers cannot answer."""
        fleet = self.gateway.fleet
        await until(lambda: not any(view.up for view in fleet.workers()), lambda: f"still up: {fleet.workers()}")

    async def quiet(self) -> None:
        """Wait until nothing is under way; AssertionError names what still is after a while."""
        busy: list[str] = []

        def idle() -> bool:
            busy[:] = self.busy()
            return not busy

        await until(idle, lambda: f"still under way: {busy}")

    def busy(self) -> list[str]:
        """What requests have not let go of."""
        gateway, pool = self.gateway, self.gateway.pool
        found = [f"{view.address} in flight {view.in_flight}" for view in gateway.fleet.workers() if view.in_flight]
        if pool.open_now != pool.idle_now:
            found.append(f"{pool.open_now} connections to workers, {pool.idle_now} of them idle")
        for family in gateway.metrics.registry.collect():
            if family.name == "gateway_in_flight":
                found += [f"{s.labels} in flight {s.value}" for s in family.samples if s.value]
        return found + [task.get_name() for task in asyncio.all_tasks() if _of_a_request(task)]


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task


_SERVERS = ("aiohttp/web_protocol", "tests/hostile", "tests/gateway")


def _is_a_servers(task: asyncio.Task[object]) -> bool:
    work = task.get_coro()
    return isinstance(work, CoroutineType) and any(part in work.cr_code.co_filename for part in _SERVERS)


def _of_a_request(task: asyncio.Task[object]) -> bool:
    work = task.get_coro()
    return isinstance(work, CoroutineType) and any(
        part in work.cr_code.co_filename for part in ("proxy/server", "proxy/upstream")
    )


async def until(condition: Callable[[], bool], otherwise: Callable[[], str], seconds: float = 5.0) -> None:
    """Wait for a condition; AssertionError with `otherwise` when it does not come."""
    for _ in range(int(seconds / 0.002)):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError(otherwise())


class Faults(logging.Handler):
    """Everything that a program should not log: errors of the gateway, of its server and of the event loop."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The server of a demonstration worker, not the gateway's: it was left while it wrote.
        if record.name == "aiohttp.server" and record.exc_info and isinstance(record.exc_info[1], ConnectionError):
            return
        self.records.append(logging.Formatter().format(record))


@contextlib.asynccontextmanager
async def running(
    *workers: str,
    rules: Path | None = None,
    faults_expected: bool = False,
    busy_at_end: bool = False,
    others_serve: bool = False,
    given: Mapping[str, object] | None = None,
    **settings: object,
) -> AsyncIterator[Rig]:
    """A gateway in front of these workers; afterwards everything is back to nought and nothing was left or logged.

    faults_expected: errors in the log are; busy_at_end: the gateway is stopped with requests under way; others_serve:
    connections that are open afterwards may be those of servers that were there before; given: further settings.
    """
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    faults = Faults()
    logging.getLogger().addHandler(faults)
    loop.set_exception_handler(lambda _, context: faults.records.append(str(context)))
    # Time limits far away, so that only a test that sets one meets it.
    chosen: dict[str, object] = {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "fastchat": {"workers": [*workers], "probe_seconds": 600.0},
        "shutdown_seconds": 0.5,
        **(given or {}),
        **settings,
    }
    loaded = shipped() if rules is None else read_rules([str(rules)])
    try:
        async with RunningGateway(Settings.model_validate(chosen), loaded).serve() as gateway:
            rig = Rig(gateway)
            yield rig
            if not busy_at_end:
                await rig.quiet()
            seen = await rig.scrape()
            ended = sum(v for (name, _), v in seen.items() if name == "gateway_requests_total")
            timed = sum(v for (name, _), v in seen.items() if name == "gateway_request_duration_seconds_count")
            assert ended == timed, "a request was counted twice, or never"
        assert rig.busy() == []
        assert gateway.pool.open_now == 0
        before.add(_this_task())

        def left() -> set[asyncio.Task[object]]:
            return {task for task in asyncio.all_tasks() - before if not (others_serve and _is_a_servers(task))}

        await until(lambda: not left(), lambda: f"left: {left()}")
    finally:
        logging.getLogger().removeHandler(faults)
        loop.set_exception_handler(None)
    assert faults_expected or not faults.records, faults.records


@contextlib.asynccontextmanager
async def demo_worker(*models: str, **options: float) -> AsyncIterator[DemoWorker]:
    """A demonstration worker, as fast as it can unless told otherwise."""
    given = {"chunks_per_second": 0.0, "words": 10, **options}
    worker = DemoWorker(
        models or (MODEL,),
        chunks_per_second=given["chunks_per_second"],
        words=int(given["words"]),
        concurrency=int(given.get("concurrency", 5)),
        context_length=int(given.get("context_length", 4096)),
        keepalive=given.get("keepalive", demo.KEEPALIVE_SECONDS),
        requests_kept=int(given.get("requests_kept", 1000)),
    )
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@contextlib.asynccontextmanager
async def with_demo(*models: str, **options: float) -> AsyncIterator[tuple[Rig, DemoWorker]]:
    """A gateway in front of one demonstration worker."""
    limit = {"worker_limit": int(options.get("concurrency", 5))}
    async with demo_worker(*models, **options) as worker, running(worker.address, balance=limit) as rig:
        yield rig, worker
        await until(lambda: worker.queue_length == 0, lambda: f"slots of the worker still taken: {worker.queue_length}")


@contextlib.asynccontextmanager
async def with_script(
    path: str, part: Part, serves: list[str] | None = None, /, **settings: object
) -> AsyncIterator[tuple[Rig, ScriptedWorker]]:
    """A gateway in front of one worker that answers well, except on `path`."""
    async with scripted({path: part}, serves) as worker, running(worker.address, given=settings) as rig:
        worker.arm()
        yield rig, worker
