"""A request whose call is made for each element of an array: one response, several workers, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from proxy.framing import FRAMINGS
from proxy.limits import ELEMENTS_AT_ONCE, ELEMENTS_MAX
from proxy.ruleset.playing import frames_of
from proxy.types import Json, JsonObject
from tests.gateway.client import Connection, Reply, call
from tests.gateway.rig import Rig, running, until
from tests.gateway.scripted import (
    LAST_CHUNK,
    STREAM,
    STREAM_HEAD,
    ScriptedWorker,
    chunk,
    frame,
    json_response,
    scripted,
)
from tests.gateway.several import counted, verdicts
from tests.hostile import Request, Visit

PACK = "pack: parts\ndescription: Several answers to one request.\nbackend: fastchat\n"
ERRORS = """
kinds: {busy: {status: 503}, invalid_request: {status: 400}, default: {status: 502}}
body: {fields: {error: error.kind, says: error.message}}
frame: {fields: {error: error.kind, so_far: text}}
"""
TELL = """
route: tell
description: One stream behind the other.
match: {method: POST, path: /tell, when: body.stream}
worker: {kind: llm, model: body.model}
steps:
  - {set: parts, value: body.parts}
  - set: size
    when: body.count
    ask: {operation: count, with: {prompt: "join(' ', steps.parts)"}, result: count}
call: {operation: generate, each: steps.parts, with: {prompt: item, max_tokens: "add(body.most || `16`, index)"}}
stream:
  to:
    framing: sse
    also: [ndjson]
    text: incremental
    first: {fields: {part: index, begins: item, size: steps.size}}
    chunk: {fields: {part: index, text: new_text}, when: new_text}
    last: {fields: {part: index, text: new_text, end: finish, usage: usage}}
    final: {fields: {total: usage}}
tests:
  - name: one behind the other
    given:
      request: {model: m, stream: true, parts: [a, b]}
      chunks:
        - - {text: A, error_code: 0}
          - text: Aa
            error_code: 0
            finish_reason: stop
            usage: {prompt_tokens: 1, completion_tokens: 2, total_tokens: 3}
        - - {text: B, error_code: 0, finish_reason: length, usage: {prompt_tokens: 1, total_tokens: 2}}
    expect:
      upstream: [{prompt: a, max_new_tokens: 16}, {prompt: b, max_new_tokens: 17}]
      chunks:
        - {part: 0, begins: a}
        - {part: 0, text: A}
        - {part: 0, text: a, end: stop, usage: {total_tokens: 3}}
        - {part: 1, begins: b}
        - {part: 1, text: B, end: length}
        - {total: {prompt_tokens: 2, completion_tokens: 2, total_tokens: 5}}
  - name: the error of one is the end
    given:
      request: {model: m, stream: true, parts: [a, b]}
      chunks: [[{text: A, error_code: 1}], [{text: B, error_code: 0, finish_reason: stop}]]
    expect: {chunks: [{error: upstream_error}]}
  - name: no parts are no request
    given: {request: {model: m, stream: true, parts: []}}
    expect: {error: {kind: invalid_request, says: "expected 1 to 128 parts to answer, got 0"}}
  - name: neither is something else
    given: {request: {model: m, stream: true, parts: a}}
    expect: {error: {kind: invalid_request, says: got 'a'}}
"""
ANSWER = """
route: answer
description: All at once.
match: {method: POST, path: /tell}
like: tell
answer:
  body:
    fields:
      parts: results[].text
      ends: results[].finish
      thoughts: length(results[?reasoning])
      total: usage
      of: worker.model
      size: steps.size
tests:
  - name: in order
    given:
      request: {model: m, parts: [a, b]}
      chunks: [[{text: A, error_code: 0, finish_reason: stop}], [{text: B, error_code: 0, finish_reason: length}]]
    expect: {answer: {parts: [A, B], ends: [stop, length], thoughts: 0, of: vicuna}}
