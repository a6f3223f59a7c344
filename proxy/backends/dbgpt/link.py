"""Membership in one DB-GPT controller's registry: a loop that keeps the registry as wanted, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from proxy.backends.control import ControlError, EventHook
from proxy.backends.dbgpt.controller_api import ControllerApi, Instance
from proxy.backends.links import ControllerStatus, KeptLink

log = logging.getLogger(__name__)

# Calls at once to one controller; it answers each in a few milliseconds.
_PARALLEL: Final = 8
# The controller is there but did not agree; everything else means that it is not there.
_REFUSALS: Final = ("status", "malformed", "too_large")


@dataclass(frozen=True)
class RegistrarSettings:
    """Times in seconds.

    heartbeat_interval: at most 20 (a stand-alone controller gives up after 60). check_interval: how often a reachable
    controller is asked whether it is there; a restart that takes longer is noticed. verify_interval: how often the
    registry is compared with what should be in it. backoff_*: pauses while it is not reachable, growing slowly, so
    that a controller that was only restarted has everything back within about 3 s.
    """

    heartbeat_interval: float = 15.0
    check_interval: float = 2.5
    verify_interval: float = 60.0
    call_timeout: float = 5.0
    connect_timeout: float = 2.0
    withdraw_timeout: float = 5.0
    backoff_first: float = 0.5
    backoff_factor: float = 1.3
    backoff_max: float = 10.0
    max_body: int = 4_000_000  # a row is 200 bytes; a large cluster has some thousand

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_interval <= 20:
            raise ValueError(
                f"heartbeat_interval is {self.heartbeat_interval:g} s, expected more than 0 and at most 20"
            )


class ControllerLink(KeptLink):
    """One controller. wanted: what should be registered now; is_own: whether a row is at an address of ours; settings:
    those in force.

    `_confirmed` is what this controller has agreed to since we last lost it, `_maybe` all that it might hold of ours.
    """

    def __init__(
        self,
        api: ControllerApi,
        wanted: Callable[[], frozenset[Instance]],
        is_own: Callable[[Instance], bool],
        settings: Callable[[], RegistrarSettings],
        clock: Callable[[], float],
        rng: random.Random,
        on_event: EventHook,
    ) -> None:
        super().__init__(api.url, log)
        self._api, self._wanted, self._is_own, self._settings = api, wanted, is_own, settings
        self._clock, self._rng, self._on_event = clock, rng, on_event
        self._confirmed: set[Instance] = set()
        self._maybe: set[Instance] = set()
        self._tidied: set[Instance] = set()
        self._reachable: bool | None = None
        self._failures = 0
        self._beat_at = self._verified_at = -float("inf")
        self._error = ""

    def status(self) -> ControllerStatus:
        """How things stand."""
        age = self._clock() - self._beat_at
        return ControllerStatus(
            self.url,
            self._reachable,
            tuple(sorted(self._confirmed)),
            None if age == float("inf") else age,
            self._error,
        )

    async def step(self) -> None:
        """One round: is it there, has it what it should have, is a heartbeat due."""
        self._error = ""
        try:
            await self._present()
            if not self._reachable:
                self._reachable, self._failures = True, 0
                self._verified_at = -float("inf")
            before = frozenset(self._confirmed)
            await self._synchronise(self._wanted())
            for what, changed in (("entered", self._confirmed - before), ("removed", before - self._confirmed)):
                if changed:
                    log.info("controller %s: %s %s", self.url, what, ", ".join(map(str, sorted(changed))))
        except ControlError as error:
            self._lost(error)
            return
        self._tell("refused" if self._error else "ok", self._error or f"{len(self._confirmed)} instances registered")

    async def withdraw_all(self) -> None:
        """Take back all that the controller might hold of ours."""
        with contextlib.suppress(ControlError):
            await self._each(self._maybe, self._withdraw)

    def left(self) -> list[Instance]:
        """What the controller might still hold of ours."""
        return sorted(self._maybe)

    async def _synchronise(self, wanted: frozenset[Instance]) -> None:
        now = self._clock()
        stale: set[Instance] = set()
        if now - self._verified_at >= self._settings().verify_interval:
            stale = await self._verify(wanted)
            self._verified_at = now
        await self._each((self._maybe - wanted) | stale, self._withdraw)
        new = wanted - self._confirmed
        await self._each(new, self._register)
        if now - self._beat_at >= self._settings().heartbeat_interval:
            await self._each(self._confirmed - new, self._heartbeat)
            self._beat_at = now

    async def _verify(self, wanted: frozenset[Instance]) -> set[Instance]:
        """Doubt what the registry does not show as healthy; the answer is what it holds of ours that it should not.

        Such rows are left over from a gateway that was killed. One that stays in spite of a withdrawal is let be.
        """
        try:
            rows = await self._api.rows()
        except ControlError as error:
            if error.kind not in _REFUSALS:
                raise
            self._error = str(error)
            return set()
        self._confirmed &= {row.instance for row in rows if row.healthy}
        # Asked after the rows were: whoever put one there and lives listens at its port already, so it is not ours.
        stale = {
            row.instance
            for row in rows
            if row.instance not in wanted and (row.healthy or row.instance not in self._tidied)
            if self._is_own(row.instance)
        }
        self._tidied = stale
        if stale:
            log.warning("controller %s: removing left-over rows %s", self.url, ", ".join(map(str, sorted(stale))))
        return stale

    async def _present(self) -> None:
        """A controller that is not there takes no heartbeat, which is one that failed."""
        try:
            await self._api.health()
        except ControlError:
            self._on_event("heartbeat", controller=self.url, result="failed")
            raise

    async def _register(self, instance: Instance) -> None:
        self._maybe.add(instance)
        if await self._tried(self._api.register(instance), "registration", "ok", instance):
            self._confirmed.add(instance)

    async def _heartbeat(self, instance: Instance) -> None:
        if not await self._tried(self._api.heartbeat(instance), "heartbeat", "ok", instance):
            self._confirmed.discard(instance)

    async def _withdraw(self, instance: Instance) -> None:
        if await self._tried(self._api.withdraw(instance), "registration", "withdrawn", instance):
            self._maybe.discard(instance)
            self._confirmed.discard(instance)

    async def _tried(self, call: Awaitable[None], event: str, success: str, instance: Instance) -> bool:
        """Whether the controller agreed. Raises ControlError when it is not there."""
        try:
            await call
        except ControlError as error:
            self._on_event(event, controller=self.url, result="failed")
            if error.kind not in _REFUSALS:
                raise
            self._error = f"{instance}: {error}"
            return False
        self._on_event(event, controller=self.url, result=success)
        return True

    async def _each(self, instances: Iterable[Instance], act: Callable[[Instance], Awaitable[None]]) -> None:
        ordered = sorted(instances)
        for start in range(0, len(ordered), _PARALLEL):
            part = ordered[start : start + _PARALLEL]
            for result in await asyncio.gather(*map(act, part), return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    def _lost(self, error: ControlError) -> None:
        """It is not there. It may come back with an empty registry, so nothing counts as registered any more."""
        self._reachable, self._error = False, str(error)
        self._failures += 1
        self._confirmed.clear()
        self._tell("unreachable", str(error))

    def _pause(self) -> float:
        settings = self._settings()
        if self._reachable:
            return max(0.0, min(settings.check_interval, self._beat_at + settings.heartbeat_interval - self._clock()))
        grown = settings.backoff_first * settings.backoff_factor ** min(self._failures, 50)
        return min(settings.backoff_max, grown) * self._rng.uniform(0.7, 1.0)
