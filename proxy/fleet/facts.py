"""What is known about a worker's models, and the errors of asking for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from proxy.types import JsonObject

Kind = Literal["llm", "text2vec"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

# success: the worker did its part; neutral: says nothing about the worker (the caller left, the request was wrong);
# failure: the worker is to blame.
Outcome = Literal["success", "neutral", "failure"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)


@dataclass(frozen=True)
class ModelFacts:
    """One model on one worker.

    context_length: tokens, 0 when unknown (only possible without the kind "llm"); conversation: the prepared template,
    if the model has one; document: what rules see as `worker`, with at least model, address, context_length,
    conversation, kinds (sorted list) and embedding_size (numbers in one vector, or null).
    """

    model: str
    kinds: frozenset[Kind]
    context_length: int
    conversation: JsonObject | None
    document: JsonObject


@dataclass(frozen=True)
class WorkerReport:
    """A successful full look at one worker. queue_length: requests it holds; speed: its own relative figure."""

    address: str
    models: tuple[ModelFacts, ...]
    queue_length: int = 0
    speed: float = 1.0


class WorkerView(NamedTuple):
    """A worker's state for people and metrics. since and last_seen are on the clock that the fleet's callers use."""

    address: str
    up: bool
    reason: str  # why it is down; "" while it is up
    since: float  # when it went up or down
    last_seen: float | None  # its last answer
    queue_length: int  # what the worker itself said, at last_seen
    speed: float
    in_flight: int  # leases held here, now
    models: tuple[ModelFacts, ...]
    outcomes: dict[Outcome, int]


class ModelRow(NamedTuple):
    """One (model, kind) that was ever seen. workers: how many can answer it now; answerable: at least one can."""

    model: str
    kind: Kind
    answerable: bool
    workers: int


class FleetError(LookupError):
    """No worker for a request: `model` and `kind` say which was asked for."""

    def __init__(self, message: str, model: str, kind: Kind) -> None:
        super().__init__(message)
        self.model = model
        self.kind: Kind = kind


class UnknownModel(FleetError):
    """No worker ever served this model with this kind."""


class NoWorker(FleetError):
    """Workers served it before; none is up now."""


class FleetFull(ValueError):
    """A bound of the fleet would be passed: too many workers, or too many models on one."""
