"""What is known about a worker and its models, and the errors of asking for one."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from proxy.types import JsonObject

Kind = Literal["llm", "text2vec"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

# success: the worker did its part; neutral: says nothing about the worker (the caller left, the request was wrong);
# failure: the worker is to blame.
Outcome = Literal["success", "neutral", "failure"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)

# open: gets nothing; half_open: one request tries whether it works again.
BreakerState = Literal["closed", "open", "half_open"]

_PLAIN: Final = frozenset(string.ascii_letters + string.digits + ".:_-")


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
    """A successful full look at one worker.

    queue_length: requests it holds; speed: its own relative figure; limit: most requests it works on at once, None
    where nothing is known of it.
    """

    address: str
    models: tuple[ModelFacts, ...]
    queue_length: int = 0
    speed: float = 1.0
    limit: int | None = None


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
    id: str  # `worker_id(address)`
    limit: int  # most leases at once; the largest where its models have different ones
    breaker: BreakerState
    degraded: str  # a sentence on slots that are held by nobody known; "" while there are none
    drained: bool
    foreign: int  # requests of others, as far as known
    rests_until: float = 0.0  # chosen only where no other has room; infinite: until it answers its status call again


class ModelRow(NamedTuple):
    """One (model, kind) that was ever seen, or that falls back to one that was.

    workers: how many can answer it now, the fallback's where it has none of its own; answerable: at least one can.
    """

    model: str
    kind: Kind
    answerable: bool
    workers: int


class QueueRow(NamedTuple):
    """How many requests wait for a worker of this model now."""

    model: str
    kind: Kind
    waiting: int


class FleetError(LookupError):
    """No worker for a request: `model` and `kind` say which was asked for."""

    def __init__(self, message: str, model: str, kind: Kind) -> None:
        super().__init__(message)
        self.model = model
        self.kind: Kind = kind


class UnknownModel(FleetError):
    """No worker ever served this model with this kind."""


class NoWorker(FleetError):
    """Workers served it before; none may be used now."""


class UnknownWorker(FleetError):
    """The worker that the request names is not there, may not be used or does not serve the model."""


class AtLimit(FleetError):
    """Each worker that may be used has as many requests as it may have: wait for one."""


class QueueFull(FleetError):
    """As many requests wait already as may."""


class FleetFull(ValueError):
    """A bound of the fleet would be passed: too many workers, or too many models on one."""


def worker_id(address: str) -> str:
    """A name of a worker that can stand as one segment in the path of a URL; different for different addresses.

    "http://10.0.0.5:21002" gives "10.0.0.5:21002"; another scheme stays, "/" becomes "~", and a byte that is none of
    letters, digits, ".", ":", "_", "-" becomes "=" and its two hexadecimal digits.
    """
    if address.startswith("http://"):
        address = address[len("http://") :]
    return "".join(map(_segment, address))


def _segment(character: str) -> str:
    if character in _PLAIN:
        return character
    return "~" if character == "/" else "".join(f"={byte:02x}" for byte in character.encode())
