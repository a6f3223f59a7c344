"""Looking at a worker as the probe of its backend's rules says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import aiohttp

from proxy.backends.control import CallLimits, ControlError, call, decoded
from proxy.backends.workers.look import ModelKnowledge, Status
from proxy.backends.workers.settings import SourceSettings
from proxy.fleet.facts import ModelFacts
from proxy.translate.changes import header_values
from proxy.translate.mapping import RULE_FAILURES, Read
from proxy.translate.probe import Asked, ModelProbe, ProbeCall, ProbePlan, ProbeProblem, Said
from proxy.types import Json, JsonObject

_UNLISTED: Final = "it is named in the settings, and the worker does not list it"
_NO_LENGTH: Final = (
    "nobody says how long its context is: give backends[].models.NAME.context_length or models.NAME.context_length"
)


class WantedModel(NamedTuple):
    """One model of a worker, as whoever names the worker says it. name: in the fleet; said: beats the worker's word."""

    name: str
    said: Said


class Entry(NamedTuple):
    """What is said of one worker beside what it says itself.

    models: by its own names of them, None where all that it lists are wanted; seen: whoever names them knows that it
    serves them; interval: seconds between two probes, None for the usual; nothing: what is said of it where it has no
    models.
    """

    models: Mapping[str, WantedModel] | None = None
    seen: bool = False
    key: str | None = None
    interval: float | None = None
    nothing: str = "it lists no models"


class BackendRules(Protocol):
    """The rules of one backend, as far as its workers are looked at.

    probe: None where rules do not say how; headers: of each request, by name; each sees `worker`, null leaves it out.
    """

    @property
    def probe(self) -> ProbePlan | None: ...

    @property
    def headers(self) -> Mapping[str, Read]: ...


class PlannedLooks:
    """Looks at the workers of one backend by its rules. entry: what is said of the worker of a base address."""

    def __init__(
        self,
        backend: str,
        plan: ProbePlan,
        headers: Mapping[str, Read],
        entry: Callable[[str], Entry],
        models: ModelKnowledge,
        settings: SourceSettings,
    ) -> None:
        self.backend, self.plan, self.headers = backend, plan, headers
        self.entry, self.models, self.settings = entry, models, settings

    def open(self, session: aiohttp.ClientSession, address: str) -> PlannedLook:
        """A look at the worker of this base address."""
        return PlannedLook(session, address, self)


