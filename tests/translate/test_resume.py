"""What the client sees when workers are lost and others go on, whatever they had said by then."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import GatewayError
from proxy.translate.reader import Received
from proxy.translate.request import Built, resumed_request
from proxy.translate.stream import StreamTranslator
from proxy.translate.text import Mode, TextFlow
from proxy.types import Json, JsonObject
from tests.translate.building import load_route, prepared, scope_of, shipped_route
from tests.translate.playing import judged

ROUTE = shipped_route("generate_stream")
STORY = "Hé 你好 🙂 end"


def frames(told: int) -> list[bytes]:
    """The rest of the story behind the prompt and `told` bytes, a frame for each byte, then one with the reason for the
    end. The prompt comes with it where there is something to go on from.
    """
    rest = STORY.encode()[told:]
    before = f"x{STORY.encode()[:told].decode()}" if told else ""
    texts = [before + rest[:count].decode("utf-8", "replace") for count in range(1, len(rest) + 1)]
    usage: list[Json] = [
        {"prompt_tokens": 3 + told, "completion_tokens": count, "total_tokens": 3 + told + count}
        for count in range(1, len(rest) + 1)
    ]
    found: list[Json] = [
        {"text": text, "error_code": 0, "usage": used} for text, used in zip(texts, usage, strict=True)
    ]
    nothing: JsonObject = {"prompt_tokens": 3 + told, "completion_tokens": 0, "total_tokens": 3 + told}
    used = usage[-1] if usage else nothing
    end: Json = {"text": before + rest.decode(), "error_code": 0, "usage": used, "finish_reason": "stop"}
    return [orjson.dumps(frame) for frame in [*found, end]]


def played(losses: list[int]) -> tuple[bytes, StreamTranslator]:
    """The client's stream when each worker but the last is lost after so many frames."""
    request = prepared(ROUTE, {"model": "vicuna", "prompt": "x", "chat_model": False})
    translator = request.translator(resumable=True)
    out = b""
    for loss in losses:
        received = translator.reader.received()
        assert "\ufffd" not in received.text
        assert received.tokens == len(received.text.encode())
        rest = frames(received.tokens)[:-1]
        out += translator.feed(rest[:loss])
        translator.resume(request.built.scope)
    out += translator.feed(frames(translator.reader.received().tokens))
    return out + translator.end(), translator


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), max_size=4))
def test_losses_anywhere_change_nothing_in_the_end(losses: list[int]) -> None:
    """Text, reason and usage of the last frame are those of one worker that was never lost; the text only grows."""
    wire, translator = played(losses)
    seen = judged(wire)
    expected = judged(played([])[0])[-1]
    if "usage" not in seen[-1]:  # the last worker had nothing new to say, as when all but the end was lost
        assert sum(losses) >= len(STORY.encode())
        expected.pop("usage")
    assert seen[-1] == expected
    assert translator.reader.usage == {"prompt_tokens": 3, "completion_tokens": 19, "total_tokens": 22}


@pytest.mark.parametrize(
    ("mode", "before", "after", "whole"),
    [
        ("cumulative", ["He", "Hel"], ["l", "lo"], "Hello"),
        ("cumulative", ["H", "H\ufffd"], ["é", "é!"], "Hé!"),
        ("cumulative", ["Hel"], ["", "lo"], "Hello"),
        ("cumulative", ["Hello", "He"], [" you"], "Hello you"),
        ("cumulative", [], ["Hello"], "Hello"),
        ("cumulative", ["\ufffd\ufffd"], ["好"], "好"),
        ("incremental", ["He", "l"], ["lo", "!"], "Hello!"),
        ("incremental", ["H", "\ufffd"], ["é"], "Hé"),
    ],
)
def test_a_flow_that_goes_on(mode: Mode, before: list[str], after: list[str], whole: str) -> None:
    """The new worker's text stands behind the old one's, and what was shown is a beginning of it."""
    flow = TextFlow(mode, 1, "> ")
    shown = ""
    for text in before:
        flow.add(text)
        shown = flow.advance()
    flow = flow.continued()
    assert flow.whole.startswith(shown)
    for text in after:
        flow.add(text)
        assert flow.advance().startswith(shown)
        shown = flow.advance()
    assert flow.finish(after[-1]) == f"> {whole}"


def test_a_text_that_was_taken_back_goes_on_from_what_was_shown() -> None:
    """A worker that rewrote its text into a shorter one does not make the client's shrink."""
    flow = TextFlow("cumulative")
    for text in ("abcdef", "xyz"):
        flow.add(text)
        flow.advance()
    assert flow.received == "abcdef"
    assert flow.continued().continued().whole == "abcdef"


def test_a_stop_string_across_a_loss_is_cut_off() -> None:
    """The last text may be shorter by a stop string that the other worker had begun to show."""
    flow = TextFlow("cumulative")
    flow.add("Hello")
    flow.advance()
    flow = flow.continued()
    flow.add(" you##")
    flow.advance()
    assert flow.finish(" you", ["###"]) == "Hello you"


@pytest.mark.parametrize(
    ("usage", "earlier", "merged"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}, Received("x", 4, 5), (5, 6, 11)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}, Received("x", 4, None), (5, 6, 11)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, Received("x", 4, None), (0, 6, 6)),
        ({"prompt_tokens": 9, "total_tokens": 9}, Received("x", 4, 5), (5, 4, 9)),
        ({"prompt_tokens": True, "completion_tokens": -1}, Received("x", 4, 5), (5, 4, 9)),
    ],
)
def test_usage_of_all_parts(usage: Json, earlier: Received, merged: tuple[int, int, int]) -> None:
    """The prompt of the first request, the completions together."""
    found = earlier.merged(usage)
    assert found == dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), merged, strict=True))
    assert earlier.merged(None) is None


TEXT = """
route: chat
description: x
match: {method: POST, path: /chat}
worker: {kind: llm, model: body.model}
request:
  path: /generate
  body: {fields: {text: body.text, most: body.most, seed: body.seed}}
  resume:
    text: join('|', [request.text, text])
    most: {from: "subtract(request.most, tokens)", type: integer, min: 1}
    seed: {from: body.other, type: integer}
stream:
  from: {framing: nul, text: cumulative, read: {text: chunk.text, finish: chunk.end}}
  to: {framing: nul, text: cumulative, chunk: {fields: {text: text}}}
"""


def test_the_rule_says_how_a_request_goes_on(tmp_path: Path) -> None:
    """Fields that it names are replaced or left out, others stay; out of range means that nothing is left."""
    route = load_route(tmp_path, TEXT)
    body: JsonObject = {"text": "a", "most": 5, "seed": 1, "more": True}
    built = Built(route, scope_of(route, {}), [body])
    assert resumed_request(built, body, "b", 4) == {"text": "a|b", "most": 1, "more": True}
    assert resumed_request(built, body, "b", 5) is None
    with pytest.raises(GatewayError, match="other: expected a whole number, got 'x'"):
        resumed_request(built._replace(scope=scope_of(route, {"other": "x"})), body, "b", 4)
    with pytest.raises(GatewayError, match="does not say how a lost stream goes on"):
        resumed_request(built._replace(route=shipped_route("count_token")), body, "b", 4)
