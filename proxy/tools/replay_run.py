"""One recorded request run through a rule set, by the code that serves requests: what would go out and come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import orjson

from proxy.errors import KINDS, GatewayError, Kind
from proxy.framing import Decoder
from proxy.limits import FRAME_MAX_BYTES
from proxy.recording.lines import Asked, Attempt, Exchange, Failure, Recorded
from proxy.recording.redaction import Blackout
from proxy.ruleset.playing import run_request, translator_of, whole_result
from proxy.translate.answer import client_answer, refuse_failure
from proxy.translate.errors import error_answer
from proxy.translate.mapping import RULE_FAILURES, Scope, header_values
from proxy.translate.plan import Route
from proxy.translate.reader import StreamReader, collected
from proxy.translate.request import Built, Question, build_request, resumed_request
from proxy.translate.stream import StreamTranslator
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
        self._route, self._scope, self._recorded, self._blackout = route, scope, recorded, blackout
        self._found = Replayed()

    def run(self) -> Replayed:
        try:
            self._found.told = self._told()
        except GatewayError as error:
            self._found.told = _refused(self._route, error)
        return self._found

    def _told(self) -> Told | None:
        route, recorded = self._route, self._recorded
        if route.selection != "lease":
            if recorded.attempts:
                self._scope["worker"] = recorded.attempts[0].worker
            for _ in build_request(route, self._scope):
                raise GatewayError("internal", f"the rule at {route.place} asks a worker without choosing one")
            return self._whole(route, {})
        if not recorded.attempts:  # nobody could answer, or it was refused before anybody was asked
            failure = recorded.client.failure
            return None if failure is None else _refused(route, _error(failure))
        return self._streamed() if route.target is not None else self._answered()

    # --- what goes out

    def _built(self, attempt: Attempt) -> Built:
        self._scope["worker"] = attempt.worker
        left = list(attempt.asked)

        def answer(question: Question) -> Json:
            fitting = [each for each in left if each.step == question.step and each.path == question.path]
            same = next((each for each in fitting if each.body == question.body), fitting[0] if fitting else None)
            if same is not None:
                left.remove(same)
            self._found.asked.append((question, same))
            return None if same is None else same.answer

        return _echoing(run_request(self._route, self._scope, answer), self._blackout)

    def _send(self, built: Built, body: Json, exchange: Exchange | None) -> None:
        plan = built.route.upstream
        if plan is None:
            raise GatewayError("internal", f"the rule at {built.route.place} asks no worker")
        try:
            headers = {"Content-Type": "application/json", **header_values(plan.headers, built.scope)}
        except RULE_FAILURES as problem:
            raise GatewayError("invalid_request", f"the request does not fit the rule: {problem}") from None
        self._found.sent.append(Sent(plan.method, plan.path, headers, body, exchange))

    # --- what comes back

    def _answered(self) -> Told | None:
        """One answer, of the first worker that gives one."""
        answers: list[Json] = []
        error: GatewayError | None = None
        for attempt in self._recorded.attempts:
            try:
                return self._once(attempt, answers)
            except GatewayError as problem:  # noqa: PERF203  a few workers at most
                error = problem
        raise error or GatewayError("internal", "the request was tried on no worker")

    def _once(self, attempt: Attempt, answers: list[Json]) -> Told | None:
        built = self._built(attempt)
        if built.route.source is not None:
            return self._collected(built, attempt)
        whole = self._parts(built, attempt, answers)
        return None if whole is None else self._whole(built.route, whole_result(built, whole))

    def _parts(self, built: Built, attempt: Attempt, answers: list[Json]) -> list[Json] | None:
        """Every part of a batch; None where a part was not asked for when it was recorded."""
        plan = built.route.upstream
        for index, body in enumerate(built.bodies[len(answers) :]):
            exchange = attempt.exchanges[index] if index < len(attempt.exchanges) else None
            self._send(built, body, exchange)
            if exchange is None:
                if attempt.failure is not None:
                    raise _error(attempt.failure)
                return None
            said = _json(exchange, attempt)
            if plan is not None:
                refuse_failure(plan, built.scope, said)
            answers.append(said)
        whole = answers.copy()
        answers.clear()
        return whole

    def _collected(self, built: Built, attempt: Attempt) -> Told | None:
        exchange = self._first(built, attempt)
        source = built.route.source
        if exchange is None or source is None:
            return None
        reader = StreamReader(source, built.scope)
        _check_status(exchange, attempt)
        try:
            for frame in _frames(source.framing.new_decoder(FRAME_MAX_BYTES), exchange):
                reader.read(frame)
        except ValueError as problem:
            raise _failure(attempt, problem) from None
        if not exchange.complete and not reader.complete:
            raise _failure(attempt)
        reader.end()
        return self._whole(built.route, collected(reader))

    def _first(self, built: Built, attempt: Attempt) -> Exchange | None:
        exchange = attempt.exchanges[0] if attempt.exchanges else None
        self._send(built, built.bodies[0], exchange)
        if exchange is None and attempt.failure is not None:
            raise _error(attempt.failure)
        return exchange

    def _whole(self, route: Route, results: JsonObject) -> Told:
        answer = client_answer(route, {**self._scope, **results})
        return Told(answer.status, "application/json", _dumped(answer.body))

    def _streamed(self) -> Told | None:
        """A stream, on as many workers as there were."""
        attempts = self._recorded.attempts
        translator: StreamTranslator | None = None
        out = b""
        error: GatewayError | None = None
        for index, attempt in enumerate(attempts):
            goes_on = index + 1 < len(attempts) and attempts[index + 1].resumed
            try:
                built = self._built(attempt)
                if translator is None or not attempt.resumed:
                    translator = translator_of(built, self._scope, resumable=True)
                    exchange = self._first(built, attempt)
                else:
                    rest = self._rest(built, translator, attempt)
                    if rest is None:
                        return self._stream(out + translator.conclude())
                    exchange = rest.exchange
                if exchange is None:
                    return None
                more, error = _played(translator, built, attempt, exchange, goes_on=goes_on)
                out += more
            except GatewayError as problem:
                error = problem
            if error is None:
                return self._stream(out)
        if error is None or translator is None or not out:
            raise error or GatewayError("internal", "the request was tried on no worker")
        client = self._recorded.client
        if client.failure is None and client.complete:  # all tokens had come when the last worker was lost
            return self._stream(out + translator.conclude())
        return self._stream(out + translator.fail(error))

    def _rest(self, built: Built, translator: StreamTranslator, attempt: Attempt) -> Sent | None:
        """The request for what is left of a stream; None where nothing is."""
        received = translator.reader.received()
        body = resumed_request(built, built.bodies[0], received.text, received.tokens)
        if body is None:
            return None
        self._send(built, body, attempt.exchanges[0] if attempt.exchanges else None)
        translator.resume(built.scope)
        return self._found.sent[-1]

    def _stream(self, out: bytes) -> Told:
        target = self._route.target
        return Told(200, target.framing.content_type if target is not None else "", out)


def _echoing(built: Built, blackout: Blackout | None) -> Built:
    """As its worker repeats a prompt, where texts were replaced: also the words of the template around them."""
    source = built.route.source
    echoed = None if source is None else source.echoed
    if source is None or echoed is None or blackout is None:
        return built
    blacked = replace(source, echoed=lambda scope: blackout.value(echoed(scope)))
    return built._replace(route=replace(built.route, source=blacked))


def _played(
    translator: StreamTranslator, built: Built, attempt: Attempt, exchange: Exchange, *, goes_on: bool
) -> tuple[bytes, GatewayError | None]:
    """The bytes for the client that one worker's stream makes, and the error that it ends in. goes_on: another worker
    took it up.
    """
    source = built.route.source
    if source is None:
        raise GatewayError("internal", f"the rule at {built.route.place} reads no stream")
    _check_status(exchange, attempt)
    out = b""
    try:
        for frame in _frames(source.framing.new_decoder(FRAME_MAX_BYTES), exchange):
            out += translator.feed([frame])
    except ValueError as problem:
        return out, translator.lost or _failure(attempt, problem)
    if translator.lost is not None:
        return out, translator.lost
    if translator.finished and not goes_on:
        return out + translator.end(), translator.lost
    if not exchange.complete or (goes_on and attempt.failure is not None):
        return out, _failure(attempt)
    return out + translator.end(), translator.lost


def _frames(decoder: Decoder, exchange: Exchange) -> Iterator[bytes]:
    """The frames of a body as far as it is whole. ValueError where it is not: a broken framing, a frame that is not
    JSON.
    """
    frames = iter(decoder.feed(b"" if exchange.said is None else exchange.said.data))
    for frame in chain(frames, _last(decoder) if exchange.complete else ()):
        orjson.loads(frame)
        yield frame


def _last(decoder: Decoder) -> Iterator[bytes]:
    yield from decoder.finish()  # once all the others were taken


def _check_status(exchange: Exchange, attempt: Attempt) -> None:
    if exchange.status not in {None, 200}:
        raise _failure(attempt)


def _json(exchange: Exchange, attempt: Attempt) -> Json:
    _check_status(exchange, attempt)
    if not exchange.complete or exchange.said is None:
        raise _failure(attempt)
    try:
        value: Json = orjson.loads(exchange.said.data)
    except orjson.JSONDecodeError:
        raise _failure(attempt) from None
    return value


def _failure(attempt: Attempt, problem: Exception | None = None) -> GatewayError:
    """What the worker failed with when it was recorded."""
    if attempt.failure is not None:
        return _error(attempt.failure)
    said = "the worker's answer was not recorded to its end" if problem is None else str(problem)
    return GatewayError("upstream_protocol", said)


def _error(failure: Failure) -> GatewayError:
    kind: Kind = failure.kind if failure.kind in KINDS else "internal"  # type: ignore[assignment]
    return GatewayError(
        kind,
        failure.message,
        field=failure.field,
        upstream_code=failure.upstream_code,
        upstream_status=failure.upstream_status,
    )


def _refused(route: Route, error: GatewayError) -> Told:
    """An error before anything was sent, as this route's client expects it."""
    answer = error_answer(route.errors, error, as_frame=route.errors_as_frame)
    if route.target is None or not route.errors_as_frame:
        return Told(answer.status, "application/json", _dumped(answer.body))
    framing = route.target.framing
    return Told(answer.status, framing.content_type, framing.encode(_dumped(answer.body)) + framing.terminator)


def _dumped(value: Json) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as problem:
        raise GatewayError("invalid_request", f"the answer cannot be written as JSON: {problem}") from None