"""

Action = Callable[[Visit], Awaitable[None]]


class Teller:
    """A worker that answers each prompt as it is told to; the others in three frames. `begun` and `ended` have prompts
    in the order in which their answers began and were over, `most` how many there were at once.
    """

    def __init__(self, **actions: Action) -> None:
        self.actions = actions
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.counted = 0
        self.at_once = self.most = 0

    async def __call__(self, visit: Visit, request: Request) -> None:
        prompt = str(json.loads(request.body)["prompt"])
        self.begun.append(prompt)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            action = self.actions.get(prompt)
            await (tell(visit, prompt) if action is None else action(visit))
        finally:
            self.at_once -= 1
            self.ended.append(prompt)

    async def count(self, visit: Visit, _: Request) -> None:
        self.counted += 1
        await visit.send(json_response({"count": 7, "error_code": 0}))


async def tell(visit: Visit, prompt: str) -> None:
    """The prompt in capital letters."""
    said = prompt.upper()
    await visit.send(STREAM_HEAD, chunk(frame(said[:1])), chunk(frame(said)), chunk(frame(said, "stop")), LAST_CHUNK)


def slowly(prompt: str, seconds: float = 0.02) -> Action:
    async def action(visit: Visit) -> None:
        await asyncio.sleep(seconds)
        await tell(visit, prompt)

    return action


async def hangs(visit: Visit) -> None:
    await visit.gone()
    raise ConnectionResetError


async def hangs_midway(visit: Visit) -> None:
    await visit.send(STREAM_HEAD, chunk(frame("H")), chunk(frame("Ha")))
    await hangs(visit)


async def breaks(visit: Visit) -> None:
    raise ConnectionResetError


async def breaks_midway(visit: Visit) -> None:
    await visit.send(STREAM_HEAD, chunk(frame("Br")))
    await asyncio.sleep(0.01)
    visit.reset()


async def refuses(visit: Visit) -> None:
    await visit.send(STREAM_HEAD, chunk(json.dumps({"text": "no", "error_code": 40001}).encode() + b"\0"), LAST_CHUNK)


@pytest.fixture(name="rules", scope="module")
def _rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for name, text in (("pack", PACK), ("errors", ERRORS), ("tell", TELL), ("answer", ANSWER)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@contextlib.asynccontextmanager
async def served(rules: Path, *tellers: Teller, **settings: object) -> AsyncIterator[tuple[Rig, list[ScriptedWorker]]]:
    """A gateway with these rules in front of a worker for each teller; after it nothing is under way."""
    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(scripted({STREAM: teller, "/count_token": teller.count}))
            for teller in tellers
        ]
        rig = await stack.enter_async_context(
            running(*(worker.address for worker in workers), rules=rules, given=settings)
        )
        for worker in workers:
            worker.arm()
        yield rig, workers


async def asked(rig: Rig, parts: Sequence[Json], **more: Json) -> Reply:
    return await call(rig.listen, "POST", "/tell", {"model": "m", "parts": [*parts], **more})


async def told(rig: Rig, parts: Sequence[Json], framing: str = "sse", **more: Json) -> list[JsonObject]:
    """The frames of a stream, which has one end."""
    accept = FRAMINGS[framing].content_type
    reply = await call(
        rig.listen, "POST", "/tell", {"model": "m", "stream": True, "parts": [*parts], **more}, accept=accept
    )
    assert (reply.status, reply.headers["content-type"]) == (200, accept), reply
    mark = FRAMINGS[framing].terminator
    assert reply.body.endswith(mark)
    assert mark == b"" or reply.body.count(mark) == 1
    return [frame for frame in frames_of(FRAMINGS[framing], reply.body) if isinstance(frame, dict)]


def waiting(rig: Rig) -> int:
    """How many stand in a queue for a worker."""
    return sum(row[2] for row in rig.gateway.fleet.queues())


def texts(frames: list[JsonObject]) -> list[str]:
    """The text of each part."""
    parts = sorted({int(str(frame["part"])) for frame in frames if "part" in frame})
    return ["".join(str(frame.get("text", "")) for frame in frames if frame.get("part") == part) for part in parts]


@pytest.mark.parametrize("framing", ["sse", "ndjson"])
async def test_streams_one_behind_the_other(rules: Path, framing: str) -> None:
    """Each with its first and its last frame, one final frame and one end, on as many workers as there are."""
    tellers = [Teller(), Teller()]
    async with served(rules, *tellers) as (rig, workers):
        frames = await told(rig, ["one", "two", "three"], framing)
        assert texts(frames) == ["ONE", "TWO", "THREE"]
        assert [frame.get("begins") for frame in frames if "begins" in frame] == ["one", "two", "three"]
        assert [frame["end"] for frame in frames if "end" in frame] == ["stop"] * 3
        usages = [frame["usage"] for frame in frames if "usage" in frame]
        assert [dict(usage) if isinstance(usage, dict) else None for usage in usages] == [
            {"prompt_tokens": 3, "completion_tokens": size, "total_tokens": 3 + size} for size in (3, 3, 5)
        ]
        assert frames[-1] == {"total": {"prompt_tokens": 9, "completion_tokens": 11, "total_tokens": 20}}
        assert max(teller.most for teller in tellers) == 1
        assert await rig.outcomes() == {"ok": 1}
        done = sum(verdicts(rig, worker).get("success", 0) for worker in workers)
        assert done == 3
        tokens = await counted(rig, "gateway_tokens_total")
        assert sum(tokens.values()) == 20


async def test_answers_at_the_same_time_in_their_order(rules: Path) -> None:
    """Whichever is ready first; never more at once than the bound."""
    parts = [f"p{number}" for number in range(10)]
    teller = Teller(p0=slowly("p0", 0.05), **{part: slowly(part) for part in parts[1:]})
    async with served(rules, teller, balance={"worker_limit": 40}) as (rig, _):
        answer = (await asked(rig, parts)).object
        assert answer["parts"] == [part.upper() for part in parts]
        assert answer["ends"] == ["stop"] * 10
        assert answer["total"] == {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
        assert answer["of"] == "m"
        assert teller.most == ELEMENTS_AT_ONCE
        assert teller.ended[0] != "p0"
        assert await rig.outcomes() == {"ok": 1}


async def test_as_many_parts_as_there_may_be(rules: Path) -> None:
    """One more is refused, before anything is sent."""
    teller = Teller()
    async with served(rules, teller, balance={"worker_limit": 40}) as (rig, _):
        parts: list[Json] = ["a"] * ELEMENTS_MAX
        assert len(texts(await told(rig, parts))) == ELEMENTS_MAX
        answer = (await asked(rig, parts)).object
        assert answer["parts"] == ["A"] * ELEMENTS_MAX
        teller.begun.clear()
        for stream in (True, False):
            reply = await asked(rig, [*parts, "a"], stream=stream)
            assert (reply.status, reply.object["error"]) == (400, "invalid_request")
            assert str(reply.object["says"]).endswith(
                f"expected 1 to {ELEMENTS_MAX} parts to answer, got {ELEMENTS_MAX + 1}"
            )
        assert teller.begun == []


async def test_steps_are_worked_out_once_for_each_worker(rules: Path) -> None:
    """Not for each part: a question in them costs one call, and each frame can read its answer."""
    teller = Teller()
    async with served(rules, teller, balance={"worker_limit": 1}) as (rig, _):
        frames = await told(rig, ["a", "b", "c", "d"], count=True)
        assert [frame["size"] for frame in frames if "begins" in frame] == [7, 7, 7, 7]
        assert teller.counted == 1
        assert (await asked(rig, ["a", "b"], count=True)).object["size"] == 7


@pytest.mark.parametrize("stream", [True, False])
async def test_what_was_asked_for_a_part_is_not_held_to_the_end(tmp_path: Path, rules: Path, stream: bool) -> None:
    """Each has a prompt of its own, which may be long."""
    long = "x" * 1_000_000
    folder = tmp_path / "long"
    shutil.copytree(rules, folder)
    own = TELL.replace("prompt: item,", "prompt: \"join(' ', [item, body.long])\",").partition("tests:")[0]
    (folder / "tell.yaml").write_text(own, encoding="utf-8")
    (folder / "answer.yaml").write_text(ANSWER.partition("tests:")[0], encoding="utf-8")
    held: list[int] = []

    async def short(visit: Visit) -> None:
        await tell(visit, "z")

    async def weigh(visit: Visit) -> None:
        for mine in (teller.begun, teller.ended, workers[0].struck, workers[0].peer.requests):
            mine.clear()
        held.append(tracemalloc.get_traced_memory()[0])
        await short(visit)

    teller = Teller(**{f"{number} {long}": weigh if number in {2, 24} else short for number in range(26)})
    async with served(folder, teller, balance={"worker_limit": 1}) as (rig, workers):
        tracemalloc.start()
        try:
            assert (await asked(rig, [str(number) for number in range(26)], long=long, stream=stream)).status == 200
        finally:
            tracemalloc.stop()
        assert held[1] - held[0] < 10 * len(long)


async def test_a_worker_with_one_place_answers_all(rules: Path) -> None:
    """The parts wait for each other; none is lost and none is refused."""
    teller = Teller(b=slowly("b"))
    async with served(rules, teller, balance={"worker_limit": 1}) as (rig, _):
        assert (await asked(rig, ["a", "b", "c"])).object["parts"] == ["A", "B", "C"]
        assert texts(await told(rig, ["a", "b", "c"])) == ["A", "B", "C"]
        assert teller.most == 1


@pytest.mark.parametrize("queue", [{"queue_seconds": 0.05}, {"queue_length": 0}, {"queue_length": 1}])
@pytest.mark.parametrize("limit", [1, 2])
async def test_the_parts_of_one_request_are_not_in_each_other_s_way(
    rules: Path, queue: dict[str, float], limit: int
) -> None:
    """Where they may not wait so long, or not so many of them, for the places that others of them have."""
    parts: list[Json] = ["a", "b", "c", "d", "e", "f"]
    teller = Teller(**{str(part): slowly(str(part), 0.1) for part in parts})
    async with served(rules, teller, balance={"worker_limit": limit, **queue}) as (rig, _):
        reply = await asked(rig, parts)
        assert reply.object.get("parts") == ["A", "B", "C", "D", "E", "F"], reply
        assert teller.most == limit
        assert sorted(teller.begun) == parts


@pytest.mark.parametrize("stream", [True, False])
async def test_all_parts_go_to_the_same_side_of_a_split(rules: Path, stream: bool) -> None:
    """One response is of one model; it says which."""
    mine, other = Teller(), Teller()
    split: list[Json] = [{"weight": 1, "model": "m"}, {"weight": 1, "model": "n"}]
    async with (
        scripted({STREAM: mine}) as one,
        scripted({STREAM: other}, ["n"]) as two,
        running(one.address, two.address, rules=rules, given={"models": {"m": {"split": split}}}) as rig,
    ):
        one.arm()
        two.arm()
        rig.gateway._rng.seed(7)
        for _ in range(12):
            await asked(rig, ["a", "b", "c", "d"], stream=stream)
            assert {len(mine.begun) % 4, len(other.begun) % 4} == {0}
        assert mine.begun
        assert other.begun


async def test_a_part_that_others_keep_from_every_worker_is_refused(rules: Path) -> None:
    """It waits for what its own request does, and for strangers as long as any request may."""
    teller = Teller(x=hangs_midway)
    async with served(rules, teller, balance={"worker_limit": 1, "queue_seconds": 0.05}) as (rig, _):
        stranger = await Connection.open(rig.listen)
        await stranger.request("POST", "/tell", {"model": "m", "stream": True, "parts": ["x"]})
        await until(lambda: teller.begun == ["x"], lambda: "not begun")
        reply = await asked(rig, ["a", "b", "c"])
        assert (reply.status, reply.object["error"]) == (503, "busy")
        await stranger.leave()
        await rig.quiet()
        assert teller.begun == ["x"]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_part_whose_worker_fails_goes_to_another(rules: Path, place: int, stream: bool) -> None:
    """As a request of its own would, and its client sees nothing of it."""
    parts = ["a", "b", "c"]
    tellers = [Teller(**{parts[place]: breaks}), Teller()]
    async with served(rules, *tellers) as (rig, workers):
        for _ in range(4):
            if stream:
                assert texts(await told(rig, parts)) == ["A", "B", "C"]
            else:
                assert (await asked(rig, parts)).object["parts"] == ["A", "B", "C"]
        assert await rig.outcomes() == {"ok": 4}
        assert ("failure" in verdicts(rig, workers[0])) == (parts[place] in tellers[0].begun)


@pytest.mark.parametrize("broken", [breaks, breaks_midway, refuses])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_part_that_fails_is_the_end_of_the_stream(rules: Path, broken: Action, place: int) -> None:
    """In the dialect's error frame, once the response has begun; what is behind it is not asked for."""
    parts = ["a", "b", "c"]
    teller = Teller(**{parts[place]: broken})
    async with served(rules, teller, balance={"retries": {"attempts": 1}}) as (rig, worker):
        if place == 0 and broken is not breaks_midway:
            reply = await asked(rig, parts, stream=True)
            assert (reply.status, "error" in reply.object) == (502, True)
        else:
            frames = await told(rig, parts)
            assert frames[-1]["error"] in {"upstream_reset", "upstream_error"}
            assert frames[-1]["so_far"] == ("Br" if broken is breaks_midway else "")
            assert texts(frames)[:place] == ["A", "B", "C"][:place]
            assert sum("total" in frame for frame in frames) == 0
        assert list(dict.fromkeys(teller.begun)) == parts[: place + 1]
        assert await rig.outcomes() == {"upstream_error": 1}
        await rig.quiet()
        assert verdicts(rig, worker[0]).get("success", 0) == place


