"""Compiled rules at work: streams, requests and the choice of a route, on the inputs of the rule files' own tests."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from benchmarks.answers import frames
from benchmarks.micro_cases import FRAME_LIMIT, Timed, case
from benchmarks.subjects import rule_folders

if TYPE_CHECKING:
    from proxy.ruleset import RouteTest, RuleSet
    from proxy.translate.mapping import Scope
    from proxy.translate.request import Built

_RECORDED = Path(__file__).parent.parent / "tests" / "recordings" / "worker_api.jsonl"
# Route and the name of one of its tests.
_REQUESTS = (
    ("generate_stream", "a system message goes into the template"),
    ("generate_stream", "several turns, Chinese, and OpenAI's names of the roles"),
    ("generate_stream", "a chat as DB-GPT's app asks for it, with a context full of nulls"),
    ("embeddings", "the vectors come back in the order of the texts, across parts"),
)
_STREAMS = ("generate_stream", "field", "lines", "openai_chat_stream")


@functools.cache
def _rules() -> RuleSet:
    from proxy.backends.functions import rule_functions
    from proxy.ruleset import load_rules

    return load_rules(rule_folders(), rule_functions())


def _test_of(route: str, name: str | None = None) -> RouteTest:
    """The test of this name; without one the first with a request and chunks. KeyError where there is none."""
    for test in _rules().tests:
        fits = test.test.given.chunks and test.test.expect.error is None if name is None else test.test.name == name
        if test.route.name == route and fits:
            return test
    raise KeyError(f"the route {route} has no test {name or 'of a stream'}")


def _scope(test: RouteTest) -> Scope:
    from proxy.ruleset.playing import sample_scope

    given = test.test.given
    return sample_scope(test.route, given.request, given.worker)


def _drive(test: RouteTest, scope: Scope) -> Built:
    """Build the request of a test; what the worker is asked on the way is answered as the test says."""
    from proxy.ruleset.playing import run_request

    return run_request(test.route, scope, lambda question: test.test.given.asked.get(question.step))


def _translating(route: str, reads: list[bytes]) -> Timed:
    """A whole stream of the route, one read after the other, from the worker's bytes to the client's."""
    from proxy.translate.stream import translator_of

    test = _test_of(route)
    source = test.route.source
    if source is None:
        raise KeyError(f"the route {route} is no stream")
    scope = _scope(test)
    built = _drive(test, scope)

    def timed() -> None:
        decode = source.framing.new_decoder(FRAME_LIMIT).feed
        translator = translator_of(built, scope)
        for read in reads:
            translator.feed(decode(read))
        translator.end()

    return timed


def recorded_stream(name: str = "generate_stream length") -> list[bytes]:
    """The frames of a real worker's answer, each with its NUL. KeyError where nothing of this name was recorded."""
    for line in _RECORDED.read_text(encoding="utf-8").splitlines():
        record = orjson.loads(line)
        if record["name"] == name:
            return [frame + b"\0" for frame in record["response"]["body"].encode().split(b"\0") if frame]
    raise KeyError(f"there is no recording '{name}'")


def _add_stream(route: str) -> None:
    @case(f"stream: {route}, a frame a read", operations=100)
    def single() -> Timed:
        return _translating(route, list(frames(100)))

    @case(f"stream: {route}, ten frames a read", operations=100)
    def many() -> Timed:
        made = frames(100)
        return _translating(route, [b"".join(made[at : at + 10]) for at in range(0, 100, 10)])

    @case(f"stream: {route}, long: 2,000 frames", operations=2000)
    def long() -> Timed:
        return _translating(route, list(frames(2000)))


def _add_request(route: str, name: str) -> None:
    @case(f"request: {route}, {name}")
    def build() -> Timed:
        test = _test_of(route, name)
        scope = _scope(test)
        return lambda: _drive(test, dict(scope))


def _add_match(label: str, method: str, path: str) -> None:
    @case(f"route: {label}")
    def match() -> Timed:
        from proxy.translate.routes import Miss, choose

        table = _rules().table
        body = _test_of("generate_stream").test.given.request

        def timed() -> object:
            found = table.by_path(method, path)
            return found if isinstance(found, Miss) else choose(found, {}, {"body": body})

        return timed


def add_cases() -> None:
    """Add all of them to the table of cases."""
    for route in _STREAMS:
        _add_stream(route)

    recorded = len(recorded_stream())

    @case("stream: generate_stream, a recorded answer", operations=recorded)
    def real() -> Timed:
        return _translating("generate_stream", recorded_stream())

    for route, name in _REQUESTS:
        _add_request(route, name)
    _add_match("found", "POST", "/api/worker/generate_stream")
    _add_match("a condition on the body", "POST", "/v1/chat/completions")
    _add_match("no such path", "POST", "/api/worker/nowhere")
