"""What the processes of one gateway say to each other: values to JSON and back. Pure.

A message is an array whose first element says what it is; `Peer` and `ServingProcess` have the list of what they
understand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, cast

from proxy.fleet.facts import (
    AtLimit,
    FleetError,
    Kind,
    ModelFacts,
    NoWorker,
    QueueFull,
    UnknownModel,
    UnknownWorker,
    WorkerView,
)
from proxy.types import Json, JsonObject

_ERRORS: Final[Mapping[str, type[FleetError]]] = {
    kind.__name__: kind for kind in (AtLimit, NoWorker, QueueFull, UnknownModel, UnknownWorker)
}


_Facts = tuple[str, list[Kind], int, "JsonObject | None", JsonObject]


def facts_to_json(facts: ModelFacts) -> list[Json]:
    """One model on one worker."""
    kinds: list[Json] = [*sorted(facts.kinds)]
    return [facts.model, kinds, facts.context_length, facts.conversation, facts.document]


def facts_of(value: Json) -> ModelFacts:
    """What `facts_to_json` made."""
    model, kinds, context_length, conversation, document = cast("_Facts", value)
    return ModelFacts(model, frozenset(kinds), context_length, conversation, document)


def worker_to_json(view: WorkerView) -> JsonObject:
    """What a serving process has to know of a worker."""
    return {
        "address": view.address,
        "up": view.up,
        "reason": view.reason,
        "drained": view.drained,
        "models": [facts_to_json(facts) for facts in view.models],
    }


def error_to_json(error: FleetError) -> list[Json]:
    """Why there is no worker."""
    return [type(error).__name__, str(error), error.model, error.kind]


def error_of(value: Iterable[Json]) -> FleetError:
    """What `error_to_json` made."""
    name, message, model, kind = cast("tuple[str, str, str, Kind]", tuple(value))
    return _ERRORS.get(name, NoWorker)(message, model, kind)
