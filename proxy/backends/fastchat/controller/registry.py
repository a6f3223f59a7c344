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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from proxy.backends.control import EventHook, no_events, pause
from proxy.backends.fastchat.controller.guard import Admission, Guard, LookUp, Peer, Rejection
from proxy.backends.fastchat.controller.quiet import Quiet
from proxy.backends.fastchat.controller.state import Kept, read_state, write_state
from proxy.backends.workers.look import Looks
from proxy.backends.workers.network import is_own_address
from proxy.backends.workers.settings import REGISTERED
from proxy.backends.workers.source import FleetSource
from proxy.backends.workers.watch import WorkerWatch

log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 1.0
# A worker registers some seconds before it listens; only after this time is it told that it does not answer.
_START_SECONDS: Final = 10.0
# Host names that have to be looked up can make it long; who is not taken in again registers with its next heartbeat.
_RESTORE_SECONDS: Final = 10.0
# Registrations judged at once, each of which may look up a name; and how soon one without an answer is judged again.
_JUDGED_AT_ONCE: Final = 16
_JUDGE_AGAIN_SECONDS: Final = 10.0


@dataclass(frozen=True)
class RegistryLimits:
    """expiry: seconds without a heartbeat after which a worker that does not answer is forgotten, as in FastChat.

    workers: registrations in all. of_peer: those from one peer, up or not, so that none can take the whole fleet: four
    machines fill it, and a machine with more than 64 worker programs was not heard of. of_this_machine: the same where
    the peer is this machine, through which all workers behind one tunnel or proxy may come. newcomers: those that were
    never up, and of these so many from one peer; one that has failed a probe makes room for a new one. names: under
    which one address may be registered.
    """

    expiry: float = 90.0
    workers: int = 384
    of_peer: int = 64
    of_this_machine: int = 128
    newcomers: int = 128
    newcomers_of_peer: int = 64
    names: int = 4


