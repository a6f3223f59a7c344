"""The gateway as one more worker of FastChat controllers (0.2.24 to 0.2.36 and later), for the models of its fleet.

A controller has no call to leave it: a worker that goes registers with no models, and is forgotten 90 s after its last
heartbeat. A worker that registers again replaces its list of models. One that the controller does not know any more is
told so with its heartbeat. /refresh_all_workers makes a controller forget all and ask each worker for its status.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp

from proxy.backends.control import CallLimits, ControlError, EventHook, brief, call_json, new_session, no_events
from proxy.backends.links import ControllerStatus, KeptLink, Links
from proxy.types import Json, JsonObject

log = logging.getLogger(__name__)


class Offer(NamedTuple):
    """What the gateway serves there. models: names for clients, sorted; queue_length: requests it works on now."""

    models: tuple[str, ...]
    queue_length: int


@dataclass(frozen=True)
class OfferSettings:
    """Times in seconds. heartbeat_interval: a controller forgets a worker after 90; FastChat's own send one every 45.
    retry_interval: for a controller that is not there, FastChat's own is 5 as well.
    """

    heartbeat_interval: float = 15.0
    retry_interval: float = 5.0
    connect_timeout: float = 2.0
    call_timeout: float = 5.0
    withdraw_timeout: float = 5.0
    max_body: int = 10_000

    def limits(self) -> CallLimits:
        """Of one call."""
        return CallLimits(self.connect_timeout, self.call_timeout, self.max_body)


class OfferLink(KeptLink):
    """One controller. worker_name: the base address under which its clients reach the gateway; offer: what is served.

    `_registered` is what the controller has of us as far as we know, None where it may know nothing.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        worker_name: str,
        offer: Callable[[], Offer],
        settings: OfferSettings,
        clock: Callable[[], float],
        rng: random.Random,
        on_event: EventHook,
    ) -> None:
        super().__init__(url, log)
        self._session, self._worker_name, self._offer, self._settings = session, worker_name, offer, settings
        self._clock, self._rng, self._on_event = clock, rng, on_event
        self._registered: tuple[str, ...] | None = None
        self._maybe: tuple[str, ...] = ()  # what clients may still be sent here for
        self._reachable: bool | None = None
        self._beat_at = -float("inf")
        self._error = ""

    def status(self) -> ControllerStatus:
        """How things stand."""
        age = self._clock() - self._beat_at
        return ControllerStatus(
            self.url, self._reachable, self._registered or (), None if age == float("inf") else age, self._error
        )

    async def step(self) -> None:
        """One round: register where the list of models has changed, else a heartbeat where one is due."""
        offer = self._offer()
        try:
            if self._registered is None and not offer.models and not self._maybe:
                await self._call("GET", "/test_connection")
            elif self._registered != offer.models:
                await self._register(offer)
            elif self._clock() - self._beat_at >= self._settings.heartbeat_interval:
                await self._heartbeat(offer)
        except ControlError as error:
            self._reachable, self._error = False, str(error)
            self._registered = None  # it may come back and know nothing
            self._tell("unreachable", str(error))
            return
        self._reachable, self._error = True, ""
        self._tell("ok", ", ".join(self._registered or ()) or "no model to offer")

    async def withdraw_all(self) -> None:
        """Register with no models, which is all that can be done."""
        if not self._maybe:
            return
        try:
            await self._register(Offer((), 0))
        except ControlError as error:
            log.warning("controller %s: %s", self.url, error)

    def left(self) -> list[str]:
        """What the controller might still send clients here for."""
        return [*self._maybe]

    async def _register(self, offer: Offer) -> None:
        self._maybe = tuple(sorted({*self._maybe, *offer.models}))
        status: JsonObject = {"model_names": [*offer.models], "speed": 1, "queue_length": offer.queue_length}
        body: JsonObject = {
            "worker_name": self._worker_name,
            "check_heart_beat": True,
            "worker_status": status,
            "multimodal": False,
        }
        await self._tried("/register_worker", body, "registration", "ok" if offer.models else "withdrawn")
        log.info("controller %s: registered with %s", self.url, ", ".join(offer.models) or "no model")
        self._registered = self._maybe = offer.models
        self._beat_at = self._clock()

    async def _heartbeat(self, offer: Offer) -> None:
        body: JsonObject = {"worker_name": self._worker_name, "queue_length": offer.queue_length}
        answer = await self._tried("/receive_heart_beat", body, "heartbeat", "ok")
        exists = answer.get("exist") if isinstance(answer, dict) else None
        if not isinstance(exists, bool):
            raise ControlError(
                "malformed", f"{self.url}/receive_heart_beat: exist is {brief(exists)}, expected a boolean"
            )
        self._beat_at = self._clock()
        if not exists:
            await self._register(offer)

    async def _tried(self, path: str, body: JsonObject, event: str, success: str) -> Json:
        try:
            answer = await self._call("POST", path, body)
        except ControlError:
            self._on_event(event, controller=self.url, result="failed")
            raise
        self._on_event(event, controller=self.url, result=success)
        return answer

    async def _call(self, method: str, path: str, body: JsonObject | None = None) -> Json:
        return await call_json(self._session, method, self.url + path, self._settings.limits(), body=body)

    def _pause(self) -> float:
        settings = self._settings
        if not self._reachable:
            return settings.retry_interval * self._rng.uniform(0.7, 1.0)
        if self._registered is None:
            return settings.heartbeat_interval
        return max(0.0, self._beat_at + settings.heartbeat_interval - self._clock())


def offering(
    controllers: Iterable[str],
    offer: Callable[[], Offer],
    *,
    worker_name: str,
    rng: random.Random,
    settings: OfferSettings | None = None,
    session_factory: Callable[[], aiohttp.ClientSession] = new_session,
    clock: Callable[[], float] = time.monotonic,
    on_event: EventHook = no_events,
) -> Links:
    """The gateway's membership with FastChat controllers.

    controllers: base addresses; ValueError with one sentence for one that cannot be used. worker_name: under which base
    address their clients reach the gateway. offer: called whenever needed, must be quick. on_event: "registration" and
    "heartbeat" (controller, result).
    """
    used = settings or OfferSettings()

    def link(session: aiohttp.ClientSession, url: str) -> OfferLink:
        return OfferLink(session, url, worker_name, offer, used, clock, rng, on_event)

    return Links(controllers, link, withdraw_timeout=used.withdraw_timeout, session_factory=session_factory)
