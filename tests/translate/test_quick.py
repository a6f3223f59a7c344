"""The quick way through a stream gives what the general way gives, frame by frame, whatever the worker sends."""

from __future__ import annotations

import json
from dataclasses import replace
from types import FunctionType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.functions import rule_functions
from proxy.framing import FRAMINGS
from proxy.ruleset import load_rules, shipped_rules
from proxy.ruleset.playing import NOW_SAMPLE, REQUEST_ID_SAMPLE
from proxy.translate.mapping import ChunkRead, Constant, Fields, OmitNull, RootRead, Value
from proxy.translate.plan import Route, StreamSource, StreamTarget
from proxy.translate.quick import quick_step
from proxy.translate.splice import SPLICE_FROM
from proxy.translate.stream import StreamTranslator
from proxy.types import Json, JsonObject
from tests.structure.sources import ROOT

LOADED = load_rules([shipped_rules(), *sorted((ROOT / "benchmarks" / "rules").iterdir())], rule_functions())
ROUTES = [
    variant
    for route in LOADED.table.routes
    for variant in ([each for ways in route.variants.values() for each in ways] if route.call else [route])
    if variant.source is not None and variant.target is not None
]
# Those whose workers say one key for each thing; for others there is only the general way.
QUICK = [route for route in ROUTES if route.target is not None and route.target.step is not None]


def named(route: Route) -> str:
    return route.name if route.asking is None else f"{route.name} {route.asking.backend} {route.asking.name}"


