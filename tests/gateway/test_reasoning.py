"""What becomes of a model's thought, from its worker's socket to the client's."""

from __future__ import annotations

import pytest

from proxy.types import Json
from tests.gateway.rig import HELLO, with_script
from tests.gateway.scripted import LAST_CHUNK, STREAM, STREAM_HEAD, chunk, frame, sends
from tests.gateway.several import counted
from tests.gateway.storyteller import Storyteller, pair

SAID = [
    "<thi",
    "<think>\nWe",
    "<think>\nWell.</th",
    "<think>\nWell.</think>\n\nHel",
    "<think>\nWell.</think>\n\nHello.",
]
THINKING = STREAM_HEAD + b"".join(chunk(frame(text)) for text in SAID) + chunk(frame(SAID[-1], "stop")) + LAST_CHUNK


@pytest.mark.parametrize(
    ("reasoning", "text"),
    [
        (None, SAID[-1]),
        ({"as": "inline"}, SAID[-1]),
        ({"as": "drop"}, "Hello."),
        ({}, "<think>\nWell.\n</think>\n\nHello."),
        ({"open": "[[", "close": "]]", "as": "drop"}, SAID[-1]),
        ({"as": "inline", "begins_inside": True}, SAID[-1]),
    ],
)
async def test_the_text_has_the_thought_or_not(reasoning: dict[str, object] | None, text: str) -> None:
    """Where DB-GPT's programs have no field for a thought, it is in the text, or nowhere; a stream and one answer say
    the same, and the tokens are counted as the worker counts them.
    """
    models = {"m": {} if reasoning is None else {"reasoning": reasoning}}
    async with with_script(STREAM, sends(THINKING), models=models) as (rig, _):
        frames = await rig.stream(HELLO)
        assert frames[-1]["text"] == text
        assert frames[-1]["finish_reason"] == "stop"
        answer = (await rig.post("generate", HELLO)).object
        assert (answer["text"], answer["usage"]) == (text, frames[-1]["usage"])
        assert await rig.outcomes() == {"ok": 2}


async def test_a_thought_in_the_field_that_dbgpts_newer_programs_have() -> None:
    """All of it in each frame, beside all of the text; a frame with a text of its own as well would be refused."""
    models = {"m": {"reasoning": {"dbgpt": True}}}
    async with with_script(STREAM, sends(THINKING), models=models) as (rig, _):
        frames = await rig.stream(HELLO)
        thoughts = [frame for frame in frames if "content" in frame]
        assert all("text" not in frame for frame in thoughts)
        assert thoughts[0]["content"] == content("W", "")
        assert frames[-1]["content"] == content("Well.", "Hello.")
        answer = (await rig.post("generate", HELLO)).object
        assert (answer["content"], answer["usage"]) == (content("Well.", "Hello."), frames[-1]["usage"])


def content(thought: str, text: str) -> Json:
    """A thought and a text as DB-GPT's workers of 0.7.1 and later tell them."""
    return [
        {"type": "thinking", "object": {"data": thought, "format": "text"}},
        {"type": "text", "object": {"data": text, "format": "text"}},
    ]


async def test_a_missing_opening_tag_is_counted() -> None:
    """So that its operator finds out."""
    said = STREAM_HEAD + chunk(frame("Well.</think>Hello.", "stop")) + LAST_CHUNK
    async with with_script(STREAM, sends(said), models={"m": {"reasoning": {}}}) as (rig, _):
        assert (await rig.stream(HELLO))[-1]["text"] == "Well.Hello."
        assert (await counted(rig, "gateway_stream_notes_total"))["reasoning_unopened",] == 1


async def test_a_stream_that_loses_its_worker_within_its_thought() -> None:
    """The other worker is asked to go on behind the thought, tags and all; its client sees the answer only."""
    story = "<think>好 ü</think> Hello."
    models = {"m": {"resume": True, "reasoning": {"as": "drop"}}}
    async with pair(Storyteller(story=story), Storyteller(story=story), models=models) as both:
        whole = await both.ask(None)
        assert whole[-1]["text"] == "Hello."
        for place in range(0, len(story.encode()) + 1, 3):
            frames = await both.ask(place)
            assert (frames[-1]["text"], frames[-1]["usage"]) == ("Hello.", whole[-1]["usage"])
        assert any("<think>好" in str(body["prompt"]) for body in both.other.bodies)