@pytest.mark.parametrize("broken", [breaks, breaks_midway, refuses])
async def test_a_part_that_fails_is_the_failure_of_the_answer(rules: Path, broken: Action) -> None:
    """The others are given up at once: their workers are free, and nothing is held against them."""
    teller = Teller(a=hangs, b=hangs_midway, c=broken)
    async with served(rules, teller, balance={"retries": {"attempts": 1}}) as (rig, workers):
        reply = await asked(rig, ["a", "b", "c", "d"])
        assert reply.status == 502
        await rig.quiet()
        await until(lambda: teller.at_once == 0, lambda: f"still there: {teller.begun} {teller.ended}")
        assert "d" in teller.begun
        assert await rig.outcomes() == {"upstream_error": 1}
        assert verdicts(rig, workers[0]).get("failure", 0) <= 1
        assert verdicts(rig, workers[0]).get("neutral", 0) >= 2


leaving = pytest.mark.parametrize("reset", [False, True], ids=["closing", "resetting"])
PHASES: dict[str, tuple[dict[str, Action], bool, int]] = {
    "before the first part": ({"a": hangs}, True, 1),
    "within the first part": ({"a": hangs_midway}, True, 1),
    "before the second part": ({"b": hangs}, True, 2),
    "within the second part": ({"b": hangs_midway}, True, 2),
    "within the last part": ({"c": hangs_midway}, True, 3),
    "while all are asked": ({"a": hangs, "b": hangs_midway, "c": hangs}, False, 3),
    "while one is left": ({"b": hangs_midway}, False, 3),
}


