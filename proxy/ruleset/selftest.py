"""The tests inside rule files, run on the same code that serves requests.

A stream is run twice: all at once, and again with the worker's bytes cut at every position, which must give the same
frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson

from proxy.errors import GatewayError
from proxy.framing import FramingError
from proxy.limits import FRAME_MAX_BYTES
from proxy.ruleset.documents import ExpectDoc, GivenDoc
from proxy.ruleset.loader import RouteTest
from proxy.translate.answer import client_answer, refuse_failure
from proxy.translate.mapping import RULE_FAILURES, Scope, shown
from proxy.translate.plan import Route
from proxy.translate.request import build_request
from proxy.translate.stream import StreamReader, StreamTranslator, collected
from proxy.types import Json, JsonObject

GATEWAY_SAMPLE: JsonObject = {
    "host": "127.0.0.1",
    "port": 8090,
    "version": "0",
    "default_model": "sample",
}


class Outcome(NamedTuple):
    """One test's result; `problems` is empty where it passed."""

    test: RouteTest
    problems: tuple[str, ...]


def run_tests(tests: Iterable[RouteTest]) -> Iterator[Outcome]:
    """Run each test of a rule set."""
    for test in tests:
        yield Outcome(test, tuple(_problems(test)))


def _problems(test: RouteTest) -> Iterator[str]:
    given, expect = test.test.given, test.test.expect
    scope = _scope(test.route, given)
    try:
        bodies = _drive(test.route, scope, given)
        result = _result(test.route, scope, given)
    except GatewayError as error:
        yield from _error_problems(expect, error)
        return
    except RULE_FAILURES as error:
        yield f"the rule failed: {error}"
        return
    if expect.error is not None:
        yield f"expected the error {expect.error.kind}, but the request was taken"
    if "upstream" in expect.model_fields_set:
        wanted: list[Json] = expect.upstream if isinstance(expect.upstream, list) else [expect.upstream]
        yield from differences(wanted, list(bodies), "upstream")
    for name in expect.without:
        for index, body in enumerate(bodies):
            if isinstance(body, dict) and name in body:
                yield f"upstream[{index}]: '{name}' must not be sent, got {shown(body[name])}"
    yield from _result_problems(expect, result)


def _scope(route: Route, given: GivenDoc) -> Scope:
    worker: JsonObject = {**route.sample, **given.worker}
    models: list[Json] = [worker] if given.models is None else list(given.models)
    return {
        "body": given.request,
        "query": dict(given.query),
        "headers": dict(given.headers),
        "path": dict(given.path),
        "listener": dict(given.listener),
        "gateway": dict(GATEWAY_SAMPLE),
        "worker": worker,
        "models": models,
    }


def _drive(route: Route, scope: Scope, given: GivenDoc) -> list[Json]:
    questions = build_request(route, scope)
    answer: Json = None
    try:
        question = next(questions)
        while True:
            answer = given.asked.get(question.step)
            question = questions.send(answer)
    except StopIteration as done:
        bodies: list[Json] = done.value
        return bodies


def _result(route: Route, scope: Scope, given: GivenDoc) -> Json:
    """The client's frames, or the one answer; None where the test gives nothing for the worker to say."""
    if route.source is not None:
        return None if given.chunks is None else _stream_result(route, scope, given.chunks, cut=given.cut)
    if route.upstream is not None:
        if given.answers is None:
            return None
        answers = list(given.answers)
        for answer in answers:
            refuse_failure(route.upstream, scope, answer)
        scope = {**scope, "answers": answers, "upstream": answers[0] if answers else None}
    return client_answer(route, scope).body if route.answer is not None else None


def _stream_result(route: Route, scope: Scope, chunks: list[Json], *, cut: bool) -> Json:
    source = route.source
    if source is None:
        return None
    wire = b"".join(source.framing.encode(orjson.dumps(chunk)) for chunk in chunks)
    whole = _play(route, scope, [wire], cut=cut)
    bytewise = _play(route, scope, [wire[index : index + 1] for index in range(len(wire))], cut=cut)
    if whole != bytewise:
        raise GatewayError("internal", "the frames depend on where the worker's bytes are cut")
    return whole


def _play(route: Route, scope: Scope, reads: list[bytes], *, cut: bool) -> Json:
    source, target = route.source, route.target
    if source is None:
        return None
    decoder = source.framing.new_decoder(FRAME_MAX_BYTES)
    lost = GatewayError("upstream_reset", "the worker closed the connection in the middle of its answer")
    if target is None:
        reader = StreamReader(source, scope)
        try:
            for frame in [frame for read in reads for frame in decoder.feed(read)] + decoder.finish():
                reader.read(frame)
        except FramingError as error:
            raise GatewayError("upstream_protocol", str(error)) from None
        if cut and reader.finish is None:
            raise lost
        reader.end()
        return client_answer(route, {**scope, **collected(reader)}).body
    translator = StreamTranslator(source, target, route.errors, scope)
    try:
        out = b"".join(translator.feed(decoder.feed(read)) for read in reads)
        out += translator.feed(decoder.finish())
    except FramingError as error:
        out = translator.fail(GatewayError("upstream_protocol", str(error)))
    out += translator.fail(lost) if cut else translator.end()
    written = target.framing.new_decoder(FRAME_MAX_BYTES)
    return [orjson.loads(frame) for frame in [*written.feed(out), *written.finish()]]


def _error_problems(expect: ExpectDoc, error: GatewayError) -> Iterator[str]:
    wanted = expect.error
    if wanted is None:
        yield f"unexpected error {error.kind}: {error.message}"
        return
    if error.kind != wanted.kind:
        yield f"expected the error {wanted.kind}, got {error.kind}: {error.message}"
    if wanted.field is not None and error.field != wanted.field:
        yield f"expected the field '{wanted.field}', got {error.field!r}: {error.message}"
    if wanted.says is not None and wanted.says not in error.message:
        yield f"expected a message with '{wanted.says}', got: {error.message}"


def _result_problems(expect: ExpectDoc, result: Json) -> Iterator[str]:
    given = expect.model_fields_set
    if {"chunks", "last", "answer"} & given and result is None:
        yield "the test expects a result, but gives no chunks or answers for it"
        return
    if expect.chunks is not None:
        yield from differences(list(expect.chunks), result, "chunks")
    if "last" in given:
        yield from differences(expect.last, result[-1] if isinstance(result, list) and result else None, "last")
    if "answer" in given:
        yield from differences(expect.answer, result, "answer")


def differences(wanted: Json, found: Json, path: str) -> Iterator[str]:
    """Where `found` differs from `wanted`; in objects only the keys that `wanted` names count."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for name, value in wanted.items():
            if name in found:
                yield from differences(value, found[name], f"{path}.{name}")
            elif value is not None:
                yield f"{path}.{name}: expected {shown(value)}, but it is absent"
    elif isinstance(wanted, list) and isinstance(found, list):
        if len(wanted) != len(found):
            yield f"{path}: expected {len(wanted)} elements, got {len(found)}: {orjson.dumps(found).decode()[:300]}"
        for index, (left, right) in enumerate(zip(wanted, found, strict=False)):
            yield from differences(left, right, f"{path}[{index}]")
    elif wanted != found or isinstance(wanted, bool) != isinstance(found, bool):
        yield f"{path}: expected {orjson.dumps(wanted).decode()}, got {orjson.dumps(found).decode()[:300]}"