PIECES = ["", "a", "lo", " ", "数", "😀", "\ufffd", "\n", "\\", '"', "\0", "</s>"]
USAGES: list[Json] = [
    None,
    {},
    7,
    "7",
    {"prompt_tokens": 1},
    {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
]


OTHERS: dict[str, list[Json]] = {
    "usage": USAGES,
    "error_code": [0, 0, 0, 0, None, False, "", 50001],
    "finish_reason": [None, None, None, None, None, "stop", "length", "", ["stop"], 0],
    "logprobs": [None, {"tokens": ["a"]}],
}


@st.composite
def growing(draw: st.DrawFn) -> list[bytes]:
    """Frames of a worker: mostly what one sends, now and then what none should."""
    text = ""
    frames: list[bytes] = []
    as_python = draw(st.booleans())
    for _ in range(draw(st.integers(0, 12))):
        text += draw(st.sampled_from(PIECES))
        if draw(st.integers(0, 9)) == 0:
            text = text[: draw(st.integers(0, len(text)))]
        chunk: JsonObject = {"text": text}
        for key, values in OTHERS.items():
            if draw(st.booleans()):
                chunk[key] = draw(st.sampled_from(values))
        frame = json.dumps(chunk).encode() if as_python else orjson.dumps(chunk)
        odd = draw(st.integers(0, 40))
        frames.append({0: b"[]", 1: b"{", 2: b'{"text": 1}', 3: b"{}", 4: b"null"}.get(odd, frame))
    return frames


def scope_of(route: Route, *, echo: bool) -> JsonObject:
    steps: JsonObject = {"stop": ["</s>"], "prompt": "Say: ", "echo": echo, "event": {"object": "event"}}
    return {
        **route.sample,
        "body": {},
        "now": NOW_SAMPLE,
        "request_id": REQUEST_ID_SAMPLE,
        "call": {"echo": echo},
        "steps": steps,
        "worker": {**route.sample},
    }


def spoken(source: StreamSource, frames: list[bytes]) -> list[bytes]:
    """The frames as this worker would send them: with its own key for the text."""
    key = source.text.key if isinstance(source.text, ChunkRead) else "text"
    return [frame.replace(b'{"text":', orjson.dumps({key: 0})[:-2], 1) for frame in frames]


def both_ways(
    route: Route,
    source: StreamSource,
    target: StreamTarget,
    frames: list[bytes],
    *,
    echo: bool = False,
    resumable: bool = False,
) -> int:
    """How many frames went the quick way, after a comparison of everything with the general one. Then once more where
    each frame is long enough to be made of the one before.
    """
    _compared(route, source, target, frames, echo=echo, resumable=resumable, long=0)
    return _compared(route, source, target, frames, echo=echo, resumable=resumable, long=1_000_000)


def _compared(
    route: Route,
    source: StreamSource,
    target: StreamTarget,
    frames: list[bytes],
    *,
    echo: bool,
    resumable: bool,
    long: int,
) -> int:
    if target.step is not None and isinstance(target.step.run, FunctionType):
        target.step.run.__globals__["long"] = long
    scope = scope_of(route, echo=echo)
    client = None if route.call is None else scope
    plain = replace(target, step=None)
    general = StreamTranslator(source, plain, route.errors, scope, client=client, resumable=resumable)
    quick = StreamTranslator(source, target, route.errors, scope, client=client, resumable=resumable)
    taken = 0
    for frame in frames:
        expected = general.feed([frame])
        step = quick.quick
        got = step(quick, frame) if step is not None else None
        taken += got is not None
        if got is None:
            got = quick.feed([frame])
        assert same(target, got, expected)
        assert state(quick) == state(general)
    assert same(target, quick.end(), general.end())
    assert state(quick) == state(general)
    return taken


def same(target: StreamTarget, got: bytes, expected: bytes) -> bool:
    """Whether two frames are one; JSON that is passed on as it came may be spelled as it came."""
    before, after = target.framing.around or (b"", b"")
    if got == expected or not got or not expected:
        return got == expected
    left, right = (one.removeprefix(before).removesuffix(after) for one in (got, expected))
    return bool(orjson.loads(left) == orjson.loads(right))


def state(translator: StreamTranslator) -> tuple[object, ...]:
    reader = translator.reader
    return (
        *(translator.finished, translator.closed, translator.sent_frames, str(translator.lost), str(translator.error)),
        *(
            reader.finish,
            reader.usage,
            reader.logprobs,
            reader.frames,
            reader.last_text,
            reader.notes,
            reader.received(),
        ),
        *(reader.flow.whole, reader.flow.shown),
    )


@pytest.mark.parametrize("route", QUICK, ids=named)
@given(frames=growing(), echo=st.booleans(), resumable=st.booleans())
def test_the_rules_streams_come_out_the_same(route: Route, frames: list[bytes], *, echo: bool, resumable: bool) -> None:
    """Each shipped stream, and each that is measured, by whatever way its frames go."""
    assert route.source is not None
    assert route.target is not None
    both_ways(route, route.source, route.target, spoken(route.source, frames), echo=echo, resumable=resumable)


@pytest.mark.parametrize("route", QUICK, ids=named)
def test_usual_frames_go_the_quick_way(route: Route) -> None:
    """There is nothing to gain from a quick way that nothing takes: all but the first take it."""
    assert route.source is not None
    assert route.target is not None
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    texts = ["a", "a b", "a b c", "a b c d"] if route.source.mode == "cumulative" else ["a", " b", " c", " d"]
    frames = [orjson.dumps({"text": text, "error_code": 0, "usage": usage, "finish_reason": None}) for text in texts]
    assert both_ways(route, route.source, route.target, spoken(route.source, frames)) == 3


@pytest.mark.parametrize(
    "route", [route for route in QUICK if route.source and route.source.mode == "cumulative"], ids=named
)
def test_long_frames_are_made_of_those_before(route: Route) -> None:
    """What was read and written before is not read and written again, but where the worker's frame goes on as it is."""
    assert route.source is not None
    assert route.target is not None
    assert route.target.step is not None
    step = route.target.step.run
    assert isinstance(step, FunctionType)
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    frames = spoken(
        route.source,
        [orjson.dumps({"text": "word " * count, "error_code": 0, "usage": usage}) for count in range(900, 910)],
    )
    step.__globals__["long"] = SPLICE_FROM
    scope = scope_of(route, echo=False)
    client = None if route.call is None else scope
    translator = StreamTranslator(route.source, route.target, route.errors, scope, client=client)
    translator.feed(frames[:1])
    began = []
    for frame in frames[1:]:
        assert step(translator, frame)
        began.append(translator.spliced)
    chunk = route.target.usual or route.target.chunk
    chunk = chunk.inner if isinstance(chunk, OmitNull) else chunk
    assert (began[0] is None) == (isinstance(chunk, RootRead) and chunk.name == "chunk")
    assert all(each is began[0] for each in began)


FIELDS: dict[str, Value] = {
    "text": RootRead("text"),
    "maybe_text": OmitNull(RootRead("text")),
    "new": RootRead("new_text"),
    "usage": RootRead("usage"),
    "maybe_usage": OmitNull(RootRead("usage")),
    "finish": RootRead("finish"),
    "maybe_finish": OmitNull(RootRead("finish")),
    "logprobs": ChunkRead("logprobs"),
    "maybe_logprobs": OmitNull(ChunkRead("logprobs")),
    "whole": RootRead("chunk"),
    "constant": Constant({"a": [1, None]}),
    "computed": lambda scope: f"{scope['text']}|{scope['new_text']}|{scope['usage']}|{scope['finish']}",
}


@given(
    frames=growing(),
    names=st.lists(st.sampled_from(sorted(FIELDS)), unique=True),
    framing=st.sampled_from(["nul", "sse", "ndjson"]),
    modes=st.tuples(*[st.sampled_from(["cumulative", "incremental"])] * 2),
    hold_back=st.integers(0, 2),
)
def test_any_mapping_comes_out_the_same(
    frames: list[bytes], names: list[str], framing: str, modes: tuple[str, str], hold_back: int
) -> None:
    """Whichever fields a rule has, in whatever order, in each framing, with both kinds of text on both sides."""
    route = next(route for route in ROUTES if route.name == "worker_generate_stream")
    assert route.source is not None
    assert route.target is not None
    source = replace(route.source, mode="cumulative" if modes[0] == "cumulative" else "incremental")
    target = replace(
        route.target,
        framing=FRAMINGS[framing],
        mode="cumulative" if modes[1] == "cumulative" else "incremental",
        hold_back=hold_back,
        chunk=Fields([(name, FIELDS[name]) for name in names]),
        usual=None,
    )
    both_ways(route, source, replace(target, step=quick_step(source, target)), frames)


def test_a_text_that_is_told_twice_comes_out_the_same() -> None:
    """Each field that has the whole text has all of it, also where a frame is made of the one before."""
    route = next(route for route in ROUTES if route.name == "worker_generate_stream")
    assert route.source is not None
    assert route.target is not None
    chunk = Fields([("text", RootRead("text")), ("again", OmitNull(RootRead("text"))), ("usage", RootRead("usage"))])
    target = replace(route.target, mode="cumulative", hold_back=1, chunk=chunk, usual=None)
    frames = [orjson.dumps({"text": "word " * count, "error_code": 0}) for count in range(1, 6)]
    assert both_ways(route, route.source, replace(target, step=quick_step(route.source, target)), frames) == 4


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(OmitNull(RootRead("usage")), id="a bare name"),
        pytest.param(OmitNull(ChunkRead("delta")), id="a field of the frame"),
        pytest.param(OmitNull(lambda scope: None), id="whatever is null"),
    ],
)
def test_a_frame_that_is_null_is_left_out(chunk: Value) -> None:
    """By each of the ways: nothing is not something."""
    route = next(route for route in ROUTES if route.name == "worker_generate_stream")
    assert route.source is not None
    assert route.target is not None
    target = replace(route.target, hold_back=0, chunk=chunk, usual=None)
    frames = [orjson.dumps({"text": "word " * count, "error_code": 0}) for count in range(1, 5)]
    frames.append(orjson.dumps({"text": "word " * 5, "usage": {"prompt_tokens": 1}, "delta": {"a": 1}}))
    both_ways(route, route.source, replace(target, step=quick_step(route.source, target)), frames)
    client = StreamTranslator(route.source, replace(target, step=quick_step(route.source, target)), route.errors, {})
    assert client.feed(frames[:4]) == b""
    assert client.sent_frames == 0


