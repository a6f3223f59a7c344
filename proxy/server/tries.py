"""Which workers a request is tried on, one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from proxy.errors import CALLER_KINDS, GatewayError
from proxy.fleet.facts import ModelFacts, Outcome
from proxy.server.admission import Wanted, lease_now, nobody, queued_lease, refuse_out_of_service
from proxy.server.attempt import Attempt
from proxy.server.body import Share
from proxy.server.call import Call
from proxy.server.leases import Leased
from proxy.server.mirror import Copy, Mirrors
from proxy.server.outcomes import is_load, worth_retrying
from proxy.server.split import directed, in_order, point

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
    """The attempts of one request, or of the part of it that answers one element. current: the one under way, which
    whoever made this releases whatever happens; retried: whether the request was begun anew. share: the request's body,
    for a copy of it.
    """

    def __init__(self, call: Call, wanted: Wanted, mirrors: Mirrors, share: Share) -> None:
        self.call = call
        self._wanted = wanted
        self._mirrors = mirrors
        self._share = share
        self._copy: Copy | None = None
        self._sides = self._sides_of(wanted)
        self._may_wait = call.traffic.queue_seconds(wanted.model)
        self.retried = False
        self.current: Attempt | None = None
        self._failed: GatewayError | None = None

    async def first(self) -> Attempt:
        """The first attempt, after waiting for a worker as long as that may take."""
        call, wanted = self.call, self._wanted
        call.asked = call.facilities.clock()
        call.traffic.budget.request(call.asked)
        if self._sides != [wanted]:
            refuse_out_of_service(call.facilities, wanted)
        if call.route.is_light:
            return self._begin(await self._light())
        attempt = self._begin(Attempt(call, await self._anywhere(), wanted.name))
        self._copy = await self._mirrors.begin(call, wanted, attempt, self._share)
        return attempt

    async def another(self, error: GatewayError, *, neutral: bool = False, resuming: bool = False) -> Attempt:
        """The next attempt, on a worker that this request has not been on. An error is raised where the request has to
        end in it: because it is the request's own fault, because enough was tried, or because there is nobody else.

        neutral: the error says nothing of the worker; resuming: for a stream that goes on, which is counted elsewhere
        and needs the model that it was begun with.
        """
        under_way = 1 if self.current is None else self.call.facilities.leases.in_flight(self.current.address)
        self.release(error, neutral=neutral)
        if self._failed is not None and error.kind in CALLER_KINDS:
            error = self._failed  # what the first worker would have taken, such as a long prompt, this one does not
        elif worth_retrying(error):
            self._failed = error
        call, budget, now = self.call, self.call.traffic.budget, self.call.facilities.clock()
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

    def forget(self) -> None:
        """The part is answered; what was asked is held no more, because there may be many of them."""
        self.call.forget()
        self._copy = None

    def left(self) -> None:
        """The client is gone; it would have been so for whoever has the copy."""
        if self._copy is not None:
            self._copy.stop()

    def _sides_of(self, wanted: Wanted) -> list[Wanted]:
        """What the request needs of the fleet, the best first; one alone where requests are not split."""
        call = self.call
        sides = call.spread(wanted.model).sides
        if not sides or wanted.pinned is not None:
            return [wanted]
        resolve, at = call.facilities.directory.resolve, call.drawn
        if at is None or wanted.key is not None:
            at = point(wanted.model, wanted.key, call.facilities.rng)
        return [directed(wanted, side, call.scope, resolve) for side in in_order(sides, at)]

    async def _anywhere(self, avoid: Collection[str] = ()) -> Leased:
        """A lease on the first side that has a worker beside those to avoid. The first one's error where none has."""
        why: GatewayError | None = None
        for side in self._sides:
            try:
                lease = await self._leased(side, self._unfit(side).union(avoid))
            except GatewayError as problem:
                why = why or problem
                continue
            if why is not None:
                self._goes_elsewhere(lease.address, why)
            return lease
        raise why or nobody(self._wanted)

    async def _light(self) -> Attempt:
        """A mere question, such as a count of tokens: it takes a place at a worker that has one, and waits for none."""
        why: GatewayError | None = None
        for side in self._sides:
            try:
                lease = await self._now(side, self._unfit(side))
                attempt = self._question_only(side) if lease is None else Attempt(self.call, lease, side.name)
            except GatewayError as problem:
                why = why or problem
                continue
            if why is not None:
                self._goes_elsewhere(attempt.address, why)
            return attempt
        raise why or nobody(self._wanted)

    def _goes_elsewhere(self, worker: str, why: GatewayError) -> None:
        facilities = self.call.facilities
        facilities.metrics.on_event("split_fallback", model=self.call.metrics.model)
        log.info("request goes to another side of the split", extra={"worker": worker, "reason": why.message})

    async def _following(self, error: GatewayError, *, resuming: bool) -> Leased:
        """A worker that this request has not been on; `error` where there is none."""
        call = self.call
        try:
            if not resuming:
                return await self._anywhere(call.workers)
            wanted = self._wanted._replace(model=call.model, backends=self._backend())
            lease = await self._leased(wanted, self._unfit(wanted).union(call.workers))
        except GatewayError:
            raise error from None
        if lease.model != wanted.model:
            lease.release("neutral", call.facilities.clock())  # a fallback would go on in another model's words
            raise error
        return lease

    async def _leased(self, wanted: Wanted, avoid: frozenset[str]) -> Leased:
        while True:
            lease = await self._waited_for(wanted, avoid)
            newcomers = self._unfit(wanted) - avoid
            if lease.address not in newcomers:
                return lease
            lease.release("neutral", self.call.facilities.clock())  # it came while the request waited
            avoid |= newcomers

    async def _waited_for(self, wanted: Wanted, avoid: frozenset[str]) -> Leased:
        call = self.call
        lease = await self._now(wanted, avoid)
        if lease is None and self._mirrors.give_way(wanted, avoid):
            lease = await self._now(wanted, avoid)
        if lease is not None:
            return lease
        began = call.facilities.clock()
        try:
            return await queued_lease(call.facilities, wanted, call.metrics.model, self._may_wait, avoid)
        finally:
            waited = call.facilities.clock() - began
            call.waited(waited)
            self._may_wait -= waited

    def _unfit(self, wanted: Wanted) -> frozenset[str]:
        """The workers that cannot be asked."""
        return self.call.facilities.directory.unfit(wanted.backends)

    def _backend(self) -> frozenset[str] | None:
        """That of the worker which the request was on last: only such a one can go on with its stream."""
        worker = self.call.scope.get("worker")
        backend = worker.get("backend") if isinstance(worker, dict) else None
        return frozenset({backend}) if isinstance(backend, str) else self.call.route.backends

    async def _now(self, wanted: Wanted, avoid: frozenset[str]) -> Leased | None:
        try:
            return await lease_now(self.call.facilities, wanted, avoid)
        except GatewayError:
            if avoid and avoid == self._unfit(wanted) and self._are_all_unfit(wanted, avoid):
                text = f"the workers of the model '{wanted.name}' are of a kind that the rule cannot ask"
                raise GatewayError("unsupported", text, field="model") from None
            raise

    def _are_all_unfit(self, wanted: Wanted, unfit: frozenset[str]) -> bool:
        """Whether others can answer, and no worker is merely down or drained that could be asked."""
        fleet, kind = self.call.facilities.fleet, wanted.kind or "llm"
        others = [view for view in fleet.workers() if view.address not in unfit]
        return (wanted.model, kind) in fleet.answerable() and not any(
            facts.model == wanted.model and kind in facts.kinds for view in others for facts in view.models
        )

    def _begin(self, attempt: Attempt) -> Attempt:
        self.current = attempt
        return attempt

    def _question_only(self, wanted: Wanted) -> Attempt:
        """Where no worker has a place."""
        fleet, unfit, kind = self.call.facilities.fleet, self._unfit(wanted), wanted.kind or "llm"
        for view in fleet.workers():
            named = wanted.pinned in (None, view.address, view.id)
            if not named or not view.up or view.drained or view.address in unfit:
                continue
            for facts in view.models:
                if facts.model == wanted.model and kind in facts.kinds:
                    return Attempt(self.call, _NoHold(facts, view.address), wanted.name)
        known = fleet.known(wanted.model, wanted.kind)  # a fallback's
        address = known.document.get("address") if known is not None else None
        if known is None or not isinstance(address, str) or address in unfit or wanted.pinned is not None:
            raise nobody(wanted)
        return Attempt(self.call, _NoHold(known, address), wanted.name)
