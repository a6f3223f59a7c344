"""The workers that registered: under which name, what address that is, and when each was last heard of.

What a registration says of a worker's models is not used. A program with several models registers each of them alone
and overwrites the others (FastChat 0.2.36 multi_model_worker and huggingface_api_worker, when the controller has
forgotten them), so the models of a worker are those that its own status lists.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from proxy.backends.control import EventHook, no_events
from proxy.backends.fastchat.controller.guard import Admission, Guard, LookUp, Peer, Rejection
from proxy.backends.fastchat.controller.quiet import Quiet
from proxy.backends.fastchat.controller.state import Kept, read_state, write_state
from proxy.backends.fastchat.source import FleetSource
from proxy.backends.fastchat.source_settings import REGISTERED

log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 1.0
# A worker registers some seconds before it listens; only after this time is it told that it does not answer.
_START_SECONDS: Final = 10.0
# Host names that have to be looked up can make it long; who is not taken in again registers with its next heartbeat.
_RESTORE_SECONDS: Final = 10.0


@dataclass(frozen=True)
class RegistryLimits:
    """expiry: seconds without a heartbeat after which a worker that does not answer is forgotten, as in FastChat.

    workers: registrations in all. newcomers: those among them that were never up, and of these so many from one peer;
    one that has failed a probe makes room for a new one. names: under which one address may be registered.
    """

    expiry: float = 90.0
    workers: int = 384
    newcomers: int = 128
    newcomers_of_peer: int = 64
    names: int = 4


class RegistrationRow(NamedTuple):
    """A registration for people. age: seconds since it was last heard of; up: its worker may be used now."""

    address: str
    names: tuple[str, ...]
    peer: str
    age: float
    up: bool
    multimodal: bool


# A name such as http://localhost:21002 is another worker on each machine: the peer is part of the key.
_Key = tuple[str, str]


@dataclass
class _Registration:
    address: str
    peer: Peer
    since: float
    keys: list[_Key] = field(default_factory=list)  # the last one is the newest
    heard: float = 0.0
    told: bool = False
    heartbeats: bool = True
    multimodal: bool = False


class WorkerRegistry:
    """Registrations by address. `run` keeps them in order; until then nothing expires and nothing is written.

    look_up: addresses of a host name; state_file: where admitted registrations outlive the gateway.
    on_event: "registered_worker" with result new, again, restored, dropped or expired; refusals are counted by whoever
    answers them.
    """

    def __init__(
        self,
        source: FleetSource,
        guard: Guard,
        look_up: LookUp,
        *,
        limits: RegistryLimits | None = None,
        state_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: EventHook = no_events,
    ) -> None:
        self._source, self._guard, self._look_up = source, guard, look_up
        self._limits = limits or RegistryLimits()
        self._state_file = Path(state_file) if state_file is not None else None
        self._clock, self._on_event = clock, on_event
        self._by_address: dict[str, _Registration] = {}
        self._by_key: dict[_Key, str] = {}
        self._quiet = Quiet(clock)
        self._changed = self._restoring = False

    def update(self, guard: Guard) -> None:
        """Other rules for the registrations to come; those that are there stay."""
        self._guard = guard

    async def register(
        self, worker_name: str, peer: Peer, *, heartbeats: bool = True, multimodal: bool = False
    ) -> Admission | Rejection:
        """Take a worker in and probe it soon; it is used when it has answered. Rejection: the guard's, or "full"."""
        judged = await self._guard.admit(worker_name, peer, self._look_up)
        if isinstance(judged, Rejection):
            return judged
        known = self._by_address.get(judged.address)
        fresh = known is None or self._source.watch(judged.address) is None
        if fresh and not self._restoring and not self._has_room(peer):
            return Rejection("full", "too many workers have registered that never answered; try again in a minute")
        if not self._source.introduce(judged.address, REGISTERED):
            return Rejection("full", "the fleet has as many workers as it may have")
        entry = known or _Registration(judged.address, peer, self._clock())
        self._by_address[judged.address] = entry
        self._changed |= known is None or entry.multimodal != multimodal or entry.peer != peer
        entry.peer, entry.heartbeats, entry.multimodal, entry.heard = peer, heartbeats, multimodal, self._clock()
        self._name(entry, (_plain(worker_name), peer.host))
        log.debug("worker %s has registered from %s", judged.address, peer.host)
        if judged.warning and self._quiet.may_say(peer.host, "warning"):
            log.warning("%s", judged.warning)
        self._on_event("registered_worker", result="new" if fresh else "again")
        return judged

    def heartbeat(self, worker_name: str, peer_host: str, queue_length: int) -> bool:
        """Whether this worker is known, under this name and from this peer; one that is not registers again."""
        address = self._by_key.get((_plain(worker_name), peer_host))
        if address is None or self._source.watch(address) is None:
            return False
        self._by_address[address].heard = self._clock()
        self._source.heartbeat(address, queue_length)
        return True

    def is_multimodal(self, address: str) -> bool:
        """Whether the worker said of itself that it takes images."""
        entry = self._by_address.get(address)
        return entry is not None and entry.multimodal

    def rows(self) -> list[RegistrationRow]:
        """All registrations, by address."""
        now = self._clock()
        return [
            RegistrationRow(
                entry.address, tuple(name for name, _ in entry.keys), entry.peer.host, now - entry.heard,
                self._answers(entry), entry.multimodal,
            )
            for _, entry in sorted(self._by_address.items())
        ]  # fmt: skip

    async def restore(self) -> None:
        """Take in what the state file holds, as if it registered now: the guard is asked again. Never raises."""
        if self._state_file is None:
            return
        deadline = self._clock() + _RESTORE_SECONDS
        self._restoring = True
        for number, kept in enumerate(kepts := read_state(self._state_file, self._limits.workers)):
            if self._clock() > deadline:
                log.warning("%s: %d workers are left to register by themselves", self._state_file, len(kepts) - number)
                break
            peer = Peer(kept.peer, kept.same_machine)
            judged = await self.register(kept.worker_name, peer, heartbeats=kept.heartbeats, multimodal=kept.multimodal)
            if isinstance(judged, Rejection):
                log.warning("%s: a worker is not taken in again: %s", self._state_file, judged.text)
        self._restoring = False

    async def run(self) -> None:
        """Forget who is gone and write the state file when something changed, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self.expire()
            await self.save()

    def expire(self) -> None:
        """Forget registrations without a heartbeat for long whose worker does not answer, and those already dropped."""
        now = self._clock()
        for entry in [*self._by_address.values()]:
            watch = self._source.watch(entry.address)
            if watch is None:
                self._remove(entry, "dropped")
            elif entry.heartbeats and now - entry.heard > self._limits.expiry and not self._answers(entry):
                log.info("worker %s: no heartbeat for %.0f s, and no answer", entry.address, now - entry.heard)
                self._source.withdraw(entry.address, REGISTERED)
                self._remove(entry, "expired")
            elif watch.is_newcomer and watch.failed and not entry.told and now - entry.since > _START_SECONDS:
                entry.told = True
                if self._quiet.may_say(entry.peer.host, "silent"):
                    log.warning("worker %s has registered from %s and cannot be used: %s", entry.address,
                                entry.peer.host, watch.reason)  # fmt: skip

    async def save(self) -> None:
        """Write the state file if something changed since the last time. A failure is a warning."""
        if self._state_file is None or not self._changed:
            return
        self._changed = False
        kept = [
            Kept(*entry.keys[-1], entry.peer.same_machine, entry.heartbeats, entry.multimodal)
            for entry in self._by_address.values()
            if entry.keys
        ]
        await asyncio.to_thread(write_state, self._state_file, kept)

    def _answers(self, entry: _Registration) -> bool:
        watch = self._source.watch(entry.address)
        return watch is not None and watch.answered and watch.down_since is None

    def _has_room(self, peer: Peer) -> bool:
        """Whether one more that never answered may come in, perhaps for one that failed."""
        newcomers = [entry for entry in self._by_address.values() if self._is_newcomer(entry)]
        own = [entry for entry in newcomers if entry.peer.host == peer.host]
        if len(own) >= self._limits.newcomers_of_peer:
            return self._make_room(own)
        if len(newcomers) >= self._limits.newcomers or len(self._by_address) >= self._limits.workers:
            return self._make_room(newcomers)
        return True

    def _make_room(self, newcomers: list[_Registration]) -> bool:
        for entry in newcomers:  # in the order in which they came
            watch = self._source.watch(entry.address)
            if watch is None or watch.failed:
                self._remove(entry, "dropped")
                self._source.drop(entry.address)
                return True
        return False

    def _is_newcomer(self, entry: _Registration) -> bool:
        watch = self._source.watch(entry.address)
        return watch is None or watch.is_newcomer

    def _name(self, entry: _Registration, key: _Key) -> None:
        before = self._by_key.get(key)
        if before is not None and before != entry.address:
            self._by_address[before].keys.remove(key)
        if key in entry.keys:
            entry.keys.remove(key)
        entry.keys.append(key)
        for old in entry.keys[: -self._limits.names]:
            del self._by_key[old]
        entry.keys = entry.keys[-self._limits.names :]
        self._by_key[key] = entry.address

    def _remove(self, entry: _Registration, result: str) -> None:
        del self._by_address[entry.address]
        for key in entry.keys:
            self._by_key.pop(key, None)
        self._changed = True
        self._on_event("registered_worker", result=result)


def _plain(worker_name: str) -> str:
    return worker_name.strip().rstrip("/")
