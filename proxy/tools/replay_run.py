"""One recorded request run through a rule set, by the code that serves requests: what would go out and come back."""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

import orjson

from proxy.errors import GatewayError, Kind
from proxy.limits import FRAME_MAX_BYTES
from proxy.recording.lines import Asked, Attempt, Exchange, Recorded
from proxy.recording.redaction import Blackout
from proxy.ruleset.playing import run_request
from proxy.tools.replay_worker import (
    CANCELLED,
    as_repeated,
    came_too_late,
    check_status,
    error_of,
    failure_of,
    frames_said,
    json_said,
    played,
)
from proxy.translate.answer import client_answer, client_results, refuse_failure
from proxy.translate.changes import header_values
from proxy.translate.errors import error_answer
from proxy.translate.mapping import RULE_FAILURES, Scope
from proxy.translate.plan import Route, StreamTarget
from proxy.translate.reader import StreamReader, collected
from proxy.translate.request import (
    Built,
    Question,
    StepValues,
    build_request,
    operated_on,
    resumed_request,
    whole_result,
)
from proxy.translate.stream import StreamTranslator, failure, translator_of
from proxy.types import Json, JsonObject


class Sent(NamedTuple):
    """A request as it would go to the worker; exchange: the recorded one in its place, None where there is none."""

    method: str
    path: str
    headers: dict[str, str]
    body: Json
    exchange: Exchange | None


class Told(NamedTuple):
    """What the client would get: the bytes of a body, and of which type."""

    status: int
    content_type: str
    said: bytes


