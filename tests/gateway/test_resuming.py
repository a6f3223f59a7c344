"""A stream that loses its worker goes on with another one, and its client sees one unbroken answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from proxy.types import JsonObject
from tests.gateway.rig import HELLO, running, with_script
from tests.gateway.scripted import LAST_CHUNK, STREAM, chunk, json_response, scripted
from tests.gateway.several import counted, preferring, view_of, with_scripts
from tests.gateway.storyteller import LENGTH, MANY, RESUMES, STORY, Pair, Storyteller, pair
from tests.hostile import Request, Visit

ERROR = chunk(json.dumps({"text": "CUDA out of memory", "error_code": 50002}).encode() + b"\0")


def assert_unbroken(frames: list[JsonObject], whole: list[JsonObject]) -> None:
    """The end is that of the unbroken stream, and the text only grew on the way there."""
    end = frames[-1]
    assert {name: end.get(name) for name in whole[-1]} == whole[-1]
    shown = ""
    for entry in frames:
        text = str(entry["text"])
        assert text.startswith(shown) or end is entry, (shown, text)
        assert entry["error_code"] == 0
        shown = text


LOSSES: dict[str, Callable[[], Storyteller]] = {
    "reset": Storyteller,
    "closed": lambda: Storyteller(closes=True),
    "broken frame": lambda: Storyteller(losing=chunk(b"{\0")),
    "error frame": lambda: Storyteller(losing=ERROR),
    "end without a reason": lambda: Storyteller(losing=LAST_CHUNK),
}


@pytest.mark.parametrize("kind", LOSSES)
async def test_a_loss_at_any_frame(kind: str) -> None:
    """Wherever the first worker is lost, also within a character, the answer is the one that a whole worker gives."""
    async with pair(LOSSES[kind]()) as both:
        whole = await both.ask(None)
        assert whole[-1]["text"] == STORY
        for place in range(LENGTH + 1):
            assert_unbroken(await both.ask(place), whole)
        assert await both.rig.outcomes() == {"ok": LENGTH + 2}
        resumed = await counted(both.rig, "gateway_resumed_streams_total")
        assert resumed.keys() == {("m", "ok")}
        assert resumed["m", "ok"] >= LENGTH - 3


async def test_what_the_other_worker_is_asked() -> None:
    """The prompt with the text so far behind it, without half a character, as many tokens less as it has, and to repeat
    it all."""
    async with pair(Storyteller()) as both:
        await both.ask(10, max_new_tokens=100)
        told = " Zwölf "
        assert STORY.encode()[:10].decode("utf-8", "replace") == f"{told}\ufffd"
        first, second = both.lost.bodies[-1], both.other.bodies[-1]
        assert second == {**first, "prompt": f"{first['prompt']}{told}", "max_new_tokens": 92, "echo": True}


@pytest.mark.parametrize("limit", [5, 9, 17])
async def test_a_limit_of_tokens_holds_for_all_parts_together(limit: int) -> None:
    """Lost anywhere before its limit the stream is as long as the unbroken one, and ends for the same reason."""
    story = "abcdefghijklmnopqrst"
    async with pair(Storyteller(story=story), Storyteller(story=story)) as both:
        whole = await both.ask(None, max_new_tokens=limit)
        assert (whole[-1]["text"], whole[-1]["finish_reason"]) == (story[:limit], "length")
        for place in range(limit + 1):
            assert_unbroken(await both.ask(place, max_new_tokens=limit), whole)


async def test_when_no_token_is_left_nobody_is_asked() -> None:
    """A stream that was lost between its last token and its finish is complete."""
    async with pair(Storyteller()) as both:
        frames = await both.ask(5, max_new_tokens=5)
        assert (frames[-1]["text"], frames[-1]["finish_reason"]) == (STORY[:4], "length")
        assert frames[-1]["usage"] == {"prompt_tokens": 16, "completion_tokens": 5, "total_tokens": 21}
        assert both.other.bodies == []
        assert await counted(both.rig, "gateway_resumed_streams_total") == {("m", "ok"): 1}


@pytest.mark.parametrize("stop", ["ein", "好", "st."])
async def test_a_stop_string_ends_it_wherever_it_was_lost(stop: str) -> None:
    """Also where the loss is within the stop string."""
    async with pair(Storyteller()) as both:
        whole = await both.ask(None, stop=[stop])
        assert whole[-1]["text"] == STORY[: STORY.index(stop)]
        for place in range(len(both.lost.frames(both.lost.bodies[-1])) + 1):
            assert_unbroken(await both.ask(place, stop=[stop]), whole)


async def test_echo_stays_that_of_the_first_prompt() -> None:
    """A caller who wants the prompt before the answer gets it once, and as it was first sent."""

    async def other_template(visit: Visit, _: Request) -> None:
        await visit.send(json_response({"conv": {
            "name": "o", "system_template": "{system_message}", "system_message": "Other.", "roles": ["Q", "ASSISTANT"],
            "messages": [], "offset": 0, "sep_style": 2, "sep": " ", "sep2": "</s>", "stop_str": None,
            "stop_token_ids": None,
        }}))  # fmt: skip

    lost, other = Storyteller(), Storyteller()
    async with (
        scripted({STREAM: lost}) as one,
        scripted({STREAM: other, "/worker_get_conv_template": other_template}) as two,
    ):
        two.arm()
        async with running(one.address, two.address, models=RESUMES) as rig:
            one.arm()
            frames = await Pair(rig, lost, other, [one, two]).ask(9, echo=True)
            assert frames[-1]["text"] == f"Go. USER: Hello ASSISTANT:{STORY}"
            assert str(other.bodies[0]["prompt"]).startswith("Other. Q: Hello ASSISTANT: Zw")


async def test_usage_is_counted_together_also_where_only_one_says_it() -> None:
    """Prompt tokens of the first request, completion tokens of all; a worker that counts nothing counts by frames."""
    async with pair(Storyteller(usage=False)) as both:
        frames = await both.ask(8)
        assert frames[-1]["usage"] == {"prompt_tokens": 16, "completion_tokens": LENGTH, "total_tokens": 16 + LENGTH}
    async with pair(Storyteller()) as both:
        await both.ask(8)
        seen = await counted(both.rig, "gateway_tokens_total")
        assert seen == {("m", "prompt"): 16, ("m", "completion"): LENGTH}


async def test_a_stall_is_a_loss() -> None:
    """A worker that falls silent in mid-stream is given up after the time between frames."""
    async with pair(Storyteller(stalls=True)) as both:
        whole = await both.ask(None)
        assert_unbroken(await both.ask(8), whole)


async def test_a_second_loss() -> None:
    """What was taken up by another worker may be lost again; each time it is another one."""
    tellers = [Storyteller() for _ in range(4)]
    balance = {"retries": {"attempts": 3}}
    async with with_scripts(*tellers, models=RESUMES, balance=balance) as (rig, workers):
        for teller in tellers[:2]:
            teller.lose_at = 7
        both = Pair(rig, tellers[0], tellers[1], workers)
        frames = await both.ask(7)
        assert (frames[-1]["text"], frames[-1]["error_code"]) == (STORY, 0)
        for teller in tellers:
            teller.lose_at = 5
        frames = await both.ask(5)
        assert frames[-1]["error_code"] == 50001
        assert frames[-2]["text"] == " Zwölf "
        asked = [len(teller.bodies) for teller in tellers]
        assert sum(asked) == 3 + 3 or sum(asked) == 2 + 3
        assert await counted(rig, "gateway_resumed_streams_total") == {("m", "ok"): 1, ("m", "failed"): 1}


async def test_without_the_setting_a_lost_stream_is_lost() -> None:
    """The operator has to ask for it, because another worker may say something else."""
    async with pair(Storyteller(), models={}) as both:
        frames = await both.ask(8)
        assert frames[-1]["error_code"] == 50001
        assert both.other.bodies == []


async def test_without_another_worker_the_client_is_told() -> None:
    """The text that it has stays, then comes the error; an end without a reason then is an end."""
    lost = Storyteller()
    async with with_script(STREAM, lost, models=RESUMES) as (rig, _):
        lost.lose_at = 8
        frames = await rig.stream(HELLO)
        assert [frames[-2]["text"], frames[-1]["error_code"]] == [STORY[:6], 50001]
        lost.losing = LAST_CHUNK
        frames = await rig.stream(HELLO)
        assert (frames[-1]["text"], frames[-1]["finish_reason"]) == (STORY[:7], "stop")
        assert await counted(rig, "gateway_resumed_streams_total") == {("m", "failed"): 2}
        assert await rig.outcomes() == {"ok": 1, "upstream_error": 1}


@pytest.mark.parametrize("kind", LOSSES)
async def test_a_collected_answer_is_begun_anew(kind: str) -> None:
    """Nobody has seen anything of it, so another worker tells all of it."""
    async with pair(LOSSES[kind]()) as both:
        both.lost.lose_at = 8
        with preferring(both.rig, *both.workers):
            answer = (await both.rig.post("generate", HELLO)).object
        assert answer["text"] == STORY
        assert both.other.bodies[0]["prompt"] == both.lost.bodies[0]["prompt"]


async def test_a_collected_answer_without_a_reason_stands_where_nobody_else_is() -> None:
    """Some workers never say why they end."""
    lost = Storyteller(losing=LAST_CHUNK)
    async with with_script(STREAM, lost, models=RESUMES) as (rig, worker):
        lost.lose_at = 8
        answer = (await rig.post("generate", HELLO)).object
        assert (answer["text"], answer["finish_reason"]) == (STORY[:7], "stop")
        assert view_of(rig, worker).outcomes["failure"] == 0


async def test_the_log_says_who_went_on(caplog: pytest.LogCaptureFixture) -> None:
    """One line of the request, with how often it was resumed and on how many workers it was."""
    caplog.set_level("INFO", "proxy.access")
    async with pair(Storyteller()) as both:
        await both.ask(8)
    (record,) = [record for record in caplog.records if record.getMessage() == "request"]
    assert (record.__dict__["resumed"], record.__dict__["attempts"]) == (1, 2)
    assert record.__dict__["worker"] == both.workers[1].address
    assert record.__dict__["outcome"] == "ok"


async def test_many_at_once_lose_their_worker() -> None:
    """Each goes on where it was, and none gets the text of another."""
    async with pair(Storyteller()) as both:
        both.lost.lose_at = 10
        with preferring(both.rig, *both.workers):
            answers = await asyncio.gather(*(both.rig.stream(HELLO) for _ in range(30)))
        assert {str(frames[-1]["text"]) for frames in answers} == {STORY}
        assert len(both.lost.bodies) >= 2


async def test_a_fallback_does_not_go_on_with_another_model_s_text() -> None:
    """What one model has begun another one cannot end: the client is told of the loss."""
    lost, other = Storyteller(), Storyteller()
    models = {"m": {"resume": True, "fallback": "n"}, "n": {"resume": True}}
    async with (
        scripted({STREAM: lost}, ["m"]) as one,
        scripted({STREAM: other}, ["n"]) as two,
        running(one.address, two.address, given={"models": models, "balance": MANY}) as rig,
    ):
        one.arm()
        two.arm()
        lost.lose_at = 8
        frames = await rig.stream(HELLO)
        assert [frames[-2]["text"], frames[-1]["error_code"]] == [STORY[:6], 50001]
        assert other.bodies == []


async def test_a_fallback_s_stream_goes_on_with_the_fallback_s_model() -> None:
    """Whoever answers is who has to go on, also when the model that was asked for is back meanwhile."""
    told = Storyteller()
    back: list[Callable[[], object]] = []

    async def lost_once(visit: Visit, request: Request) -> None:
        told.lose_at = None if told.bodies else 8
        back[0]()
        await told(visit, request)

    models = {"m": {"fallback": "n"}, "n": {"resume": True}}
    async with (
        scripted({}, ["m"]) as away,
        scripted({STREAM: lost_once}, ["n"]) as one,
        scripted({STREAM: lost_once}, ["n"]) as two,
        running(away.address, one.address, two.address, given={"models": models, "balance": MANY}) as rig,
    ):
        one.arm()
        two.arm()
        fleet = rig.gateway.fleet
        fleet.drain(away.address, time.monotonic())
        back.append(lambda: fleet.enable(away.address, time.monotonic()))
        frames = await rig.stream(HELLO)
        assert (frames[-1]["text"], frames[-1]["error_code"]) == (STORY, 0)
        assert (len(told.bodies), away.bodies(STREAM)) == (2, [])