@leaving
@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_leaves_ends_them_all(rules: Path, phase: str, reset: bool) -> None:
    """Each worker is free at once, and no further part is asked for."""
    actions, stream, count = PHASES[phase]
    teller = Teller(**actions)
    async with served(rules, teller) as (rig, workers):
        connection = await Connection.open(rig.listen)
        await connection.request("POST", "/tell", {"model": "m", "stream": stream, "parts": ["a", "b", "c"]})
        await until(lambda: len(teller.begun) == count, lambda: f"only {teller.begun} were asked")
        await until(lambda: len(teller.ended) == count - len(actions), lambda: f"not over: {teller.ended}")
        await connection.leave(reset=reset)
        await until(lambda: teller.at_once == 0, lambda: "a worker is still busy", 1)
        await rig.quiet()
        assert await rig.outcomes() == {"cancelled": 1}
        assert len(teller.begun) == count
        assert verdicts(rig, workers[0]).get("failure", 0) == 0


@leaving
async def test_a_client_that_leaves_while_a_part_waits_for_a_worker(rules: Path, reset: bool) -> None:
    """Nobody stands in the queue for it any more."""
    teller = Teller(b=hangs_midway)
    async with served(rules, teller, balance={"worker_limit": 1}) as (rig, _):
        other = await Connection.open(rig.listen)
        await other.request("POST", "/tell", {"model": "m", "stream": True, "parts": ["b"]})
        await until(lambda: teller.begun == ["b"], lambda: "not begun")
        for stream in (True, False):
            connection = await Connection.open(rig.listen)
            await connection.request("POST", "/tell", {"model": "m", "stream": stream, "parts": ["a", "c"]})
            await until(lambda: waiting(rig) == 1, lambda: "does not wait")
            await connection.leave(reset=reset)
            await until(lambda: waiting(rig) == 0, lambda: "still waits", 1)
        await other.leave()
        await rig.quiet()
        assert teller.begun == ["b"]


