"""The tests inside rule files, run on the same code that serves requests.

A stream is run twice: all at once, and again with the worker's bytes cut at every position, which must give the same
frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson

from proxy.errors import GatewayError
from proxy.ruleset.loader import RouteTest
from proxy.ruleset.playing import (
    frames_of,
    play_collected,
    play_stream,
    run_request,
    sample_scope,
    translator_of,
    variant_for,
    whole_result,
    wire_of,
)
from proxy.ruleset.selftest_documents import ExpectDoc, GivenDoc
from proxy.translate.answer import client_answer, refuse_failure
from proxy.translate.mapping import RULE_FAILURES, Scope, shown
from proxy.translate.plan import Route
from proxy.translate.reader import Received
from proxy.translate.request import Built, resumed_request
from proxy.types import Json


class Problem(NamedTuple):
    """What a test expected and did not get. path: where in the result; expected, got: JSON, got is None where there is
    nothing; both None where `message` says it all.
    """

    message: str
    path: str = ""
    expected: str | None = None
    got: str | None = None

    def __str__(self) -> str:
        return self.message


class Outcome(NamedTuple):
    """One test's result; `found` is empty where it passed. cuts: bytes of the worker's stream, at each of which it was
    cut in the second run; 0 for a test without a stream.
    """

    test: RouteTest
    found: tuple[Problem, ...]
    cuts: int = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each."""
        return tuple(str(problem) for problem in self.found)


def run_tests(tests: Iterable[RouteTest]) -> Iterator[Outcome]:
    """Run each test of a rule set."""
    for test in tests:
        chunks = test.test.given.chunks
        accept = {name.lower(): value for name, value in test.test.given.headers.items()}.get("accept", "")
        route = variant_for(test.route.accepted(accept), test.test.given.backend)
        yield Outcome(test, tuple(_problems(test, route)), 0 if chunks is None else len(wire_of(route, chunks)))


def _problems(test: RouteTest, route: Route) -> Iterator[Problem]:
    given, expect = test.test.given, test.test.expect
    scope = _scope(route, given)
    try:
        built = run_request(route, scope, lambda question: given.asked.get(question.step))
        bodies = built.bodies
        if given.received is not None:
            received = given.received
            bodies = [resumed_request(built, body, received.text, received.tokens) for body in bodies]
        result = _result(built, scope, given)
    except GatewayError as error:
        yield from _error_problems(expect, error)
        return
    except RULE_FAILURES as error:
        yield Problem(f"the rule failed: {error}")
        return
    if expect.error is not None:
        yield Problem(
            f"expected the error {expect.error.kind}, but the request was taken", "error.kind", _text(expect.error.kind)
        )
    if "upstream" in expect.model_fields_set:
        wanted: list[Json] = expect.upstream if isinstance(expect.upstream, list) else [expect.upstream]
        yield from differences(wanted, list(bodies), "upstream")
    for name in expect.without:
        for index, body in enumerate(bodies):
            if isinstance(body, dict) and name in body:
                message = f"upstream[{index}]: '{name}' must not be sent, got {shown(body[name])}"
                yield Problem(message, f"upstream[{index}].{name}", None, _text(body[name]))
    yield from _result_problems(expect, result)


def _scope(route: Route, given: GivenDoc) -> Scope:
    scope: Scope = {
        **sample_scope(route, given.request, given.worker),
        "query": dict(given.query),
        "headers": dict(given.headers),
        "path": dict(given.path),
        "listener": dict(given.listener),
    }
    return scope if given.models is None else {**scope, "models": list(given.models)}


def _result(built: Built, scope: Scope, given: GivenDoc) -> Json:
    """The client's frames, or the one answer; None where the test gives nothing for the worker to say."""
    route = built.route
    if route.source is not None:
        return None if given.chunks is None else _stream_result(built, scope, given.chunks, given)
    if route.upstream is not None:
        if given.answers is None:
            return None
        answers = list(given.answers)
        for answer in answers:
            refuse_failure(route.upstream, built.scope, answer)
        scope = {**scope, **whole_result(built, answers)}
    return client_answer(route, scope).body if route.answer is not None else None


def _stream_result(built: Built, scope: Scope, chunks: list[Json], given: GivenDoc) -> Json:
    wire = wire_of(built.route, chunks)
    whole = _play(built, scope, [wire], given)
    bytewise = _play(built, scope, [wire[index : index + 1] for index in range(len(wire))], given)
    if whole != bytewise:
        raise GatewayError("internal", "the frames depend on where the worker's bytes are cut")
    return whole


def _play(built: Built, scope: Scope, reads: list[bytes], given: GivenDoc) -> Json:
    route = built.route
    if route.source is None:
        return None
    if route.target is None:
        return play_collected(built, scope, reads, cut=given.cut).answer.body
    translator = translator_of(built, scope, resumable=True)
    if given.received is not None:
        translator.resume(built.scope, Received(given.received.text, given.received.tokens))
    return frames_of(route.target.framing, play_stream(translator, route.source, reads, cut=given.cut))


def _error_problems(expect: ExpectDoc, error: GatewayError) -> Iterator[Problem]:
    wanted = expect.error
    if wanted is None:
        yield Problem(f"unexpected error {error.kind}: {error.message}")
        return
    if error.kind != wanted.kind:
        message = f"expected the error {wanted.kind}, got {error.kind}: {error.message}"
        yield Problem(message, "error.kind", _text(wanted.kind), _text(error.kind))
    if wanted.field is not None and error.field != wanted.field:
        message = f"expected the field '{wanted.field}', got {error.field!r}: {error.message}"
        yield Problem(message, "error.field", _text(wanted.field), _text(error.field))
    if wanted.says is not None and wanted.says not in error.message:
        message = f"expected a message with '{wanted.says}', got: {error.message}"
        yield Problem(message, "error.says", _text(wanted.says), _text(error.message))


def _result_problems(expect: ExpectDoc, result: Json) -> Iterator[Problem]:
    given = expect.model_fields_set
    if {"chunks", "last", "answer"} & given and result is None:
        yield Problem("the test expects a result, but gives no chunks or answers for it")
        return
    if expect.chunks is not None:
        yield from differences(list(expect.chunks), result, "chunks")
    if "last" in given:
        yield from differences(expect.last, result[-1] if isinstance(result, list) and result else None, "last")
    if "answer" in given:
        yield from differences(expect.answer, result, "answer")


def differences(wanted: Json, found: Json, path: str) -> Iterator[Problem]:
    """Where `found` differs from `wanted`; in objects only the keys that `wanted` names count."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name, value in wanted.items():
            if name in found:
                yield from differences(value, found[name], f"{path}.{name}")
            elif value is not None:
                message = f"{path}.{name}: expected {shown(value)}, but it is absent"
                yield Problem(message, f"{path}.{name}", _text(value))
    elif isinstance(wanted, list) and isinstance(found, list):
        if len(wanted) != len(found):
            message = f"{path}: expected {len(wanted)} elements, got {len(found)}: {_text(found)[:300]}"
            yield Problem(message, path, _text(wanted), _text(found))
        for index, (left, right) in enumerate(zip(wanted, found, strict=False)):
            yield from differences(left, right, f"{path}[{index}]")
    elif wanted != found or isinstance(wanted, bool) != isinstance(found, bool):
        message = f"{path}: expected {_text(wanted)}, got {_text(found)[:300]}"
        yield Problem(message, path, _text(wanted), _text(found))


def _text(value: Json) -> str:
    return orjson.dumps(value).decode()