_FLEET_FULL: Final = "the fleet has as many workers as it may have"


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

    looks: how workers that register are looked at; look_up: addresses of a host name; state_file: where admitted
    registrations outlive the gateway.
    on_event: "registered_worker" with result new, again, restored, dropped or expired; refusals are counted by whoever
    answers them.
    """

    def __init__(
        self,
        source: FleetSource,
        looks: Looks,
        guard: Guard,
        look_up: LookUp,
        *,
        limits: RegistryLimits | None = None,
        state_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: EventHook = no_events,
    ) -> None:
        self._source, self._looks, self._guard, self._look_up = source, looks, guard, look_up
        self._limits = limits or RegistryLimits()
        self._state_file = Path(state_file) if state_file is not None else None
        self._clock, self._on_event = clock, on_event
        self._by_address: dict[str, _Registration] = {}
        self._by_key: dict[_Key, str] = {}
        self._quiet = Quiet(clock)
        self._changed = self._restoring = False
        self._judge_at: float | None = None  # when the registrations that are there are to be judged again
        self._wake = asyncio.Event()

    def update(self, guard: Guard) -> None:
        """Other rules. The registrations that are there are judged by them soon, by `run`."""
        self._guard = guard
        self._judge_at = self._clock()
        self._wake.set()

    async def register(
        self, worker_name: str, peer: Peer, *, heartbeats: bool = True, multimodal: bool = False
    ) -> Admission | Rejection:
        """Take a worker in and probe it soon; it is used when it has answered. Rejection: the guard's, "full", or
        "taken": what is at this address is a worker of another backend.
        """
        judged = await self._judge(worker_name, peer)
        if isinstance(judged, Rejection):
            return judged
        known = self._entry(judged.address)
        if known is None and not self._restoring:
            crowded, leaves = self._crowd(peer)
            if leaves is not None:
                self._leave(leaves, "dropped")
            elif crowded:
                return Rejection("full", crowded)
        if out := self._source.introduce(judged.address, REGISTERED, self._looks):
            return Rejection("full" if self._source.watch(judged.address) is None else "taken", out)
        entry = known or _Registration(judged.address, peer, self._clock())
        self._by_address[judged.address] = entry
        self._changed |= known is None or entry.multimodal != multimodal or entry.peer != peer
        entry.peer, entry.heartbeats, entry.multimodal, entry.heard = peer, heartbeats, multimodal, self._clock()
        self._name(entry, (_plain(worker_name), peer.host))
        log.debug("worker %s has registered from %s", judged.address, peer.host)
        if judged.warning and self._quiet.may_say(peer.host, "warning"):
            log.warning("%s", judged.warning)
        self._on_event("registered_worker", result="new" if known is None else "again")
        return judged

    def heartbeat(self, worker_name: str, peer_host: str, queue_length: int) -> bool:
        """Whether this worker is known, under this name and from this peer; one that is not registers again."""
        address = self._by_key.get((_plain(worker_name), peer_host))
        if address is None or self._watch(address) is None:
            return False
        self._by_address[address].heard = self._clock()
        self._source.heartbeat(address, queue_length)
        return True

    async def refusal(self, worker_name: str, peer: Peer) -> Rejection | None:
        """Why a worker would be refused if it registered now; None: it would be taken in. Changes nothing."""
        judged = await self._judge(worker_name, peer)
        if isinstance(judged, Rejection):
            return judged
        watch = self._source.watch(judged.address)
        if watch is None and self._source.is_full():
            return Rejection("full", _FLEET_FULL)
        if watch is not None and watch.looks.backend != self._looks.backend:
            return Rejection("taken", f"{judged.address} is a worker of {watch.looks.backend}")
        crowded, leaves = self._crowd(peer) if self._entry(judged.address) is None else ("", None)
        return Rejection("full", crowded) if crowded and leaves is None else None

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
            peer = Peer(kept.peer, is_own_address(kept.peer))
            judged = await self.register(kept.worker_name, peer, heartbeats=kept.heartbeats, multimodal=kept.multimodal)
            if isinstance(judged, Rejection):
                log.warning("%s: a worker is not taken in again: %s", self._state_file, judged.text)
        self._restoring = False

    async def run(self) -> None:
        """Judge registrations by other rules, forget who is gone, write the state file when something changed, until
        cancelled."""
        while True:
            await pause(self._wake, _TICK_SECONDS)
            self._wake.clear()
            if self._judge_at is not None and self._clock() >= self._judge_at:
                await self.judge_again()
            self.expire()
            await self.save()

    async def judge_again(self) -> None:
        """Drop the registrations that would be refused now; a worker that others name too stays for them."""
        self._judge_at = None
        entries = [*self._by_address.values()]
        unanswered = False
        for start in range(0, len(entries), _JUDGED_AT_ONCE):
            some = entries[start : start + _JUDGED_AT_ONCE]
            for entry, refusal in zip(some, await asyncio.gather(*map(self._verdict, some)), strict=True):
                if refusal is None or self._by_address.get(entry.address) is not entry:
                    continue
                if refusal.reason == "unanswered":
                    unanswered = True
                    continue
                log.warning("worker %s is used no more, as the settings say: %s", entry.address, refusal.text)
                self._leave(entry, "refused")
        if unanswered and self._judge_at is None:
            self._judge_at = self._clock() + _JUDGE_AGAIN_SECONDS

    def expire(self) -> None:
        """Forget registrations without a heartbeat for long whose worker does not answer, and those already dropped."""
        now = self._clock()
        for entry in [*self._by_address.values()]:
            watch = self._watch(entry.address)
            if watch is None:
                self._remove(entry, "dropped")
            elif entry.heartbeats and now - entry.heard > self._limits.expiry and not self._answers(entry):
                log.info("worker %s: no heartbeat for %.0f s, and no answer", entry.address, now - entry.heard)
                self._source.withdraw(entry.address, REGISTERED)  # it goes when it is down for long
                self._remove(entry, "expired")
            elif watch.is_newcomer and watch.failed and not entry.told and now - entry.since > _START_SECONDS:
                entry.told = True
                if self._quiet.may_say(entry.peer.host, "silent"):
                    log.warning("worker %s has registered from %s and cannot be used: %s", entry.address,
                                entry.peer.host, watch.reason)  # fmt: skip

    async def save(self) -> None:
        """Write the state file if something changed since it was written. A failure is a warning, now and then."""
        if self._state_file is None or not self._changed:
            return
        self._changed = False
        kept = [
            Kept(*entry.keys[-1], entry.heartbeats, entry.multimodal)
            for entry in self._by_address.values()
            if entry.keys
        ]
        try:
            await asyncio.to_thread(write_state, self._state_file, kept)
        except OSError as error:
            self._changed = True
            if self._quiet.may_say("state file"):
                log.warning("%s: registrations of workers cannot be kept: %s", self._state_file, error)

    def _answers(self, entry: _Registration) -> bool:
        watch = self._watch(entry.address)
        return watch is not None and watch.answered and watch.down_since is None

    async def _judge(self, worker_name: str, peer: Peer) -> Admission | Rejection:
        while True:
            guard = self._guard
            judged = await guard.admit(worker_name, peer, self._look_up)
            if isinstance(judged, Admission):
                judged = replace(judged, address=await self._source.known_as(judged.address))
            if guard is self._guard:  # else the rules have changed while names were looked up
                return judged

    async def _verdict(self, entry: _Registration) -> Rejection | None:
        """Why a registration may not stay; None where one of its names would be admitted as the same worker now."""
        refusals = []
        for name, host in entry.keys[::-1] or [(entry.address, entry.peer.host)]:
            peer = entry.peer if host == entry.peer.host else Peer(host, is_own_address(host))
            judged = await self._judge(name, peer)
            if isinstance(judged, Rejection):
                refusals.append(judged)
            elif judged.address == entry.address:
                return None
            else:
                refusals.append(Rejection("moved", f"{name} means {judged.address} now"))
        return next((refusal for refusal in refusals if refusal.reason == "unanswered"), refusals[0])

    def _watch(self, address: str) -> WorkerWatch | None:
        """The watch of a worker of this backend."""
        watch = self._source.watch(address)
        return watch if watch is not None and watch.looks.backend == self._looks.backend else None

    def _entry(self, address: str) -> _Registration | None:
        """The registration of a worker that is still watched."""
        entry = self._by_address.get(address)
        if entry is not None and self._watch(address) is None:
            self._remove(entry, "dropped")
            return None
        return entry

    def _crowd(self, peer: Peer) -> tuple[str, _Registration | None]:
        """Why there is no room for one more from this peer ("" where there is), and who may leave to make it."""
        entries = [*self._by_address.values()]
        own = [entry for entry in entries if entry.peer.host == peer.host]
        newcomers = [entry for entry in entries if self._is_newcomer(entry)]
        own_newcomers = [entry for entry in newcomers if entry.peer.host == peer.host]
        limits = self._limits
        most = limits.of_this_machine if peer.same_machine else limits.of_peer
        if len(own) >= most:
            text = f"{len(own)} workers have registered from {peer.host}, as many as may from one address"
            return text, self._leaving(own_newcomers)
        text = "too many workers have registered that never answered; try again in a minute"
        if len(own_newcomers) >= limits.newcomers_of_peer:
            return text, self._leaving(own_newcomers)
        if len(newcomers) >= limits.newcomers or len(entries) >= limits.workers:
            return text, self._leaving(newcomers)
        return "", None

    def _leaving(self, newcomers: list[_Registration]) -> _Registration | None:
        watches = ((entry, self._watch(entry.address)) for entry in newcomers)  # in the order in which they came
        return next((entry for entry, watch in watches if watch is None or watch.failed), None)

    def _is_newcomer(self, entry: _Registration) -> bool:
        watch = self._watch(entry.address)
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

    def _leave(self, entry: _Registration, result: str) -> None:
        """A registration that counts no more: its worker goes at once, unless others know of it too."""
        if self._source.sources(entry.address) == (REGISTERED,):
            self._source.drop(entry.address)
        else:
            self._source.withdraw(entry.address, REGISTERED)
        self._remove(entry, result)

    def _remove(self, entry: _Registration, result: str) -> None:
        del self._by_address[entry.address]
        for key in entry.keys:
            del self._by_key[key]
        self._changed = True
        self._on_event("registered_worker", result=result)


def _plain(worker_name: str) -> str:
    return worker_name.strip().rstrip("/")