@pytest.mark.parametrize("action", [hangs, hangs_midway])
async def test_a_gateway_that_stops_ends_a_later_part_in_an_error(rules: Path, action: Action) -> None:
    """In whichever phase it is: the client is told, and its response has an end."""
    teller = Teller(b=action)
    async with served(rules, teller) as (rig, _):
        asking = asyncio.ensure_future(told(rig, ["a", "b", "c"]))
        await until(lambda: "b" in teller.begun, lambda: f"only {teller.begun}")
        await asyncio.sleep(0.02)
        assert rig.gateway.gateway is not None
        await rig.gateway.gateway.cut()
        frames = await asking
        assert frames[-1]["error"] == "model_unavailable"
        assert texts(frames)[0] == "A"


async def test_a_gateway_that_stops_between_two_parts_begins_no_further_one(rules: Path) -> None:
    """The part is told to its end, and its worker has not closed its answer yet; the response is not whole."""

    async def lingers(visit: Visit) -> None:
        await visit.send(STREAM_HEAD, chunk(frame("A")), chunk(frame("A", "stop")))
        await hangs(visit)

    teller = Teller(a=lingers)
    async with served(rules, teller) as (rig, _):
        asking = asyncio.ensure_future(told(rig, ["a", "b"]))
        await until(lambda: teller.begun == ["a"], lambda: f"only {teller.begun}")
        await asyncio.sleep(0.05)
        assert rig.gateway.gateway is not None
        await rig.gateway.gateway.cut()
        frames = await asking
        assert (texts(frames)[0], frames[-1].get("error")) == ("A", "model_unavailable")
        assert teller.begun == ["a"]


