"""Which workers a request is tried on, one after the other."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from proxy.errors import CALLER_KINDS, GatewayError
from proxy.fleet.facts import ModelFacts, Outcome
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
        if call.route.upstream is None:
            lease = lease_now(call.facilities, wanted)
            if lease is None:
                return self._begin(self._question_only())
        else:
            lease = await self._leased(wanted, frozenset())
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
        try:
            lease = await self._leased(wanted, frozenset(call.workers))
        except GatewayError:
            raise error from None
        if resuming and lease.model != wanted.model:
            lease.release("neutral", call.facilities.clock())  # a fallback would go on in another model's words
            raise error
        return lease

    async def _leased(self, wanted: Wanted, avoid: frozenset[str]) -> Lease:
        call = self._call
        lease = lease_now(call.facilities, wanted, avoid)
        if lease is not None:
            return lease
        began = call.facilities.clock()
        try:
            return await queued_lease(call.facilities, wanted, call.metrics.model, self._may_wait, avoid)
        finally:
            waited = call.facilities.clock() - began
            call.waited(waited)
            self._may_wait -= waited

    def _begin(self, attempt: Attempt) -> Attempt:
        self.current = attempt
        return attempt

    def _question_only(self) -> Attempt:
        """A mere question, such as a count of tokens, takes no place at a worker and waits for none."""
        wanted, facilities = self._wanted, self._call.facilities
        facts = facilities.fleet.known(wanted.model, wanted.kind)
        address = facts.document.get("address") if facts is not None else None
        if facts is None or not isinstance(address, str):
            raise nobody(wanted)
        return Attempt(self._call, _NoHold(facts, address), wanted.name)
