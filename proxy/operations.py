"""What operators can see and do while the gateway runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy import __version__
from proxy.address import Address
from proxy.backends.assembly import Backends
from proxy.fleet.facts import WorkerView
from proxy.fleet.table import Fleet
from proxy.recording.recorder import Recorder, RecordingRefused, wanted
from proxy.reload import Loaded, Reloader, utc
from proxy.state import model_documents, names_for_people, rules_document, rules_summary, worker_document
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.rows import ConnectionCounts, QueueRow, WorkerRow
from proxy.telemetry.rules import RuleTable
from proxy.together import Together
from proxy.types import Json, JsonObject
from proxy.upstream import UpstreamPool


@dataclass
class InForce:
    """What holds now; replaced as a whole, except for what says how far the program is.

    generation: grows with each reload; loaded_at: seconds since the epoch; looked: the fleet was asked once; accepting:
    new requests are taken.
    """

    loaded: Loaded
    generation: int = 1
    loaded_at: float = field(default_factory=time.time)
    looked: bool = False
    stopping: bool = False
    accepting: bool = True


class Operations:
    """The operator's side of a gateway; `proxy.server.admin` serves it.

    counted: what the rules do in this process; together: what all processes of the gateway do, where there are several.
    """

    def __init__(
        self,
        now: InForce,
        fleet: Fleet,
        backends: Callable[[], Backends],
        reloader: Reloader,
        addresses: Callable[[], tuple[Address, Address]],
        counted: RuleTable,
        recorder: Recorder,
        together: Together | None = None,
    ) -> None:
        self._now, self._fleet, self._backends, self._reloader = now, fleet, backends, reloader
        self._addresses = addresses
        self._counted, self._together, self._recorder = counted, together, recorder

    def ready(self) -> tuple[bool, str]:
        """Whether requests can be answered, and why."""
        if self._now.stopping:
            return False, "stopping"
        if not self._now.looked:
            return False, "starting: the fleet has not been looked at yet"
        serves = self._backends().in_service
        answerable = sorted({model for model, kind in self._fleet.answerable() if serves(model, kind)})
        if not answerable:
            return False, "no worker can answer any model"
        return True, f"ready: {names_for_people(answerable)}"

    async def status(self) -> JsonObject:
        """The state at a glance: version, addresses, rules, workers, registrations."""
        counted = await self._counts()
        listen, advertised = self._addresses()
        rules = self._now.loaded.rules
        return {
            "version": __version__,
            "listen": str(listen),
            "advertised": str(advertised),
            "rule_packs": list(rules.packs),
            "routes": len(rules.table.routes),
            "rules": rules_summary(rules, counted),
            "stopping": self._now.stopping,
            "processes": [] if self._together is None else self._together.processes(),
            "workers": self.workers(),
            "registrations": self._backends().status() if self._now.looked else [],
        }

    def workers(self) -> list[Json]:
        """Each worker."""
        now = time.monotonic()
        return [self._document(view, now) for view in self._fleet.workers()]

    def models(self) -> list[Json]:
        """Each model and kind that was ever seen."""
        if not self._now.looked:
            return []
        backends = self._backends()
        known = backends.public_names().items()
        names = {model: name for name, model in reversed(list(known))}  # a model's own name stands before its aliases
        return model_documents(self._fleet, self._now.loaded.tuning.fleet, names, backends.aliases, backends.in_service)

    async def rules_in_force(self, *, never: bool | None = None) -> JsonObject:
        """The rules with what each did since they were loaded, and how the last reload ended. never: only those that
        took no request since then, or only those that did.
        """
        last = self._reloader.last
        counted = await self._counts()
        loaded = utc(self._now.loaded_at)
        reloaded = None if last is None else last.document()
        return rules_document(self._now.loaded.rules, counted, loaded, reloaded, never=never)

    def drain(self, worker: str) -> JsonObject | None:
        """No new requests for this worker (id or address); None where there is none."""
        now = time.monotonic()
        return self._worker(worker, now) if self._fleet.drain(worker, now) else None

    def enable(self, worker: str) -> JsonObject | None:
        """Requests for it again, also where its breaker was open."""
        now = time.monotonic()
        return self._worker(worker, now) if self._fleet.enable(worker, now) else None

    async def reload(self, why: str) -> tuple[bool, JsonObject]:
        """Read settings and rules again; whether they are in force, and how it ended."""
        result = await self._reloader.reload(why)
        return result.ok, result.document()

    def recording(self) -> JsonObject:
        """The recording under way, and the last one."""
        return self._recorder.state()

    async def record(self, asked: Json) -> JsonObject:
        """Begin one. RecordingRefused where that cannot be done."""
        return await self._recorder.begin(wanted(asked))

    async def end_recording(self) -> JsonObject:
        """End the one under way and write it to its end. RecordingRefused where there is none."""
        found = await self._recorder.end("an operator ended it")
        if found is None:
            raise RecordingRefused("no recording is being made")
        return found

    async def _counts(self) -> RuleTable:
        return self._counted if self._together is None else await self._together.counts.rules()

    def _worker(self, worker: str, now: float) -> JsonObject | None:
        view = self._fleet.worker(worker)
        return None if view is None else self._document(view, now)

    def _document(self, view: WorkerView, now: float) -> JsonObject:
        backends = self._backends()
        return worker_document(view, now, backends.sources(view.address), backends.backend(view.address))


def feed_metrics(metrics: Metrics, fleet: Fleet, backends: Backends, pool: UpstreamPool) -> None:
    """Give the metrics what they read at each scrape."""
    controllers: set[str] = set()
    addresses: set[str] = set()

    def workers() -> list[WorkerRow]:
        held = dict(backends.registrations())
        for url in controllers - held.keys():  # the settings name it no more
            metrics.registered_instances(url, 0)
        for url, count in held.items():
            metrics.registered_instances(url, count)
        controllers.update(held)
        _forget_gone(metrics, fleet, addresses)
        return [_worker_row(view) for view in fleet.workers()]

    metrics.watch_workers(workers)
    metrics.watch_queues(lambda: [QueueRow(row.model, row.kind, row.waiting) for row in fleet.queues()])
    metrics.watch_connections(lambda: _connections(pool))


def feed_serving_metrics(metrics: Metrics, fleet: Fleet, pool: UpstreamPool) -> None:
    """The same in a process whose fleet is a copy: another one shows it, here what left it is forgotten."""
    addresses: set[str] = set()

    def workers() -> list[WorkerRow]:
        _forget_gone(metrics, fleet, addresses)
        return []

    metrics.watch_workers(workers)
    metrics.watch_connections(lambda: _connections(pool))


def _forget_gone(metrics: Metrics, fleet: Fleet, addresses: set[str]) -> None:
    """addresses: the workers of the last time; becomes those of now."""
    here = {view.address for view in fleet.workers()}
    for address in addresses - here:
        metrics.forget_worker(address)
    addresses.intersection_update(here)
    addresses.update(here)
    metrics.forget_models({row.model for row in fleet.models()})


def _connections(pool: UpstreamPool) -> ConnectionCounts:
    return ConnectionCounts(
        idle=pool.idle_now,
        active=pool.open_now - pool.idle_now,
        opened=pool.opened,
        reused=pool.reused,
        retried=pool.retried_stale,
    )


def _worker_row(view: WorkerView) -> WorkerRow:
    return WorkerRow(
        view.address,
        view.up,
        view.in_flight,
        view.queue_length,
        view.limit,
        view.breaker,
        degraded=bool(view.degraded),
        drained=view.drained,
        backend=_backend(view),
    )


def _backend(view: WorkerView) -> str:
    """All models of a worker are served by one program."""
    return next((str(facts.document.get("backend") or "") for facts in view.models), "")