class Replayed:
    """What became of a request. asked: questions of steps, each with the recorded one, None where it is a new one;
    sent: what would go to workers; told: None where only a worker could tell how it goes on.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[Question, Asked | None]] = []
        self.sent: list[Sent] = []
        self.told: Told | None = None


def replay(route: Route, scope: Scope, recorded: Recorded, blackout: Blackout | None = None) -> Replayed:
    """Run a request through a route that takes it; the workers say what they said when it was recorded. scope: what the
    route's expressions see of it, without a worker; blackout: with which texts were replaced, where they were.
    """
    return _Run(route, scope, recorded, blackout).run()


class _Run:
    def __init__(self, route: Route, scope: Scope, recorded: Recorded, blackout: Blackout | None) -> None:
        self.route, self.recorded = route, recorded
        self.found = Replayed()
        self._scope, self._blackout = scope, blackout
        self._known: StepValues = {}
        self._questions = [each for attempt in recorded.attempts for each in attempt.asked]

    def run(self) -> Replayed:
        try:
            self.found.told = self._told()
        except GatewayError as error:
            self.found.told = _refused(self.route, error)
        return self.found

    def _told(self) -> Told | None:
        route, recorded = self.route, self.recorded
        named = route.selection != "none" and route.model is not None
        if named and not recorded.attempts:  # nobody could answer, or it was refused before anybody was asked
            failure = recorded.client.failure
            return None if failure is None else _refused(route, error_of(failure))
        if route.selection != "lease":
            return self._alone()
        count = max(each.part for each in recorded.attempts) + 1
        parts = [[each for each in recorded.attempts if each.part == index] for index in range(count)]
        parts = [part for part in parts if part]
        return self._streamed(parts, route.target) if route.target is not None else self._answered(parts)

    def _alone(self) -> Told:
        """The answer of a rule that asks no worker."""
        route, recorded, failure = self.route, self.recorded, self.recorded.client.failure
        if recorded.attempts:
            self._scope["worker"] = recorded.attempts[0].worker
        for _ in build_request(route, self._scope):
            raise GatewayError("internal", f"the rule at {route.place} asks a worker without choosing one")
        if route.operation is not None:
            operated_on(route.operation, self._scope)
            if failure is not None and failure.kind == "unsupported":
                raise error_of(failure)  # it was not done
        return _whole(route, self._scope, {})

    # --- what goes out

    def built(self, attempt: Attempt, scope: Scope, index: int) -> Built:
        """The request for the worker of an attempt."""
        scope["worker"] = attempt.worker

        def answer(question: Question) -> Json:
            fitting = [each for each in self._questions if (each.step, each.path) == (question.step, question.path)]
            same = next((each for each in fitting if each.body == question.body), fitting[0] if fitting else None)
            if same is not None or not self._cut(attempt):
                self.found.asked.append((question, same))
            return None if same is None else same.answer

        return as_repeated(run_request(self.route, scope, answer, index, self._known), self._blackout)

    def _send(self, built: Built, body: Json, exchange: Exchange | None, attempt: Attempt) -> None:
        """It goes to the worker, in the place of this recorded one."""
        plan = built.route.upstream
        if plan is None:
            raise GatewayError("internal", f"the rule at {built.route.place} asks no worker")
        try:
            headers = {"Content-Type": "application/json", **header_values(plan.headers, built.scope)}
        except RULE_FAILURES as problem:
            raise GatewayError("invalid_request", f"the request does not fit the rule: {problem}") from None
        if exchange is not None or not self._cut(attempt):
            self.found.sent.append(Sent(plan.method, plan.path, headers, body, exchange))

    def sent(self, built: Built, body: Json, attempt: Attempt, index: int = 0) -> Exchange | None:
        """Send the request of an attempt at this place, and what came of it then; None where there was none."""
        exchange = attempt.exchanges[index] if index < len(attempt.exchanges) else None
        self._send(built, body, exchange, attempt)
        if exchange is None and attempt.failure is not None:
            raise error_of(attempt.failure)
        return exchange

    def _cut(self, attempt: Attempt) -> bool:
        """Whether there is nothing to compare with what was not sent any more, because it came to an end before."""
        return self.recorded.outcome == CANCELLED or came_too_late(attempt.failure) or self._given_up(attempt)

    def _given_up(self, attempt: Attempt) -> bool:
        """Whether it was one of several parts when another one failed."""
        return self.route.has_parts and attempt.failure is None and self.recorded.client.failure is not None

    def _never_begun(self, parts: int, elements: int) -> GatewayError | None:
        """What was in the way of the next part."""
        failure = self.recorded.client.failure
        return error_of(failure) if failure is not None and parts < elements and came_too_late(failure) else None

    def _more(self, parts: list[list[Attempt]], elements: int) -> bool:
        """Send what there is now beyond the recorded parts, as if to the worker of the first; whether there is any."""
        for index in range(len(parts), elements):
            built = self.built(parts[0][-1], dict(self._scope), index)
            for body in built.bodies:
                self._send(built, body, None, parts[0][-1])
        return elements > len(parts)

    # --- what comes back: one answer

    def _answered(self, parts: list[list[Attempt]]) -> Told | None:
        built: Built | None = None
        found: list[JsonObject | None] = []
        errors: list[GatewayError] = []
        for index, attempts in enumerate(parts):
            if built is not None and index >= built.elements:
                break
            try:
                made, results = self._said(attempts, self._scope if index == 0 else dict(self._scope), index)
            except GatewayError as problem:  # the others were under way at the same time
                if self._given_up(attempts[-1]):
                    found.append(None)
                else:
                    errors.append(problem)
            else:
                built = built or made
                found.append(results)
        if built is not None and (never := self._never_begun(len(parts), built.elements)) is not None:
            errors.append(never)
        if errors:
            raise self._first_error(errors)
        if built is None:
            return None
        known = [each for each in found if each is not None]
        if self._more(parts, built.elements) or len(known) < len(found):
            return None
        return _whole(built.route, self._scope, client_results(built.route, self._scope, known))

    def _first_error(self, errors: list[GatewayError]) -> GatewayError:
        """Of the parts that failed the one that did so first: that of the client, where it is among them."""
        told = self.recorded.client.failure
        return next((each for each in errors if told is not None and self._same(told.message, each.message)), errors[0])

    def _same(self, then: str, now: str) -> bool:
        return then == now if self._blackout is None else self._blackout.same(then, now)

    def _said(self, attempts: list[Attempt], scope: Scope, index: int) -> tuple[Built, JsonObject | None]:
        """What the first worker said that gave an answer; None where only a worker could tell."""
        kept = _Kept()
        error: GatewayError | None = None
        for attempt in attempts:
            try:
                return self._once(attempt, scope, index, kept, last=attempt is attempts[-1])
            except GatewayError as problem:  # noqa: PERF203  a few workers at most
                error = problem
        raise error or GatewayError("internal", "the request was tried on no worker")

    def _once(
        self, attempt: Attempt, scope: Scope, index: int, kept: _Kept, *, last: bool
    ) -> tuple[Built, JsonObject | None]:
        built = self.built(attempt, scope, index)
        results = self._collected(built, attempt) if built.route.source else self._slices(built, attempt, kept)
        if results is not None and not last and not self.route.has_parts:
            _whole(built.route, scope, client_results(built.route, scope, [results]))  # or another one is asked
            if attempt.failure is not None:
                raise error_of(attempt.failure)  # it ended without a reason, and another one answered in its place
        return built, results

    def _slices(self, built: Built, attempt: Attempt, kept: _Kept) -> JsonObject | None:
        """What the answers to a batch mean; None where one was not asked for when it was recorded."""
        plan = built.route.upstream
        answers = kept.of(attempt, built.route)
        for index, body in enumerate(built.bodies[len(answers) :]):
            exchange = self.sent(built, body, attempt, index)
            if exchange is None:
                return None
            said = json_said(exchange, attempt)
            if plan is not None:
                refuse_failure(plan, built.scope, said)
            answers.append(said)
        whole = answers.copy()
        answers.clear()
        return whole_result(built, whole)

    def _collected(self, built: Built, attempt: Attempt) -> JsonObject | None:
        exchange = self.sent(built, built.bodies[0], attempt)
        source = built.route.source
        if exchange is None or source is None:
            return None
        reader = StreamReader(source, built.scope)
        check_status(exchange, attempt)
        error: GatewayError | None = None if exchange.complete else failure_of(attempt)
        try:
            for frame in frames_said(source.framing.new_decoder(FRAME_MAX_BYTES), exchange, reader):
                reader.read(frame)
        except ValueError as problem:
            error = failure_of(attempt, problem)
        except GatewayError as problem:
            error = problem
        if error is not None and not reader.complete:
            raise error
        reader.end()
        return collected(reader)

    # --- what comes back: a stream

    def _streamed(self, parts: list[list[Attempt]], target: StreamTarget) -> Told | None:
        """The streams of all parts, one behind the other in one response."""
        out, elements = b"", len(parts)
        usages: list[Json] = []
        error: GatewayError | None = None
        for index, attempts in enumerate(parts):
            if error is not None or index >= elements:
                break
            one = _Stream(self, attempts, dict(self._scope), index, usages)
            try:
                more, error = one.played()
            except GatewayError as problem:
                if not out:
                    raise
                more, error = failure(target, self.route.errors, problem) + target.framing.terminator, problem
            if more is None:
                return None
            out, elements = out + more, one.elements
            usages.append(one.usage)
        if error is None and (never := self._never_begun(len(parts), elements)) is not None:
            out += failure(target, self.route.errors, never) + target.framing.terminator
        elif error is None and self.recorded.client.complete and self._more(parts, elements):
            return None
        return Told(200, target.framing.content_type, out)


class _Kept:
    """The answers to slices of a batch that earlier workers gave, as long as they are of the same."""

    def __init__(self) -> None:
        self._answers: list[Json] = []
        self._by: tuple[Json, Route] | None = None

    def of(self, attempt: Attempt, asked: Route) -> list[Json]:
        """What there is for this attempt: not what another model said, nor what another backend's rules read."""
        model = attempt.worker.get("model")
        if self._by is None or self._by[0] != model or self._by[1] is not asked:
            self._answers, self._by = [], (model, asked)
        return self._answers


