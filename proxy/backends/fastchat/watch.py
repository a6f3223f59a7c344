"""Watching one FastChat worker: is it there, which models does it serve, and what must be known of them.

What counts as a new life of a worker, after which everything is asked again: it was down, or its list of models
changed. A worker that restarts between two probes and serves the same model names is not noticed at once, because its
status tells nothing else; a changed template or context length is then seen when the facts are fetched again
(`facts_ttl`), a change in its embeddings only in its next life.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from proxy.backends.control import ControlError, EventHook, has_controls
from proxy.backends.fastchat.source_settings import REGISTERED, ModelKnowledge, SourceSettings
from proxy.backends.fastchat.worker_api import Status, WorkerApi
from proxy.fleet.facts import FleetFull, Kind, ModelFacts, WorkerReport
from proxy.fleet.table import Fleet
from proxy.types import JsonObject

log = logging.getLogger(__name__)

# Failures that say something about one model, not about the worker.
_OF_ONE_MODEL = ("status", "malformed", "too_large", "timeout", "reset")


class WorkerWatch:
    """One worker. `step` is one probe; it never raises for anything that the worker does.

    sources: who knows of it, see `source_settings`. down_since: on `clock`, None while it is up. settled: it was up at
    least once; answered: it answered a probe, usably or not; failed: it could not be used at least once, at the last
    time for this reason. A worker of which only its own registration tells has no place in the fleet until it is
    settled, so that many of them take none away.
    """

    def __init__(
        self,
        api: WorkerApi,
        fleet: Fleet,
        settings: SourceSettings,
        models: ModelKnowledge,
        clock: Callable[[], float],
        on_event: EventHook,
        *,
        source: str,
    ) -> None:
        self.address = api.address
        self.sources = {source}
        self.settled = self.failed = self.answered = self.retired = False
        self.reason = ""
        self.wake = asyncio.Event()
        self.down_since: float | None = clock()
        self._api, self._fleet, self._settings = api, fleet, settings
        self._models, self._clock, self._on_event = models, clock, on_event
        self._lock = asyncio.Lock()
        self._misses = self._good = self._embedding_tries = 0
        self._told = ""
        self._warned: dict[str, str] = {}  # subject (a model, or "" for the worker) to the last warning about it
        self._names: tuple[str, ...] = ()
        self._llm: dict[str, tuple[JsonObject, int]] = {}
        self._embedding: dict[str, int | None] = {}
        self._limit: int | None = None
        self._problems: dict[str, str] = {}
        self._look_due: float | None = None  # None: at the next answer

    @property
    def is_newcomer(self) -> bool:
        """Whether nothing but a registration speaks for it."""
        return not self.settled and self.sources == {REGISTERED}

    def reconfigure(self, settings: SourceSettings, models: ModelKnowledge) -> None:
        """Other settings and knowledge of models: everything is asked again at the next answer."""
        self._settings, self._models = settings, models
        self._look_due = None
        self.wake.set()

    def retire(self) -> None:
        """It is no longer wanted: what it still answers changes nothing."""
        self.retired = True
        self.wake.set()

    async def step(self) -> None:
        """Probe once. Two steps never run at the same time."""
        async with self._lock:
            try:
                await self._probe()
            except FleetFull as error:
                self._tell("full", str(error))

    async def _probe(self) -> None:
        try:
            status = await self._api.status(self._settings.status_limits())
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
            self.address, self._clock(), queue_length=status.queue_length, speed=status.speed, limit=self._limit
        )
        if self._look_due is not None and self._clock() < self._look_due:
            self._conclude()
            return
        try:
            await self._look(status)
        except ControlError as error:
            if self._fleet.is_up(self.address):  # its last facts are good enough until then
                self._look_due = self._clock() + self._settings.look_retry
            self._failed(error)

    async def _look(self, status: Status) -> None:
        self._problems = {}
        slow = 0
        for model in self._names:
            error = await self._look_at(model)
            slow += error is not None and error.kind == "timeout"
            if error is not None and (error.kind not in _OF_ONE_MODEL or slow > 1):
                raise error  # not one model is at fault, the worker is
            self._warn(model, self._problems.get(model, ""))
        self._report(status)  # before the embeddings probe, which may have to wait for a busy worker
        complete = await self._probe_embeddings(status)
        self._embedding_tries = 0 if complete else self._embedding_tries + 1
        patience = self._settings.facts_ttl
        if self._problems or not complete:
            patience = min(patience, self._settings.look_retry * 2.0 ** min(self._embedding_tries, 10))
        self._look_due = self._clock() + patience
        self._conclude()

    async def _look_at(self, model: str) -> ControlError | None:
        """Fetch what an llm needs. What was known of the model in this life stays when there is no usable answer."""
        try:
            raw = await self._api.conversation(model)
            context_length = await self._api.context_length(model)
        except ControlError as error:
            self._problems[model] = str(error)
            return error
        try:
            conversation = self._models.prepare(model, raw)
        except Exception as error:  # the template is foreign data; whatever is wrong with it is told
            self._llm.pop(model, None)
            self._problems[model] = f"its conversation template cannot be used: {str(error) or type(error).__name__}"
        else:
            self._llm[model] = conversation, context_length
        return None

    async def _probe_embeddings(self, status: Status) -> bool:
        """Ask for one vector per model, once in a worker's life; False when some answer is still missing."""
        if not self._settings.probe_embeddings:
            return True
        for model in self._names:
            if model in self._embedding:
                continue
            try:
                size, offered = await self._api.embeddings(model)
            except ControlError as error:
                log.info("worker %s: embeddings of model %r not known yet: %s", self.address, model, error)
                return False
            limit = self._settings.usual_limit if offered else self._settings.limit_without_embeddings
            news = size is not None or limit != self._limit
            self._embedding[model], self._limit = size, limit
            if news:
                self._report(status)
        return True

    def _report(self, status: Status) -> None:
        models = tuple(facts for facts in map(self._facts, self._names) if facts.kinds)
        if models and not self.retired:
            report = WorkerReport(self.address, models, status.queue_length, status.speed, self._limit)
            self._fleet.report(report, self._clock())
            self.down_since, self.settled = None, True

    def _facts(self, model: str) -> ModelFacts:
        conversation, context_length = self._llm.get(model, (None, 0))
        size = self._embedding.get(model)
        kinds: set[Kind] = set()
        if conversation is not None:
            kinds.add("llm")
        if size is not None:
            kinds.add("text2vec")
        document: JsonObject = {
            "model": model,
            "address": self.address,
            "backend": "fastchat",
            "context_length": context_length,
            "conversation": conversation,
            "kinds": [*sorted(kinds)],
            "embedding_size": size,
            **self._models.facts(model),
        }
        known = document["context_length"]
        context_length = known if isinstance(known, int) else context_length
        return ModelFacts(model, frozenset(kinds), context_length, conversation, document)

    def _conclude(self) -> None:
        """Say how a probe that was answered ended."""
        usable = [facts for facts in map(self._facts, self._names) if facts.kinds]
        if usable:
            self._tell("ok", "; ".join(f"{facts.model} ({', '.join(sorted(facts.kinds))})" for facts in usable))
            return
        reason = "; ".join(f"{name}: {text}" for name, text in self._problems.items()) or "it lists no models"
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
        self._names, self._look_due = names, None
        self._llm, self._embedding, self._problems, self._limit = {}, {}, {}, None
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
