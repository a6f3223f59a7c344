"""Every shape of stream that FastChat's workers send (0.2.24 to main), through the shipped rule, at every split."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from proxy.types import Json, JsonObject
from tests.translate.building import Prepared, prepared, shipped_route
from tests.translate.playing import halves, judged, nul_wire, play

ROUTE = shipped_route("generate_stream")
BANNER = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"


def usage(completion: int) -> Json:
    return {"prompt_tokens": 7, "completion_tokens": completion, "total_tokens": 7 + completion}


def chunk(text: str, **more: Json) -> JsonObject:
    return {"text": text, "error_code": 0, **more}


class Shape(NamedTuple):
    chunks: list[JsonObject]
    text: str
    finish: str = "stop"
    notes: tuple[str, ...] = ()
    usage: bool = True
    frames: int | None = None
    stop: str | None = None


HF = [chunk("Hel", usage=usage(0), finish_reason=None), chunk("Hello", usage=usage(2), finish_reason=None)]
SHAPES = {
    "hf": Shape([*HF, chunk("Hello", usage=usage(2), finish_reason="stop")], "Hello", frames=3),
    "hf_length": Shape([*HF, chunk("Hello", usage=usage(2), finish_reason="length")], "Hello", "length"),
    "hf_logprobs": Shape(
        [
            chunk("H", usage=usage(0), finish_reason=None, logprobs={"text_offset": [0], "tokens": ["H"]}),
            chunk("Hi", usage=usage(1), finish_reason="stop", logprobs=None),
        ],
        "Hi",
    ),
    "hf_chinese": Shape(
        [
            chunk("你�", usage=usage(0), finish_reason=None),
            chunk("你好", usage=usage(1), finish_reason=None),
            chunk("你好😀", usage=usage(2), finish_reason=None),
            chunk("你好😀", usage=usage(2), finish_reason="stop"),
        ],
        "你好😀",
    ),
    "hf_half_at_the_end": Shape([chunk("a�", usage=usage(1), finish_reason="length")], "a�", "length"),
    "hf_only_a_half": Shape([chunk("��", usage=usage(1), finish_reason="length")], "��", "length", usage=False),
    "hf_nothing": Shape([chunk("", usage=usage(0), finish_reason="stop")], "", usage=False),
    "falcon_null_end": Shape(
        [*HF, chunk("Hello", usage=usage(2), finish_reason=None)], "Hello", notes=("finish_synthesized",)
    ),
    "chatglm": Shape([*HF, chunk("Hello", usage=usage(2), finish_reason="stop")], "Hello"),
    "cllm": Shape([*HF, chunk("", usage=usage(2), finish_reason="eos")], "Hello", notes=("text_shrunk",), frames=3),
    "vllm_old": Shape(
        [chunk("Hel", usage={}), chunk("Hello", usage={})], "Hello", notes=("finish_synthesized",), usage=False
    ),
    "vllm": Shape(
        [
            chunk("Hel", usage=usage(1), cumulative_logprob=[None], finish_reason=None),
            chunk("Hello", usage=usage(2), cumulative_logprob=[None], finish_reason=None),
            chunk("Hello", usage=usage(2), cumulative_logprob=[None], finish_reason="length"),
        ],
        "Hello",
        "length",
    ),
    "vllm_list": Shape(
        [chunk("Hel", usage=usage(1), finish_reason=[None]), chunk("Hello", usage=usage(2), finish_reason=["stop"])],
        "Hello",
    ),
    "vllm_cut_tail": Shape(
        [chunk("assist", usage=usage(1)), chunk("assis", usage=usage(1), finish_reason="stop")],
        "assist",
        notes=("text_shrunk",),
    ),
    "vllm_cut_stop": Shape(
        [chunk("Hi##", usage=usage(1)), chunk("Hi", usage=usage(1), finish_reason="stop")],
        "Hi",
        notes=("text_shrunk",),
        stop="###",
        usage=False,
    ),
    "sglang": Shape(
        [chunk("Hel", usage=usage(1)), chunk("Hello", usage=usage(2))], "Hello", notes=("finish_synthesized",)
    ),
    "lightllm_abort": Shape(
        [
            chunk("Hel", usage=usage(1), cumulative_logprob=-0.5, finish_reason=None),
            chunk("Hello", usage=usage(2), cumulative_logprob=-0.9, finish_reason="abort"),
        ],
        "Hello",
    ),
    "hf_api_no_final": Shape(
        [chunk("Hel", finish_reason=None), chunk("Hello", finish_reason=None)],
        "Hello",
        notes=("finish_synthesized",),
        usage=False,
    ),
    "hf_api": Shape([chunk("Hel", finish_reason=None), chunk("Hello", finish_reason="stop")], "Hello", usage=False),
    "dashinfer": Shape(
        [chunk("Hel", usage=usage(1)), chunk("Hello", usage=usage(2))], "Hello", notes=("finish_synthesized",)
    ),
    "mlx": Shape(
        [
            chunk("Hel", usage=usage(1), cumulative_logprob=[], finish_reason=None),
            chunk("Hello", usage=usage(2), cumulative_logprob=[], finish_reason="length"),
            chunk("Hello", usage={}, cumulative_logprob=[], finish_reason="length"),
        ],
        "Hello",
        "length",
    ),
    "mlx_empty_usage_with_the_finish": Shape(
        [chunk("Hello", usage=usage(2), finish_reason=None), chunk("Hello", usage={}, finish_reason="stop")], "Hello"
    ),
    "unknown_finish": Shape(
        [chunk("Hello", usage=usage(1), finish_reason="tool_calls")], "Hello", notes=("finish_synthesized",)
    ),
    "odd_usage": Shape(
        [
            chunk("Hel", usage=[1]),
            chunk("Hello", usage={"prompt_tokens": None, "total_tokens": 5}, finish_reason="stop"),
        ],
        "Hello",
        usage=False,
    ),
    "after_the_end": Shape(
        [chunk("Hello", usage=usage(1), finish_reason="stop"), chunk("Hello, and more", error_code=50001)], "Hello"
    ),
}


def scope(**request: Json) -> Prepared:
    body: JsonObject = {"model": "vicuna", "messages": [{"role": "human", "content": "Hi"}], **request}
    return prepared(ROUTE, body)


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_of_stream_reaches_dbgpt_whole(name: str) -> None:
    """What every version of DB-GPT reads is the whole text, once finished, with a usage that it can take."""
    shape = SHAPES[name]
    wire = nul_wire(shape.chunks)
    played = play(ROUTE, scope(stop=shape.stop), [wire])
    frames = judged(played.wire, cut_stop="#" if shape.stop else "")
    assert (frames[-1]["text"], frames[-1]["finish_reason"]) == (shape.text, shape.finish)
    assert ("usage" in frames[-1]) is shape.usage
    assert tuple(played.translator.reader.notes) == shape.notes
    assert played.translator.error is None
    assert shape.frames in {None, len(frames)}
    assert played.translator.sent_frames == len(frames)


@pytest.mark.parametrize("name", SHAPES)
def test_the_reads_of_a_socket_make_no_difference(name: str) -> None:
    """The same bytes come out wherever the worker's were cut, also inside a character."""
    shape = SHAPES[name]
    seen = scope(stop=shape.stop)
    wire = nul_wire(shape.chunks)
    whole = play(ROUTE, seen, [wire]).wire
    assert play(ROUTE, seen, [wire[place : place + 1] for place in range(len(wire))]).wire == whole
    for reads in halves(wire):
        assert play(ROUTE, seen, reads).wire == whole


