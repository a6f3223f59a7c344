"""What the data path works with; made by the composition root."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from proxy.fleet.facts import Kind
from proxy.fleet.table import Fleet
from proxy.recording.recorder import Recording
from proxy.server.leases import Leases
from proxy.server.traffic import Traffic
from proxy.server.turns import TakesTurns, Turns
from proxy.telemetry.metrics import Metrics
from proxy.translate.routes import RouteTable
from proxy.types import Json, JsonObject
from proxy.upstream import Timeouts, UpstreamPool


class Directory(Protocol):
    """What rules may know of the gateway and its models beside the chosen worker."""

    def gateway(self) -> JsonObject:
        """The document that rules see as `gateway`: host and port as advertised, version, default_model."""

    def listener(self, port: int) -> JsonObject:
        """The document that rules see as `listener`: port, and model where that port stands for one model."""

    def models(self) -> list[Json]:
        """What rules see as `models`: one object for each model and kind, with up."""

    def requests(self) -> int:
        """What rules see as `gateway.requests`: how many requests are under way, waiting ones too."""

    def resolve(self, model: str) -> str:
        """The fleet's own name of a model that clients may know by another."""

    def unfit(self, backends: frozenset[str] | None) -> frozenset[str]:
        """The workers of other backends than these, by address; None: whichever will do."""


def _always(model: str, kind: Kind) -> bool:
    return True


def _none() -> Recording | None:
    return None


async def _nothing(operation: str, model: str, kind: str | None) -> tuple[bool, str]:
    return False, "Not done: this gateway starts and stops no models."


@dataclass(frozen=True)
class Facilities:
    """table, traffic: the routes and the decisions in force now; fleet: for questions; leases: for workers; timeouts:
    by model; trouble: told the address of a worker that failed; in_service: whether a model takes requests; operate:
    does an operation about a model (as its client calls it) and its kind (in the client's word, None for all), says
    whether it was done, and a sentence; clock: seconds, of every time that the fleet is told; wall: seconds since 1970,
    for what clients are told; recording: the one that an operator wants, where one is being made; turns: at workers;
    processes: how many share what one gateway may hold.
    """

    table: Callable[[], RouteTable]
    fleet: Fleet
    leases: Leases
    pool: UpstreamPool
    metrics: Metrics
    directory: Directory
    timeouts: Callable[[str], Timeouts]
    trouble: Callable[[str], None]
    traffic: Callable[[], Traffic]
    rng: random.Random
    in_service: Callable[[str, Kind], bool] = _always
    operate: Callable[[str, str, str | None], Awaitable[tuple[bool, str]]] = _nothing
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    recording: Callable[[], Recording | None] = _none
    turns: TakesTurns = field(default_factory=Turns)
    processes: int = 1
