"""Watching one worker: is it there, which models does it serve, and what must be known of them.

What counts as a new life of a worker, after which everything is asked again: it was down, or its list of models
changed. A worker that restarts between two probes and serves the same model names is not noticed at once, because its
status tells nothing else; a change in what it says of them is then seen when the facts are fetched again
(`facts_ttl`), one in what is asked once in a life (`Look.learn_more`) only in its next life.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from proxy.backends.control import ControlError, EventHook, has_controls
from proxy.backends.workers.look import Look, Looks, Status
from proxy.backends.workers.settings import REGISTERED, SourceSettings
from proxy.fleet.facts import FleetFull, ModelFacts, WorkerReport
from proxy.fleet.table import Fleet

log = logging.getLogger(__name__)

# Failures that say something about one model, not about the worker.
_OF_ONE_MODEL = ("status", "malformed", "too_large", "timeout", "reset")


class WorkerWatch:
    """One worker. `step` is one probe; it never raises for anything that the worker does.

    looks: what made the look at it; sources: who knows of it, see `settings`; down_since: on `clock`, None while up;
    settled: it was up at least once; answered: it answered a probe, usably or not; failed: it could not be used at
    least once, at the last time for this reason. A worker of which only its own registration tells has no place in the
    fleet until it is settled, so that many of them take none away.
    """

    def __init__(
        self,
        look: Look,
        fleet: Fleet,
        settings: SourceSettings,
        clock: Callable[[], float],
        on_event: EventHook,
        *,
        looks: Looks,
        source: str,
    ) -> None:
        self.address, self.looks = look.address, looks
        self.sources = {source}
        self.settled = self.failed = self.answered = self.retired = False
        self.reason = ""
        self.wake = asyncio.Event()
        self.down_since: float | None = clock()
        self._look, self._fleet, self._settings = look, fleet, settings
        self._clock, self._on_event = clock, on_event
        self._lock = asyncio.Lock()
        self._misses = self._good = self._tries = 0
        self._told = ""
        self._warned: dict[str, str] = {}  # subject (a model, or "" for the worker) to the last warning about it
        self._names: tuple[str, ...] = ()
        self._problems: dict[str, str] = {}
        self._look_due: float | None = None  # None: at the next answer

    @property
    def is_newcomer(self) -> bool:
        """Whether nothing but a registration speaks for it."""
        return not self.settled and self.sources == {REGISTERED}

    @property
    def interval(self) -> float:
        """Seconds between two probes."""
        return self._look.interval or self._settings.probe_interval

    def reconfigure(self, settings: SourceSettings) -> None:
        """Other settings: everything is asked again at the next answer."""
        self._settings = settings
        self.look_again()

    def use(self, looks: Looks, look: Look) -> None:
        """Another look at the same worker, of the same backend; what the fleet knows holds until it has learnt more."""
        self.looks, self._look = looks, look
        self.look_again()

    def retire(self) -> None:
        """It is no longer wanted: what it still answers changes nothing."""
        self.retired = True
        self.wake.set()

    def look_again(self) -> None:
        """What is known of it may have changed: ask everything at once."""
        self._look_due = None
        self.wake.set()

    def refuse(self, reason: str) -> None:
        """It may not be used, for this reason, and is asked nothing."""
        with contextlib.suppress(FleetFull):
            self._down(reason)
        self._tell("unusable", reason)

    async def step(self) -> None:
        """Probe once. Two steps never run at the same time."""
        async with self._lock:
            try:
                await self._probe()
            except FleetFull as error:
                self._tell("full", str(error))

    async def _probe(self) -> None:
        try:
            status = await self._look.status()
        except ControlError as error:
            if not self.retired:
                self._failed(error)
            return
        if self.retired:
            return
        self._fleet.heard(self.address, self._clock())
        self.answered = True
        self._misses, self._good = 0, self._good + 1
        if self.settled and self.down_since is not None and self._good < self._settings.probes_to_up:
            self._tell("returning", f"answers again, {self._settings.probes_to_up} times in a row are wanted")
            return
        names = self._usable_names(status.models)
        if names != self._names or (self.down_since is None and not self._fleet.is_up(self.address)):
            self._new_life(names)
        self._fleet.seen(
            self.address, self._clock(), queue_length=status.queue_length, speed=status.speed, limit=self._look.limit
        )
        if self._look_due is not None and self._clock() < self._look_due:
            self._conclude()
            return
        try:
            await self._learn(status)
        except ControlError as error:
            if self._fleet.is_up(self.address):  # its last facts are good enough until then
                self._look_due = self._clock() + self._settings.look_retry
            self._failed(error)

    async def _learn(self, status: Status) -> None:
        self._problems = {}
        slow = 0
        for model in self._names:
            error = await self._learn_one(model)
            slow += error is not None and error.kind == "timeout"
            if error is not None and (error.kind not in _OF_ONE_MODEL or slow > 1):
                raise error  # not one model is at fault, the worker is
            self._warn(model, self._problems.get(model, ""))
        self._report(status)  # before what may take long, because the worker can be used without it
        complete = await self._look.learn_more(self._names, lambda: self._report(status))
        self._tries = 0 if complete else self._tries + 1
        patience = self._settings.facts_ttl
        if self._problems or not complete:
            patience = min(patience, self._settings.look_retry * 2.0 ** min(self._tries, 10))
        self._look_due = self._clock() + patience
        self._conclude()

    async def _learn_one(self, model: str) -> ControlError | None:
        try:
            problem = await self._look.learn(model)
        except ControlError as error:
            self._problems[model] = str(error)
            return error
        if problem:
            self._problems[model] = problem
        return None

    def _usable(self) -> tuple[ModelFacts, ...]:
        return tuple(facts for facts in map(self._look.facts, self._names) if facts.kinds)

    def _report(self, status: Status) -> None:
        models = self._usable()
        if models and not self.retired:
            report = WorkerReport(self.address, models, status.queue_length, status.speed, self._look.limit)
            self._fleet.report(report, self._clock())
            self.down_since, self.settled = None, True

    def _conclude(self) -> None:
        """Say how a probe that was answered ended."""
        usable = self._usable()
        if usable:
            self._tell("ok", "; ".join(f"{facts.model} ({', '.join(sorted(facts.kinds))})" for facts in usable))
            return
        reason = "; ".join(f"{name}: {text}" for name, text in self._problems.items()) or self._look.nothing
        self._down(f"none of its models can be used: {reason}")
        self._tell("unusable", reason)

    def _failed(self, error: ControlError) -> None:
        """No usable answer. Busy is not down: a worker's event loop stands still while it embeds or generates."""
        self._good = 0
        if error.kind == "timeout":
            self._fleet.missed(self.address)
            if self._is_busy():
                self._tell("busy", str(error))
                return
        self._misses += 1
        tired = self._misses >= self._settings.probes_to_down
        if error.kind == "refused" or tired or not self._fleet.is_up(self.address):
            self._down(str(error))
            self._new_life(())
        result = error.kind if error.kind in ("timeout", "connect_timeout", "refused") else "error"
        self._tell(result, str(error))

    def _is_busy(self) -> bool:
        """Whether requests of ours may be what keeps it from answering: they cannot when it has long sent nothing."""
        heard = self._fleet.last_heard(self.address)
        if heard is None or not self._fleet.is_up(self.address) or not self._fleet.in_flight(self.address):
            return False
        return self._clock() - heard <= self._settings.busy_seconds

    def _down(self, reason: str) -> None:
        self.failed, self.reason = True, reason
        self.down_since = self._clock() if self.down_since is None else self.down_since
        if not self.is_newcomer and not self.retired:
            self._fleet.fail(self.address, reason, self._clock())

    def _new_life(self, names: tuple[str, ...]) -> None:
        self._names, self._look_due, self._problems = names, None, {}
        self._look.forget()
        if names:
            self._warned = {subject: text for subject, text in self._warned.items() if subject in ("", *names)}

    def _usable_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        usable = [name for name in names if len(name) <= self._settings.max_name and not has_controls(name)]
        most = self._settings.max_models_per_worker
        left_out = len(names) - min(len(usable), most)
        why = "too many, too long a name, or control characters in it"
        self._warn("", f"{left_out} of its {len(names)} models stay out: {why}" if left_out else "")
        return tuple(usable[:most])

    def _warn(self, subject: str, text: str) -> None:
        """Warn about a model, or the worker (""), when there is something new to say; "" ends a warning."""
        if text and self._warned.get(subject) != text:
            log.warning("worker %s%s: %s", self.address, f", model {subject!r}" if subject else "", text)
        if text:
            self._warned[subject] = text
        else:
            self._warned.pop(subject, None)

    def _tell(self, result: str, text: str) -> None:
        """Count every probe, log those that differ from the one before."""
        # Newcomers share one label, so that many of them take none away from the others.
        self._on_event("probe", worker="newcomer" if self.is_newcomer else self.address, result=result)
        if result != self._told:
            # Whoever lets newcomers in tells what becomes of them, because they can be many.
            trouble = logging.DEBUG if self.is_newcomer else logging.WARNING
            log.log(logging.INFO if result == "ok" else trouble, "worker %s: %s: %s", self.address, result, text)
            self._told = result