class PlannedLook:
    """One worker. What it lists and tells is kept until `forget`; what it does not list is used where it tells of it,
    or where its backend cannot be asked about one model.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str, shared: PlannedLooks) -> None:
        self.address = address
        self._session, self._shared, self._plan = session, shared, shared.plan
        self._listed: dict[str, Said] = {}
        self._told: dict[str, Said] = {}

    @property
    def nothing(self) -> str:
        """What is said of it where it has no models."""
        return self._entry.nothing

    @property
    def interval(self) -> float | None:
        """Seconds between two probes, None for the usual."""
        return self._entry.interval

    @property
    def limit(self) -> int | None:
        """As the backend's rules say; the settings' own limit is the fleet's."""
        return self._plan.limit

    async def status(self) -> Status:
        """Whether it is there, and which models it serves, of those that are wanted."""
        plan, wanted = self._plan.status, self._entry.models
        known = {model: each.said.kinds for model, each in (wanted or {}).items()}
        if not known and plan.models is None:
            return Status((), 0)
        limits = self._shared.settings.list_limits()
        reads_nothing = plan.models is None and plan.queue_length is None
        answer = await self._asked(plan.call, lambda: plan.asked(known), limits, is_json=not reads_nothing)
        try:
            status = plan.read(answer, known)
        except ProbeProblem as problem:
            raise self._malformed(plan.call, problem) from None
        self._listed = status.models or {}
        return Status(tuple(known if wanted is not None else self._listed), status.queue_length)

    async def learn(self, model: str) -> str:
        """Ask what it tells of this model, and say what is missing."""
        plan = self._plan.model
        try:
            if plan is not None and plan.is_for(model, self._said(model).kinds):
                await self._ask_about(model, plan)
            said = self._said(model)
        except ProbeProblem as problem:
            return str(problem)
        if "llm" in (said.kinds or ()) and self._context_length(model, said) is None:
            return _NO_LENGTH
        return _UNLISTED if self._plan.status.models is not None and model not in self._listed else ""

    async def _ask_about(self, model: str, plan: ModelProbe) -> None:
        answer = await self._asked(plan.call, lambda: plan.asked(model), self._shared.settings.look_limits())
        try:
            self._told[model] = plan.read(model, answer)
        except ProbeProblem as problem:
            raise self._malformed(plan.call, problem) from None

    async def learn_more(self, models: Sequence[str], news: Callable[[], None]) -> bool:
        """Nothing takes long."""
        return True

    def facts(self, model: str) -> ModelFacts:
        """What the settings say, else what the worker tells of it, else what its list says, else what is usual."""
        try:
            said = self._said(model) if self._is_served(model) else Said(frozenset())
        except ProbeProblem:
            said = Said(frozenset())
        length = self._context_length(model, said)
        kinds = (said.kinds or frozenset()) - (frozenset() if length else {"llm"})
        document: JsonObject = {
            **self._document(),
            "model": model,
            "context_length": length or 0,
            "conversation": None,
            "kinds": [*sorted(kinds)],
            "embedding_size": said.embedding_size,
            "reasoning": None,
            **self._shared.models.facts(self._name(model)),
        }
        if self._name(model) != model:
            document["public_name"] = self._name(model)
        return ModelFacts(self._name(model), kinds, length or 0, None, document)

    def forget(self) -> None:
        """Everything is asked again. Its list is of the answer that told of the new life."""
        self._told = {}

    @property
    def _entry(self) -> Entry:
        return self._shared.entry(self.address)

    def _wanted(self, model: str) -> WantedModel:
        return (self._entry.models or {}).get(model) or WantedModel(model, Said())

    def _name(self, model: str) -> str:
        return self._wanted(model).name

    def _is_served(self, model: str) -> bool:
        """Whether anybody but the settings knows of it, or nobody could be asked."""
        if self._entry.seen or model in self._listed or model in self._told:
            return True
        return self._plan.model is None or not self._plan.model.is_for(model, self._said(model).kinds)

    def _said(self, model: str) -> Said:
        told, listed = self._told.get(model, Said()), self._listed.get(model, Said())
        return self._wanted(model).said.over(told).over(listed).over(self._plan.usual(model))

    def _context_length(self, model: str, said: Said) -> int | None:
        known = self._shared.models.facts(self._name(model)).get("context_length")
        return known if isinstance(known, int) else said.context_length

    def _document(self) -> JsonObject:
        return {"address": self.address, "backend": self._shared.backend, "key": self._entry.key}

    async def _asked(
        self, question: ProbeCall, asked: Callable[[], Asked], limits: CallLimits, *, is_json: bool = True
    ) -> Json:
        url = self.address + question.path
        try:
            (query, body), headers = asked(), self._headers()
        except ProbeProblem as problem:
            raise self._malformed(question, problem) from None
        content = await call(
            self._session, question.method, url, limits, body=body, params=query or None, headers=headers
        )
        return decoded(content, f"{question.method} {url}") if is_json else None

    def _headers(self) -> dict[str, str]:
        try:
            return header_values(self._shared.headers, {"worker": self._document(), "gateway": {}})
        except RULE_FAILURES as error:
            raise ProbeProblem(f"a header: {error}") from None

    def _malformed(self, question: ProbeCall, problem: ProbeProblem) -> ControlError:
        return ControlError("malformed", f"{question.method} {self.address}{question.path}: {problem}")
