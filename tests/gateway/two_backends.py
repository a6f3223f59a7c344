"""One model of two kinds of workers, `old` and `new`, which an invented dialect speaks to. Each says its name."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.types import JsonObject
from tests.gateway.client import Reply, call
from tests.gateway.rig import Rig, running
from tests.gateway.scripted import LAST_CHUNK, STREAM_HEAD, Part, chunk, json_response
from tests.hostile import Peer, Request, Visit, peer, response

FILES = {
    "talk/pack.yaml": "pack: talk\ndescription: x\nbackend: old\n",
    "talk/errors.yaml": """\
kinds: {model_unknown: {status: 404}, model_unavailable: {status: 503}, busy: {status: 503}, default: {status: 500}}
body: {fields: {detail: error.message, kind: error.kind}}
frame: {fields: {error: error.message}}
stream_status: 200
""",
    "talk/talk.yaml": """\
route: talk
description: x
match: {method: POST, path: /talk, when: body.stream}
worker: {kind: llm, model: body.model}
call: {operation: generate, with: {prompt: body.text}}
stream:
  to: {framing: sse, text: incremental, chunk: {fields: {said: text, end: finish}}}
""",
    "talk/whole.yaml": """\
route: whole
description: x
match: {method: POST, path: /talk}
like: talk
answer: {body: {fields: {said: text, model: worker.model, asked: worker.public_name}}}
""",
    "talk/length.yaml": """\
route: length
description: x
match: {method: POST, path: /length}
worker: {kind: llm, model: body.model}
call: {operation: count, with: {prompt: body.text}}
answer: {body: {fields: {tokens: count}}}
""",
    "backends/old/backend.yaml": """\
backend: old
description: x
sample: {model: m}
probe: {status: {path: /models, models: "answer.models"}, context_length: 100, limit: 4}
""",
    "backends/old/generate.yaml": """\
name: generate
operation: generate
description: x
request: {path: /old, body: {fields: {model: worker.model, text: call.prompt}}}
stream: {from: {framing: ndjson, text: incremental, read: {text: chunk.token, finish: chunk.done}}}
""",
    "backends/old/count.yaml": """\
name: count
operation: count
description: x
request: {path: /count, body: {fields: {text: call.prompt}}}
result: {fields: {count: upstream.n}}
""",
    "backends/new/backend.yaml": """\
backend: new
description: x
sample: {model: m}
probe: {status: {path: /models, models: "answer.models"}, context_length: 100, limit: 4}
""",
    "backends/new/generate.yaml": """\
name: generate
operation: generate
description: x
request: {path: /new, body: {fields: {model: worker.model, text: call.prompt}}}
stream: {from: {framing: sse, text: cumulative, read: {text: chunk.all, finish: chunk.why, error_code: chunk.error}}}
""",
    "backends/new/count.yaml": """\
name: count
operation: count
description: x
request: {path: /count, body: {fields: {text: call.prompt}}}
result: {fields: {count: upstream.n}}
""",
}  # fmt: skip
CALLS = {"old": "/old", "new": "/new"}


def write_packs(folder: Path, **changes: str) -> Path:
    """The packs, below this folder; `talk="old -> new"` replaces in talk.yaml."""
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        old, _, new = changes.get(file.stem, "").partition(" -> ")
        assert old in text
        file.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
    return folder


def frames(kind: str, name: str) -> list[bytes]:
    """A whole answer of such a worker, frame by frame."""
    first, last = name[:1], name[1:]
    if kind == "old":
        lines: list[JsonObject] = [{"token": first}, {"token": last, "done": "stop"}]
        return [json.dumps(line).encode() + b"\n" for line in lines]
    events: list[JsonObject] = [{"all": first}, {"all": name, "why": "stop"}]
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]


def answer(kind: str, name: str) -> bytes:
    return STREAM_HEAD + b"".join(chunk(frame) for frame in frames(kind, name)) + LAST_CHUNK


class Talker:
    """One worker, which answers well unless `part` says what it does; `asked` counts the requests for an answer."""

    def __init__(self, this: Peer, kind: str, name: str, part: Part | None) -> None:
        self.peer = this
        self.kind = kind
        self.name = name
        self.part = part

    @property
    def asked(self) -> list[Request]:
        return [request for request in self.peer.requests if request.path == CALLS[self.kind]]

    def declared(self, limit: int | None = None) -> JsonObject:
        return {"kind": self.kind, "url": self.peer.url, "probe_seconds": 600.0, "limit": limit}


@contextlib.asynccontextmanager
async def talker(kind: str, name: str, *models: str, part: Part | None = None) -> AsyncIterator[Talker]:
    """A worker that runs."""
    found: Talker

    async def script(visit: Visit) -> None:
        while True:
            request = await visit.request()
            if request.path == "/models":
                await visit.send(json_response({"models": [*(models or ("m",))]}))
            elif request.path == "/count":
                await visit.send(json_response({"n": len(name)}))
            elif request.path != CALLS[kind]:
                await visit.send(response(b"no such path", "404 Not Found"))
            elif found.part is not None:
                await found.part(visit, request)
            else:
                await visit.send(answer(kind, name))

    async with peer(script) as this:
        found = Talker(this, kind, name, part)
        yield found


@contextlib.asynccontextmanager
async def talking(
    folder: Path, *talkers: Talker, limit: int | None = None, busy_at_end: bool = False, **settings: object
) -> AsyncIterator[Rig]:
    """A gateway in front of these workers."""
    declared = [each.declared(limit) for each in talkers]
    async with running(rules=folder, busy_at_end=busy_at_end, given={"backends": declared, **settings}) as rig:
        yield rig


async def talk(rig: Rig, *, stream: bool = False, model: str = "m", **headers: str) -> Reply:
    body: JsonObject = {"model": model, "text": "Who?", "stream": stream}
    return await call(rig.listen, "POST", "/talk", body, **headers)


async def who(rig: Rig, times: int, *, stream: bool = False, **headers: str) -> Counter[str]:
    """Who answered so many requests."""
    found: Counter[str] = Counter()
    for _ in range(times):
        reply = await talk(rig, stream=stream, **headers)
        assert reply.status == 200, reply
        found[said(reply)] += 1
    return found


def said(reply: Reply) -> str:
    """The text of an answer or of a stream."""
    if reply.headers["content-type"] == "application/json":
        return str(reply.object["said"])
    events = [line.removeprefix("data: ") for line in reply.body.decode().splitlines() if line.startswith("data: {")]
    return "".join(str(json.loads(event).get("said", "")) for event in events)