def test_a_frame_that_only_counts_is_told_at_the_end() -> None:
    """Where the usage follows the finish, a frame without text says nothing to the client by whichever way it goes."""
    route = next(route for route in ROUTES if route.name == "worker_generate_stream")
    assert route.source is not None
    assert route.target is not None
    source = replace(route.source, mode="incremental", finish_at_end=True)
    target = replace(
        route.target, mode="incremental", hold_back=0, chunk=Fields([("new", RootRead("new_text"))]), usual=None
    )
    said: list[JsonObject] = [
        {"text": "a"},
        {"text": ""},
        {"text": "b", "finish_reason": "stop"},
        {"text": "", "usage": {"prompt_tokens": 1}},
    ]
    both_ways(route, source, replace(target, step=quick_step(source, target)), [orjson.dumps(each) for each in said])


@pytest.mark.parametrize("framing", ["nul", "sse", "ndjson"])
def test_a_frame_that_goes_on_as_it_came_stays_one_frame(framing: str) -> None:
    """A worker may break its JSON into lines; in a framing of lines that must not become several frames."""
    route = next(route for route in ROUTES if route.name == "worker_generate_stream")
    assert route.source is not None
    assert route.target is not None
    target = replace(route.target, framing=FRAMINGS[framing], hold_back=0, chunk=RootRead("chunk"))
    frames = [orjson.dumps({"text": text}, option=orjson.OPT_INDENT_2) for text in ("a", "ab")]
    whole = StreamTranslator(route.source, replace(target, step=quick_step(route.source, target)), route.errors, {})
    out = b"".join(
        (whole.quick(whole, frame) if whole.quick is not None else None) or whole.feed([frame]) for frame in frames
    )
    read = target.framing.new_decoder(1 << 20).feed(out)
    assert [orjson.loads(frame) for frame in read] == [{"text": "a"}, {"text": "ab"}]
