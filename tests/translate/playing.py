"""A worker's bytes played through a route, and a judge of what DB-GPT gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import orjson

from proxy.errors import GatewayError
from proxy.framing import FramingError
from proxy.translate.plan import Route
from proxy.translate.stream import StreamTranslator
from proxy.types import Json, JsonObject
from tests.translate.building import Prepared

Ending = Literal["clean", "cut", "open"]
LOST = "the worker closed the connection"


class Played(NamedTuple):
    wire: bytes
    translator: StreamTranslator


def play(
    route: Route, request: Prepared, reads: Iterable[bytes], ending: Ending = "clean", limit: int = 1 << 20
) -> Played:
    """The client's bytes for these reads of the worker's socket, taken as the server takes them."""
    assert route.source is not None
    assert route.target is not None
    decoder = route.source.framing.new_decoder(limit)
    translator = request.translator()
    out = b""
    try:
        for read in reads:
            out += translator.feed(decoder.feed(read))
        if ending == "clean":
            out += translator.feed(decoder.finish())
            out += translator.end()
        if translator.lost is not None:
            out += translator.fail(translator.lost)
    except FramingError as error:
        out += translator.fail(GatewayError("upstream_protocol", str(error)))
    if ending == "cut":
        out += translator.fail(GatewayError("upstream_reset", LOST))
    return Played(out, translator)


def halves(wire: bytes) -> Iterable[list[bytes]]:
    """The wire in two reads, cut at every place."""
    return ([wire[:place], wire[place:]] for place in range(len(wire) + 1))


def nul_wire(chunks: Iterable[Json]) -> bytes:
    """Chunks as FastChat's workers send them."""
    return b"".join(orjson.dumps(chunk) + b"\0" for chunk in chunks)


# What `ModelOutput(**frame)` takes in every version from 0.5.10 to 0.8.2, which has no `content` beside `text`.
KEYS = {"text", "error_code", "incremental", "model_context", "finish_reason", "usage", "metrics"}


def judged(wire: bytes, *, cut_stop: str = "") -> list[JsonObject]:
    """The frames, after a check that every version of DB-GPT reads them without loss, doubling or failure.

    cut_stop: what the last frame may take back of the text of the one before.
    """
    assert wire.endswith(b"\0"), "DB-GPT drops a tail without its NUL"
    frames: list[JsonObject] = [orjson.loads(frame) for frame in wire[:-1].split(b"\0")]
    shown = ""
    for position, frame in enumerate(frames):
        last = position == len(frames) - 1
        assert set(frame) <= KEYS
        text, code, usage, finish = (frame.get(name) for name in ("text", "error_code", "usage", "finish_reason"))
        assert isinstance(text, str)
        assert type(code) is int
        assert frame.get("incremental") is False
        assert finish in ({"stop", "length"} if last and not code else {None}), "it ends once, at the end"
        if code:
            assert last
            break
        assert text.startswith(shown) or (last and shown == text + cut_stop), "its slices by length must fit"
        assert usage is None or (isinstance(usage, dict) and usage)
        if isinstance(usage, dict):
            assert all(type(usage[name]) is int for name in ("prompt_tokens", "total_tokens"))
            if finish:
                assert text[len(shown) :].replace("�", ""), "its API server would tell the end twice"
        shown = text
    return frames
