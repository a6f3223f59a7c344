"""How one worker is looked at: what every backend says of its workers, so that all are watched in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import aiohttp

from proxy.fleet.facts import ModelFacts
from proxy.types import JsonObject


class Status(NamedTuple):
    """A worker's answer to the cheap question. models: its own names, in its own order, each once; speed: its own
    relative figure.
    """

    models: tuple[str, ...]
    queue_length: int
    speed: float = 1.0


class ModelKnowledge(Protocol):
    """What the gateway's own settings add to what a worker says of its models."""

    def prepare(self, model: str, raw: JsonObject) -> JsonObject:
        """The model's conversation template ready for rendering; raises when it cannot be rendered exactly."""

    def facts(self, model: str) -> JsonObject:
        """What rules see of the model beside what its worker says; `context_length` overrides the worker's."""


class Look(Protocol):
    """One worker as its backend looks at it; remembers what it has learnt until `forget`.

    address: its base address; interval: seconds between two questions, None for the usual; limit: most requests at
    once, None where nothing is known of it; nothing: what is said of a worker without models.
    """

    @property
    def address(self) -> str: ...

    @property
    def nothing(self) -> str: ...

    @property
    def interval(self) -> float | None: ...

    @property
    def limit(self) -> int | None: ...

    async def status(self) -> Status:
        """Whether it is there. ControlError where it gives no usable answer."""

    async def learn(self, model: str) -> str:
        """Ask what must be known of one model; what is wrong with it, or "". ControlError without a usable answer."""

    async def learn_more(self, models: Sequence[str], news: Callable[[], None]) -> bool:
        """Ask what may take long, once the worker is in use; `news` after each change. False: ask again later."""

    def facts(self, model: str) -> ModelFacts:
        """What is known of one model; without any kind where it cannot be used."""

    def forget(self) -> None:
        """The worker has a new life: nothing that was learnt holds."""


class Looks(Protocol):
    """What makes the looks of one backend. backend: its name, as rules have it in `worker.backend`."""

    backend: str

    def open(self, session: aiohttp.ClientSession, address: str) -> Look:
        """A look at the worker of this base address, of which nothing is known yet."""
