"""What a recorded worker said, as if it said it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

import orjson

from proxy.errors import KINDS, GatewayError, Kind
from proxy.framing import Decoder
from proxy.limits import FRAME_MAX_BYTES
from proxy.recording.lines import Attempt, Exchange, Failure
from proxy.recording.redaction import Blackout
from proxy.translate.reader import StreamReader
from proxy.translate.request import Built
from proxy.translate.stream import StreamTranslator
from proxy.types import Json

# The outcome of a request whose client left.
CANCELLED: Final = "cancelled"
_WITHOUT_ANSWER: Final = frozenset({"upstream_refused", "upstream_timeout", "model_unavailable", "busy"})


def as_repeated(built: Built, blackout: Blackout | None) -> Built:
    """As its worker repeats a prompt, where texts were replaced: also the words of the template around them."""
    source = built.route.source
    echoed = None if source is None else source.echoed
    if source is None or echoed is None or blackout is None:
        return built
    blacked = replace(source, echoed=lambda scope: blackout.value(echoed(scope)))
    return built._replace(route=replace(built.route, source=blacked))


def played(
    translator: StreamTranslator, built: Built, attempt: Attempt, exchange: Exchange, *, goes_on: bool
) -> tuple[bytes, GatewayError | None]:
    """The bytes for the client that one worker's stream makes, and the error that it ends in. goes_on: another worker
    took it up.
    """
    source = built.route.source
    if source is None:
        raise GatewayError("internal", f"the rule at {built.route.place} reads no stream")
    check_status(exchange, attempt)
    out = b""
    try:
        for frame in frames_said(source.framing.new_decoder(FRAME_MAX_BYTES), exchange, translator.reader):
            out += translator.feed([frame])
    except ValueError as problem:
        if not translator.reader.complete:
            return out, failure_of(attempt, problem)
    if translator.lost is not None:
        return out, translator.lost
    if translator.reader.complete:
        return out + translator.end(), translator.lost
    if not exchange.complete or (goes_on and attempt.failure is not None):
        return out, failure_of(attempt)
    return out + translator.end(), translator.lost


def frames_said(decoder: Decoder, exchange: Exchange, reader: StreamReader) -> Iterator[bytes]:
    """The frames of a body as far as it is whole. ValueError where it is not: a broken framing, a frame that is not
    JSON, as long as the reader wants any.
    """
    frames = iter(decoder.feed(b"" if exchange.said is None else exchange.said.data))
    for frame in chain(frames, _last(decoder) if exchange.complete else ()):
        if reader.finish is None:
            orjson.loads(frame)
        yield frame


def _last(decoder: Decoder) -> Iterator[bytes]:
    yield from decoder.finish()  # once all the others were taken


def check_status(exchange: Exchange, attempt: Attempt) -> None:
    """The worker's failure, where it answered with an HTTP status that is one."""
    if exchange.status not in {None, 200}:
        raise failure_of(attempt)


def json_said(exchange: Exchange, attempt: Attempt) -> Json:
    """A whole answer. GatewayError where it is none."""
    check_status(exchange, attempt)
    if not exchange.complete or exchange.said is None:
        raise failure_of(attempt)
    try:
        value: Json = orjson.loads(exchange.said.data)
    except orjson.JSONDecodeError:
        raise failure_of(attempt) from None
    return value


def came_too_late(failure: Failure | None) -> bool:
    """Whether it ended in something that no answer was needed for: nobody to go to, or no time."""
    return failure is not None and failure.kind in _WITHOUT_ANSWER and failure.upstream_status is None


def failure_of(attempt: Attempt, problem: Exception | None = None) -> GatewayError:
    """What the worker failed with when it was recorded."""
    if attempt.failure is not None:
        return error_of(attempt.failure)
    said = "the worker's answer was not recorded to its end" if problem is None else str(problem)
    return GatewayError("upstream_protocol", said)


def error_of(failure: Failure) -> GatewayError:
    """A recorded failure as it was."""
    kind: Kind = failure.kind if failure.kind in KINDS else "internal"  # type: ignore[assignment]
    return GatewayError(
        kind,
        failure.message,
        field=failure.field,
        upstream_code=failure.upstream_code,
        upstream_status=failure.upstream_status,
    )
