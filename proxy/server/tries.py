"""Which workers a request is tried on, one after the other."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from proxy.errors import CALLER_KINDS, GatewayError
from proxy.fleet.facts import Kind, ModelFacts, Outcome
from proxy.fleet.lease import Lease
from proxy.server.admission import Wanted, lease_now, nobody, queued_lease
from proxy.server.attempt import Attempt, Call
from proxy.server.outcomes import is_load, worth_retrying

log = logging.getLogger("proxy.access")

# Seconds before another worker is asked, so that those that lost the same worker do not fall upon one together.
_PAUSE: Final = (0.01, 0.05)


class _NoHold:
    """A worker that is asked without taking a place there."""

    def __init__(self, facts: ModelFacts, address: str) -> None:
        self.facts = facts
        self.address = address

    def release(self, outcome: Outcome, now: float, rest: float = 0.0) -> None:
        """There is nothing to give back."""


class Tries:
    """The attempts of one request. current: the one under way, which whoever made this releases whatever happens;
    retried: whether the request was begun anew.
    """

    def __init__(self, call: Call, wanted: Wanted) -> None:
        self._call = call
        self._wanted = wanted
        self._may_wait = call.traffic.queue_seconds(wanted.model)
        self.retried = False
        self.current: Attempt | None = None
        self._failed: GatewayError | None = None

    async def first(self) -> Attempt:
        """The first attempt, after waiting for a worker as long as that may take."""
        call, wanted = self._call, self._wanted
        call.asked = call.facilities.clock()
        call.traffic.budget.request(call.asked)
        if call.route.is_light:
            lease = self._now(wanted, self._unfit())
            if lease is None:
                return self._begin(self._question_only())
        else:
            lease = await self._leased(wanted, self._unfit())
        return self._begin(Attempt(call, lease, wanted.name))

    async def another(self, error: GatewayError, *, neutral: bool = False, resuming: bool = False) -> Attempt:
        """The next attempt, on a worker that this request has not been on. An error is raised where the request has to
        end in it: because it is the request's own fault, because enough was tried, or because there is nobody else.

        neutral: the error says nothing of the worker; resuming: for a stream that goes on, which is counted elsewhere
        and needs the model that it was begun with.
        """
        under_way = 1 if self.current is None else self._call.facilities.fleet.in_flight(self.current.address)
        self.release(error, neutral=neutral)
        if self._failed is not None and error.kind in CALLER_KINDS:
            error = self._failed  # what the first worker would have taken, such as a long prompt, this one does not
        elif worth_retrying(error):
            self._failed = error
        call, budget, now = self._call, self._call.traffic.budget, self._call.facilities.clock()
        if not worth_retrying(error) or self._wanted.pinned is not None or len(call.workers) >= call.traffic.attempts:
            raise error
        charged = not is_load(error)  # a worker that has enough to do is no sign of a fleet in trouble
        if charged and not budget.take(now, under_way):
            log.warning("no retry: their budget is spent", extra={"route": call.route.name, "reason": error.message})
            raise error
        try:
            lease = await self._following(error, resuming=resuming)
        except BaseException:
            if charged:
                budget.give_back()
            raise
        attempt = self._begin(Attempt(call, lease, self._wanted.name))
        if not resuming:
            self.retried = True
            call.facilities.metrics.on_event("retry", reason=error.kind)
        log.info("request goes to another worker", extra={"worker": lease.address, "reason": error.message})
        await asyncio.sleep(call.facilities.rng.uniform(*_PAUSE))
        return attempt

    def release(self, error: GatewayError | None, *, neutral: bool = False) -> None:
        """The attempt under way is over."""
        attempt, self.current = self.current, None
        if attempt is not None:
            attempt.release(error, neutral=neutral)

    async def _following(self, error: GatewayError, *, resuming: bool) -> Lease:
        """A worker that this request has not been on; `error` where there is none."""
        call = self._call
        wanted = self._wanted._replace(model=call.model) if resuming else self._wanted
        unfit = call.facilities.directory.unfit(self._backend()) if resuming else self._unfit()
        try:
            lease = await self._leased(wanted, unfit.union(call.workers))
        except GatewayError:
            raise error from None
        if resuming and lease.model != wanted.model:
            lease.release("neutral", call.facilities.clock())  # a fallback would go on in another model's words
            raise error
        return lease

    async def _leased(self, wanted: Wanted, avoid: frozenset[str]) -> Lease:
        call = self._call
        lease = self._now(wanted, avoid)
        if lease is not None:
            return lease
        began = call.facilities.clock()
        try:
            return await queued_lease(call.facilities, wanted, call.metrics.model, self._may_wait, avoid)
        finally:
            waited = call.facilities.clock() - began
            call.waited(waited)
            self._may_wait -= waited

    def _unfit(self) -> frozenset[str]:
        """The workers that the rule cannot ask."""
        return self._call.facilities.directory.unfit(self._call.route.backends)

    def _backend(self) -> frozenset[str] | None:
        """That of the worker which the request was on last: only such a one can go on with its stream."""
        worker = self._call.scope.get("worker")
        backend = worker.get("backend") if isinstance(worker, dict) else None
        return frozenset({backend}) if isinstance(backend, str) else self._call.route.backends

    def _now(self, wanted: Wanted, avoid: frozenset[str]) -> Lease | None:
        try:
            return lease_now(self._call.facilities, wanted, avoid)
        except GatewayError:
            if avoid and avoid == self._unfit() and (wanted.model, wanted.kind) in self._answerable():
                text = f"the workers of the model '{wanted.name}' are of a kind that the rule cannot ask"
                raise GatewayError("unsupported", text, field="model") from None
            raise

    def _answerable(self) -> frozenset[tuple[str, Kind | None]]:
        return frozenset(self._call.facilities.fleet.answerable())

    def _begin(self, attempt: Attempt) -> Attempt:
        self.current = attempt
        return attempt

    def _question_only(self) -> Attempt:
        """A mere question, such as a count of tokens, takes no place at a worker and waits for none."""
        wanted, facilities = self._wanted, self._call.facilities
        facts = facilities.fleet.known(wanted.model, wanted.kind)
        address = facts.document.get("address") if facts is not None else None
        if facts is None or not isinstance(address, str) or address in self._unfit():
            raise nobody(wanted)
        return Attempt(self._call, _NoHold(facts, address), wanted.name)
