"""OpenAI's own Python client put to work: runs inside the clients' environment, prints one JSON object.

``python openai_client.py BASE_URL MODEL``; the object has for each case below what the client's user gets: ``{"value":
...}`` without ids and times, or ``{"error": the exception's type, "status": ...}``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import openai

SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a gateway?"}]
TEXTS = ["The quick brown fox", "数据库", "a", "b", "c"]
GREEDY = {"temperature": 0, "max_tokens": 24}


class Cases:
    """Each public method is one case."""

    def __init__(self, url: str, model: str) -> None:
        self.name = model
        self.client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
        self.later = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)

    async def models(self) -> Any:
        return [each.id for each in self.client.models.list()]

    async def chat(self) -> Any:
        return plain(self.client.chat.completions.create(model=self.name, messages=SAID, **GREEDY))

    async def chat_later(self) -> Any:
        return plain(await self.later.chat.completions.create(model=self.name, messages=SAID, **GREEDY))

    async def chat_stream(self) -> Any:
        stream = self.client.chat.completions.create(model=self.name, messages=SAID, stream=True, **GREEDY)
        return [[each.choices[0].delta.content, each.choices[0].finish_reason] for each in stream if each.choices]

    async def chat_stream_later(self) -> Any:
        stream = await self.later.chat.completions.create(model=self.name, messages=SAID, stream=True, **GREEDY)
        return [[each.choices[0].delta.content, each.choices[0].finish_reason] async for each in stream if each.choices]

    async def completion(self) -> Any:
        return plain(self.client.completions.create(model=self.name, prompt=["The quick", "Größe"], **GREEDY))

    async def completion_logprobs(self) -> Any:
        wanted = {"prompt": "The quick", "logprobs": 1, "echo": True}
        return plain(self.client.completions.create(model=self.name, temperature=0, max_tokens=4, **wanted))

    async def completion_stream(self) -> Any:
        stream = await self.later.completions.create(model=self.name, prompt="The quick", stream=True, **GREEDY)
        return [[each.choices[0].text, each.choices[0].finish_reason] async for each in stream]

    async def embeddings(self) -> Any:
        """The client asks for base64 unless it is told otherwise."""
        found = self.client.embeddings.create(model=self.name, input=TEXTS)
        return [[each.index, rounded(each.embedding)] for each in found.data] + [plain(found.usage)]

    async def embeddings_as_numbers(self) -> Any:
        found = await self.later.embeddings.create(model=self.name, input=TEXTS, encoding_format="float")
        return [[each.index, rounded(each.embedding)] for each in found.data] + [plain(found.usage)]

    async def unknown_model(self) -> Any:
        return plain(self.client.chat.completions.create(model="nobody", messages=SAID, **GREEDY))

    async def unknown_model_streamed(self) -> Any:
        return list(self.client.chat.completions.create(model="nobody", messages=SAID, stream=True, **GREEDY))

    async def out_of_range(self) -> Any:
        return plain(self.client.chat.completions.create(model=self.name, messages=SAID, temperature=3))

    async def too_long(self) -> Any:
        long = [{"role": "user", "content": "数据库" * 2000}]
        return plain(self.client.chat.completions.create(model=self.name, messages=long, **GREEDY))


class Additions(Cases):
    """What the gateway has beside FastChat's server."""

    async def chat_helper(self) -> Any:
        """The client's own gathering of a stream, which takes no event without ``object`` for one."""
        wanted = {"temperature": 0, "max_tokens": 200, "stop": "e"}  # it raises where the limit ends an answer
        with self.client.chat.completions.stream(model=self.name, messages=SAID, **wanted) as stream:
            stream.until_done()
            final = stream.get_final_completion()
        return [final.choices[0].message.content, final.choices[0].finish_reason]

    async def image(self) -> Any:
        parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
        return plain(
            self.client.chat.completions.create(model=self.name, messages=[{"role": "user", "content": parts}])
        )

    async def one_model(self) -> Any:
        return self.client.models.retrieve(self.name).id

    async def no_model(self) -> Any:
        return self.client.models.retrieve("nobody").id

    async def usage_streamed(self) -> Any:
        wanted = {"stream": True, "stream_options": {"include_usage": True}}
        stream = self.client.chat.completions.create(model=self.name, messages=SAID, n=2, **wanted, **GREEDY)
        events = list(stream)
        return {"choices": len(events[-1].choices), "usage": plain(events[-1].usage)}


def plain(found: Any) -> Any:
    """What the client made of an answer, without what differs from call to call; None where there is none."""
    return found and {key: value for key, value in found.model_dump().items() if key not in ("id", "created")}


def rounded(vector: list[float]) -> list[float]:
    return [round(number, 4) for number in vector]


async def outcome(case: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    try:
        return {"value": await case()}
    except openai.APIStatusError as error:
        return {"error": type(error).__name__, "status": error.status_code, "message": str(error)}
    except openai.OpenAIError as error:
        return {"error": type(error).__name__, "message": str(error)}


async def main(cases: Cases) -> None:
    names = [name for each in type(cases).__mro__ for name in vars(each) if not name.startswith("_")]
    json.dump({name: await outcome(getattr(cases, name)) for name in sorted(set(names))}, sys.stdout)


if __name__ == "__main__":
    kind = Additions if sys.argv[3:] == ["--additions"] else Cases
    asyncio.run(main(kind(sys.argv[1], sys.argv[2])))