class _Stream:
    """The stream of one part, on as many workers as there were. elements: how many parts there are now."""

    def __init__(self, run: _Run, attempts: list[Attempt], scope: Scope, index: int, earlier: list[Json]) -> None:
        self._run, self._attempts, self._scope, self._index, self._earlier = run, attempts, scope, index, earlier
        self._translator: StreamTranslator | None = None
        self.elements = 1
        scope["elapsed"] = attempts[-1].elapsed

    @property
    def usage(self) -> Json:
        """As its last worker told it."""
        return None if self._translator is None else self._translator.reader.usage

    def played(self) -> tuple[bytes | None, GatewayError | None]:
        """The bytes for the client, None where only a worker could tell, and the error in which they end. GatewayError
        where there are none.
        """
        out = b""
        error: GatewayError | None = None
        for attempt, following in zip_longest(self._attempts, self._attempts[1:]):
            try:
                more, error = self._once(attempt, goes_on=following is not None and following.resumed)
            except GatewayError as problem:
                # A request for the rest that cannot be made is not what the stream was lost by.
                own = attempt.resumed and not problem.kind.startswith("upstream")
                more, error = b"", error if own else problem
            if more is None:
                return (out if self._run.recorded.outcome == CANCELLED else None), None
            out += more
            if error is None:
                return out, None
        if error is None or self._translator is None or not out:
            raise error or GatewayError("internal", "the request was tried on no worker")
        if self._was_whole():  # all tokens had come when its worker was lost
            return out + self._translator.conclude(), None
        return out + self._translator.fail(error), error

    def _was_whole(self) -> bool:
        """Whether its client got all of it, for all that its last worker failed."""
        client, attempts = self._run.recorded.client, self._run.recorded.attempts
        return client.complete and (client.failure is None or self._index < attempts[-1].part)

    def _once(self, attempt: Attempt, *, goes_on: bool) -> tuple[bytes | None, GatewayError | None]:
        run = self._run
        built = run.built(attempt, self._scope, self._index)
        self.elements = built.elements
        if self._translator is None or not attempt.resumed:
            more = self._index + 1 < built.elements
            self._translator = translator_of(built, self._scope, resumable=True, earlier=self._earlier, more=more)
            exchange = run.sent(built, built.bodies[0], attempt)
        else:
            received = self._translator.reader.received()
            body = resumed_request(built, built.bodies[0], received.text, received.tokens)
            if body is None:
                return self._translator.conclude(), None
            self._translator.resume(built.scope)
            exchange = run.sent(built, body, attempt)
        if exchange is None:
            return None, None
        return played(self._translator, built, attempt, exchange, goes_on=goes_on)


def _whole(route: Route, scope: Scope, results: JsonObject) -> Told:
    answer = client_answer(route, {**scope, **results})
    return Told(answer.status, "application/json", _dumped(route, answer.body))


def _refused(route: Route, error: GatewayError) -> Told:
    """An error before anything was sent, as this route's client expects it."""
    answer = error_answer(route.errors, error, as_frame=route.errors_as_frame)
    if route.target is None or not route.errors_as_frame:
        return Told(answer.status, "application/json", _dumped(route, answer.body))
    framing = route.target.framing
    return Told(answer.status, framing.content_type, framing.encode(_dumped(route, answer.body)) + framing.terminator)


def _dumped(route: Route, value: Json) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as problem:
        kind: Kind = "invalid_request" if route.upstream is None else "upstream_protocol"
        raise GatewayError(kind, f"the answer cannot be written as JSON: {problem}") from None
