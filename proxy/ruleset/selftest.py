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
    Part,
    frames_of,
    play_stream,
    read_collected,
    run_parts,
    sample_scope,
    variant_for,
    wire_of,
)
from proxy.ruleset.selftest_documents import ExpectDoc, GivenDoc
from proxy.translate.answer import client_answer, client_results, refuse_failure
from proxy.translate.mapping import RULE_FAILURES, Scope, shown
from proxy.translate.plan import Route
from proxy.translate.reader import Received, collected
from proxy.translate.request import resumed_request, whole_result
from proxy.translate.stream import translator_of
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

    @property
    def told(self) -> tuple[str, ...]:
        """The same, each with the place and name of the test."""
        return tuple(f"{self.test.place}: test '{self.test.test.name}': {problem}" for problem in self.problems)


def run_tests(tests: Iterable[RouteTest]) -> Iterator[Outcome]:
    """Run each test of a rule set."""
    for test in tests:
        given = test.test.given.chunks
        accept = {name.lower(): value for name, value in test.test.given.headers.items()}.get("accept", "")
        route = variant_for(test.route.accepted(accept), test.test.given.backend)
        wires = [] if given is None else [wire_of(route, chunks) for chunks in _by_part(route, given)]
        yield Outcome(test, tuple(_problems(test, route)), sum(map(len, wires)))


def _problems(test: RouteTest, route: Route) -> Iterator[Problem]:
    given, expect = test.test.given, test.test.expect
    scope = _scope(route, given)
    try:
        parts = run_parts(route, scope, lambda question: given.asked.get(question.step))
        bodies = [body for part in parts for body in part.built.bodies]
        if given.received is not None:
            received = given.received
            bodies = [resumed_request(parts[0].built, body, received.text, received.tokens) for body in bodies]
        result = _result(parts, given)
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


def _by_part(route: Route, given: list[Json]) -> list[list[Json]]:
    """What the worker says in each part of a request; all of it in the only one where the call is made once."""
    if route.call is None or route.call.each is None:
        return [given]
    return [said if isinstance(said, list) else [said] for said in given]


def _result(parts: list[Part], given: GivenDoc) -> Json:
    """The client's frames, or the one answer; None where the test gives nothing for the worker to say."""
    route, scope = parts[0].built.route, parts[0].scope
    said = given.chunks if route.source is not None else given.answers
    if route.upstream is None:
        return client_answer(route, scope).body if route.answer is not None else None
    if said is None:
        return None
    by_part = _by_part(route, said)
    if len(by_part) != len(parts):
        raise GatewayError("internal", f"the test says what is answered to {len(by_part)} of {len(parts)} parts")
    if route.source is not None:
        return _stream_result(parts, [wire_of(route, chunks) for chunks in by_part], given)
    found = []
    for part, answers in zip(parts, by_part, strict=True):
        for answer in answers:
            refuse_failure(route.upstream, part.built.scope, answer)
        found.append(whole_result(part.built, answers))
    return client_answer(route, {**scope, **client_results(route, scope, found)}).body


def _stream_result(parts: list[Part], wires: list[bytes], given: GivenDoc) -> Json:
    whole = _play(parts, [[wire] for wire in wires], given)
    bytewise = _play(parts, [[wire[index : index + 1] for index in range(len(wire))] for wire in wires], given)
    if whole != bytewise:
        raise GatewayError("internal", "the frames depend on where the worker's bytes are cut")
    return whole


def _play(parts: list[Part], reads: list[list[bytes]], given: GivenDoc) -> Json:
    route = parts[0].built.route
    if route.source is None:
        return None
    if route.target is None:
        readers = [read_collected(part.built, read, cut=given.cut) for part, read in zip(parts, reads, strict=True)]
        found = client_results(route, parts[0].scope, [collected(reader) for reader in readers])
        return client_answer(route, {**parts[0].scope, **found}).body
    out, usages = b"", list[Json]()
    for index, (part, read) in enumerate(zip(parts, reads, strict=True)):
        more = index + 1 < len(parts)
        translator = translator_of(part.built, part.scope, resumable=True, earlier=usages, more=more)
        if given.received is not None:
            translator.resume(part.built.scope, Received(given.received.text, given.received.tokens))
        out += play_stream(translator, route.source, read, cut=given.cut)
        if translator.error is not None:
            break
        usages.append(translator.reader.usage)
    return frames_of(route.target.framing, out)


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