def test_escaped_characters_are_the_same_characters() -> None:
    """Most workers write other scripts as escapes, one of them as they are; a read may end inside an escape."""
    shape = SHAPES["hf_chinese"]
    wire = b"".join(json.dumps(each).encode() + b"\0" for each in shape.chunks)
    assert b"\\ud83d\\ude00" in wire
    whole = play(ROUTE, scope(), [nul_wire(shape.chunks)]).wire
    assert all(play(ROUTE, scope(), reads).wire == whole for reads in halves(wire))


def test_keep_alives_of_the_worker_are_no_frames() -> None:
    """A bare NUL between frames changes nothing."""
    chunks = SHAPES["hf"].chunks
    padded = b"\0\0".join(nul_wire([each]) for each in chunks)
    assert play(ROUTE, scope(), [padded]).wire == play(ROUTE, scope(), [nul_wire(chunks)]).wire


def test_echo_puts_the_prompt_before_the_text() -> None:
    """The worker is never asked to echo; the gateway does it, in every frame, so that the text only grows."""
    frames = judged(play(ROUTE, scope(echo=True), [nul_wire(SHAPES["hf"].chunks)]).wire)
    assert [frame["text"] for frame in frames] == [
        f"Answer well. USER: Hi ASSISTANT:{text}" for text in ("He", "Hell", "Hello")
    ]


def test_a_text_that_is_a_list_is_an_error_and_not_a_crash() -> None:
    """An sglang worker that was asked to echo answers with a list for a text."""
    frames = judged(play(ROUTE, scope(), [nul_wire([chunk("Hel"), {"text": ["a", "b"], "error_code": 0}])]).wire)
    assert frames[-1]["error_code"] == 50001
    assert frames[-1]["text"] == "the worker's text is not a string but an array of 2"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            {"text": f"{BANNER}\n\n(CUDA out of memory (40 GiB))", "error_code": 50002},
            50002,
            "CUDA out of memory (40 GiB) (worker http://10.0.0.5:21002, model vicuna, error 50002)",
        ),
        (
            {"text": BANNER, "error_code": 50001},
            50001,
            "no reason was given (worker http://10.0.0.5:21002, model vicuna, error 50001)",
        ),
        (
            {"text": "Prompt tokens (9471) are too many", "error_code": 40303},
            40303,
            "Prompt tokens (9471) are too many (worker http://10.0.0.5:21002, model vicuna, error 40303)",
        ),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_an_error_of_the_worker_is_told_with_its_cause(error: JsonObject, code: int, text: str, before: int) -> None:
    """The banner goes, the cause, the worker and its code stay; the stream ends in one legal frame."""
    wire = nul_wire([*HF[:before], error])
    played = play(ROUTE, scope(), [wire])
    frames = judged(played.wire)
    assert len(frames) == before + 1
    assert frames[-1]["error_code"] == code
    assert frames[-1]["text"] == text
    assert played.translator.error is not None
    assert (played.translator.error.kind, played.translator.error.upstream_code) == ("upstream_error", code)
    assert all(play(ROUTE, scope(), reads).wire == played.wire for reads in halves(wire))
