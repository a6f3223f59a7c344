"""A request or a worker's recorded stream played through a route, by the code that serves requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import orjson

from proxy.errors import GatewayError
from proxy.framing import Framing, FramingError
from proxy.limits import FRAME_MAX_BYTES
from proxy.translate.answer import ClientAnswer, client_answer, client_results
from proxy.translate.mapping import Scope
from proxy.translate.plan import Route, StreamSource
from proxy.translate.reader import StreamReader, collected
from proxy.translate.request import Built, Question, StepValues, build_request
from proxy.translate.stream import StreamTranslator
from proxy.types import Json, JsonObject

GATEWAY_SAMPLE: JsonObject = {
    "host": "127.0.0.1",
    "port": 8090,
    "version": "0",
    "default_model": "sample",
    "requests": 0,
}


NOW_SAMPLE = 1_700_000_000
REQUEST_ID_SAMPLE = "0123456789abcdef0123456789abcdef"
ELAPSED_SAMPLE: JsonObject = {"first": 0.5, "total": 2.0}


class Collected(NamedTuple):
    """The one answer that a stream was collected into; notes: what was repaired in its text."""

    answer: ClientAnswer
    notes: tuple[str, ...]


def sample_scope(route: Route, body: Json, worker: JsonObject) -> Scope:
    """What the route's expressions see of a request before its steps. worker: over the sample of the route's pack."""
    known: JsonObject = {**route.sample, **worker}
    return {
        "body": body,
        "query": {},
        "headers": {},
        "path": {},
        "listener": {},
        "gateway": dict(GATEWAY_SAMPLE),
        "worker": known,
        "models": [known],
        "now": NOW_SAMPLE,
        "request_id": REQUEST_ID_SAMPLE,
        "elapsed": dict(ELAPSED_SAMPLE),
    }


def variant_for(route: Route, backend: str | None) -> Route:
    """The route as it is for workers of a backend; None: of its pack's own. ValueError where it asks none of them."""
    if backend is None or backend == route.backend:
        return route
    if route.backends is None:
        return replace(route, sample={**route.sample, "backend": backend})
    if route.others is not None:
        return variant_for(route.others, backend)
    if backend not in route.variants:
        raise ValueError(f"the route '{route.name}' asks no worker of the kind '{backend}'")
    return replace(route.variants[backend][0], variants=route.variants)


class Part(NamedTuple):
    """The request for one element of a call's array, or the only one. scope: the client's for it."""

    built: Built
    scope: Scope


def run_parts(route: Route, scope: Scope, answer: Callable[[Question], Json]) -> list[Part]:
    """As `run_request`, for each element of the array where the call is made for several."""
    known: StepValues = {}
    parts = [Part(run_request(route, scope, answer, 0, known), scope)]
    for index in range(1, parts[0].built.elements):
        own = dict(scope)
        parts.append(Part(run_request(route, own, answer, index, known), own))
    return parts


def run_request(
    route: Route, scope: Scope, answer: Callable[[Question], Json], index: int = 0, known: StepValues | None = None
) -> Built:
    """The route's steps, put into `scope`, and its requests to the worker, whose part `answer` plays when a step asks.
    GatewayError where the request is refused. index, known: as for `build_request`.
    """
    run = build_request(route, scope, index, known)
    try:
        question = next(run)
        while True:
            question = run.send(answer(question))
    except StopIteration as done:
        built: Built = done.value
        return built


def wire_of(route: Route, chunks: Iterable[Json]) -> bytes:
    """The frames as the route's worker would send them."""
    return b"" if route.source is None else b"".join(route.source.framing.encode(orjson.dumps(each)) for each in chunks)


def frames_of(framing: Framing, wire: bytes) -> list[Json]:
    """The frames in a whole stream."""
    decoder = framing.new_decoder(FRAME_MAX_BYTES)
    return [orjson.loads(frame) for frame in [*decoder.feed(wire), *decoder.finish()]]


def play_stream(translator: StreamTranslator, source: StreamSource, reads: Iterable[bytes], *, cut: bool) -> bytes:
    """The bytes that the client gets for these of the worker, after which its connection ends or is cut."""
    decoder = source.framing.new_decoder(FRAME_MAX_BYTES)
    try:
        out = b"".join(translator.feed(frames) for read in reads if (frames := decoder.feed(read)))
        out += translator.feed(decoder.finish())
    except FramingError as error:
        out = translator.fail(GatewayError("upstream_protocol", str(error)))
    out += b"" if cut else translator.end()
    if cut or translator.lost is not None:
        out += translator.fail(translator.lost or _cut_off())
    return out


def play_collected(built: Built, scope: Scope, reads: Iterable[bytes], *, cut: bool) -> Collected:
    """The answer that the route makes of the worker's stream. GatewayError where it makes none. scope: the client's."""
    reader = read_collected(built, reads, cut=cut)
    answer = client_answer(built.route, {**scope, **client_results(built.route, scope, [collected(reader)])})
    return Collected(answer, tuple(reader.notes))


def read_collected(built: Built, reads: Iterable[bytes], *, cut: bool) -> StreamReader:
    """The worker's stream, read to its end. GatewayError where that is none."""
    route = built.route
    if route.source is None:
        raise GatewayError("internal", f"the rule at {route.place} reads no stream")
    reader = StreamReader(route.source, built.scope)
    decoder = route.source.framing.new_decoder(FRAME_MAX_BYTES)
    try:
        for frame in [frame for read in reads for frame in decoder.feed(read)] + decoder.finish():
            reader.read(frame)
    except FramingError as error:
        raise GatewayError("upstream_protocol", str(error)) from None
    if cut and not reader.complete:
        raise _cut_off()
    reader.end()
    return reader


def _cut_off() -> GatewayError:
    return GatewayError("upstream_reset", "the worker closed the connection in the middle of its answer")
