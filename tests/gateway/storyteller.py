"""A worker that goes on behind any beginning of its one story and can be lost at any frame, and a pair of such."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.types import Json, JsonObject
from tests.gateway.rig import HELLO, Rig, running
from tests.gateway.scripted import LAST_CHUNK, STREAM, STREAM_HEAD, ScriptedWorker, chunk, scripted
from tests.gateway.several import preferring
from tests.hostile import Request, Visit

ASKED = "ASSISTANT:"
STORY = " Zwölf 你好 🙂 einst."
LENGTH = len(STORY.encode())
RESUMES = {"m": {"resume": True}}
MANY = {"worker_limit": 40, "retries": {"burst": 1000}}
TIMES = {"first_seconds": 5.0, "idle_seconds": 0.1, "total_seconds": 5.0}


def tokens_of(text: str) -> int:
    """One token for each byte, so that every character begins with a new one."""
    return len(text.encode())


class Storyteller:
    """lose_at: frames of a request after which `losing` is sent and the connection is reset, closed in order or left as
    it is (None: never).

    It repeats its prompt where asked to, tells of its tokens as they are, holds back what may begin a stop string,
    and ends with the story, a stop string or when it may say no more. `bodies` has what it was asked.
    """

    def __init__(
        self,
        *,
        losing: bytes = b"",
        closes: bool = False,
        stalls: bool = False,
        usage: bool = True,
        story: str = STORY,
    ) -> None:
        self.lose_at: int | None = None
        self.stalls = stalls
        self.losing = losing
        self.closes = closes
        self.usage = usage
        self.story = story
        self.bodies: list[JsonObject] = []

    def frames(self, body: JsonObject) -> list[JsonObject]:
        prompt, most, stops = str(body["prompt"]), body.get("max_new_tokens"), body.get("stop") or []
        assert isinstance(most, int)
        assert isinstance(stops, list)
        head, _, told = prompt.rpartition(ASKED)
        assert self.story.startswith(told), f"no such beginning: {told!r}"
        rest = self.story[len(told) :].encode()
        echo = prompt if body.get("echo") else ""
        found: list[JsonObject] = []
        text, count, finish = "", 0, "stop"
        for count in range(1, len(rest) + 1):
            text = rest[:count].decode("utf-8", "replace")
            place = min((text.find(str(stop)) for stop in stops if str(stop) in text), default=-1)
            if place >= 0:
                text = text[:place]
                break
            begun = any(
                str(stop).startswith(text[-n:]) for stop in stops for n in range(1, len(str(stop))) if n <= len(text)
            )
            if not begun:
                found.append(self._frame(echo + text, len(head), tokens_of(told), count, None))
            if count == most:
                finish = "length"
                break
        found.append(self._frame(echo + text, len(head), tokens_of(told), count, finish))
        return found

    def _frame(self, text: str, prompt: int, told: int, count: int, finish: str | None) -> JsonObject:
        usage: JsonObject = {
            "prompt_tokens": prompt + told,
            "completion_tokens": count,
            "total_tokens": prompt + told + count,
        }
        return {"text": text, "error_code": 0, "usage": usage if self.usage else None, "finish_reason": finish}

    async def __call__(self, visit: Visit, request: Request) -> None:
        body = json.loads(request.body)
        self.bodies.append(body)
        await visit.send(STREAM_HEAD)
        for number, frame in enumerate(self.frames(body)):
            if number == self.lose_at:
                await asyncio.sleep(0.002)  # so that what came before is with the client
                await visit.send(self.losing)
                if self.stalls:
                    await visit.gone()
                if not self.closes:
                    visit.reset()
                raise ConnectionResetError
            await visit.send(chunk(json.dumps(frame).encode() + b"\0"))
        await visit.send(LAST_CHUNK)


class Pair:
    """A gateway with two tellers of one story, of which `lost` is asked first."""

    def __init__(self, rig: Rig, lost: Storyteller, other: Storyteller, workers: list[ScriptedWorker]) -> None:
        self.rig, self.lost, self.other, self.workers = rig, lost, other, workers

    async def ask(self, lose_at: int | None, **more: Json) -> list[JsonObject]:
        """The client's frames when the first worker is lost there."""
        self.lost.lose_at = lose_at
        with preferring(self.rig, *self.workers):
            return await self.rig.stream({**HELLO, **more})


@asynccontextmanager
async def pair(lost: Storyteller, other: Storyteller | None = None, **settings: object) -> AsyncIterator[Pair]:
    """Two tellers behind a gateway that resumes, with short time limits unless `timeouts` says otherwise."""
    other = other or Storyteller()
    async with (
        scripted({STREAM: lost}) as one,
        scripted({STREAM: other}) as two,
        running(
            one.address, two.address, given={"models": RESUMES, "timeouts": TIMES, "balance": MANY, **settings}
        ) as rig,
    ):
        one.arm()
        two.arm()
        yield Pair(rig, lost, other, [one, two])