async def test_a_client_that_reads_slowly_gets_every_part(rules: Path) -> None:
    """No more is read from workers than fits, and the parts stay in order."""
    long = "y" * 6_000_000

    async def much(visit: Visit) -> None:
        await visit.send(STREAM_HEAD, chunk(frame("y")), chunk(frame(long)), chunk(frame(long, "stop")), LAST_CHUNK)

    teller = Teller(a=much, b=much, c=much)
    async with served(rules, teller) as (rig, _):
        connection = await Connection.open(rig.listen, receive_buffer=4096)
        await connection.request("POST", "/tell", {"model": "m", "stream": True, "parts": ["a", "b", "c"]})
        await asyncio.sleep(0.1)
        assert teller.begun == ["a"]
        reply = await connection.reply()
        await connection.leave()
        frames = [frame for frame in frames_of(FRAMINGS["sse"], reply.body) if isinstance(frame, dict)]
        assert texts(frames) == [long] * 3
        assert frames[-1]["total"]
        assert await rig.outcomes() == {"ok": 1}


@pytest.mark.parametrize("seed", range(3))
async def test_a_crowd_in_which_everything_goes_wrong(rules: Path, seed: int) -> None:
    """Workers fail in every way and clients leave at any time: whatever came of each, nothing stays under way."""
    rng = random.Random(seed)
    ways: list[Action | None] = [None, None, None, hangs_midway, breaks, breaks_midway, refuses, slowly("x")]
    names = [f"p{number}" for number in range(60)]
    tellers = [Teller(**{name: way for name in names if (way := rng.choice(ways)) is not None}) for _ in range(3)]

    async def client(rig: Rig) -> None:
        parts: list[Json] = [rng.choice(names) for _ in range(rng.randint(1, 6))]
        connection = await Connection.open(rig.listen)
        await connection.request("POST", "/tell", {"model": "m", "stream": rng.random() < 0.5, "parts": parts})
        reading = asyncio.ensure_future(connection.reply())
        if (await asyncio.wait({reading}, timeout=rng.choice([0.02, 0.1, 0.3])))[0]:
            reply = reading.result()
            assert reply.status in {200, 502, 503}, reply
            if reply.headers["content-type"] == "text/event-stream":
                assert reply.body.count(b"data: [DONE]") == 1
        await connection.leave(reset=rng.random() < 0.5)
        await asyncio.gather(reading, return_exceptions=True)

    limits = {"worker_limit": 4, "retries": {"attempts": 2, "burst": 1000}, "breaker": {"failures": 1000}}
    async with served(rules, *tellers, balance=limits) as (rig, _):
        await asyncio.gather(*(client(rig) for _ in range(60)))
        await rig.quiet()
        await until(lambda: not any(teller.at_once for teller in tellers), lambda: "a worker is still busy")
        assert sum((await rig.outcomes()).values()) == 60
