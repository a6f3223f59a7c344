"""DB-GPT's own Python clients behind a pipe: runs inside the DB-GPT environment, one JSON request and answer a line.

``python dbgpt_clients.py CONTROLLER``; a request is ``{"call": NAME, ...}`` with the arguments of the function of that
name below, its answer ``{"value": ...}`` or ``{"error": "Type: message"}``. A process of its own, started once, because
importing DB-GPT takes seconds and its requirements contradict the gateway's.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from typing import Any

# The answers have the pipe for themselves: DB-GPT prints to the standard output here and there, from its import on.
ANSWERS = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

# ruff: noqa: E402
from dbgpt.core import ModelMessage, ModelRequest
from dbgpt.model.base import WorkerApplyType
from dbgpt.model.cluster import WorkerApplyRequest, WorkerStartupRequest
from dbgpt.model.cluster.client import RemoteLLMClient
from dbgpt.model.cluster.embedding.remote_embedding import RemoteEmbeddings
from dbgpt_client import Client


class Clients:
    """Each public method is one call; what it returns must be JSON."""

    def __init__(self, controller: str) -> None:
        self.llm = RemoteLLMClient(controller)

    async def models(self) -> Any:
        return [asdict(model) for model in await self.llm.models()]

    async def count_token(self, model: str, prompt: str) -> Any:
        return await self.llm.count_token(model, prompt)

    async def generate(self, model: str, messages: list[dict[str, str]], **parameters: Any) -> Any:
        return (await self.llm.generate(request(model, messages, **parameters))).to_dict()

    async def generate_stream(self, model: str, messages: list[dict[str, str]], **parameters: Any) -> Any:
        outputs = self.llm.generate_stream(request(model, messages, stream=True, **parameters))
        return [output.to_dict() async for output in outputs]

    async def embed(self, model: str, texts: list[str]) -> Any:
        return await RemoteEmbeddings(model, self.llm.worker_manager).aembed_documents(texts)

    async def embed_blocking(self, model: str, texts: list[str]) -> Any:
        embeddings = RemoteEmbeddings(model, self.llm.worker_manager)
        return await asyncio.to_thread(embeddings.embed_documents, texts)

    async def supported_models(self) -> Any:
        return [asdict(each) for each in await self.llm.worker_manager.supported_models()]

    async def apply(self, model: str, kind: str) -> Any:
        wanted = WorkerApplyRequest(model=model, apply_type=WorkerApplyType(kind))
        return asdict(await self.llm.worker_manager.worker_apply(wanted))

    async def startup(self, model: str, host: str, port: int) -> Any:
        wanted = WorkerStartupRequest(host=host, port=port, model=model, worker_type="llm", params={})
        return await self.llm.worker_manager.model_startup(wanted)

    async def shutdown(self, model: str, host: str, port: int) -> Any:
        wanted = WorkerStartupRequest(host=host, port=port, model=model, worker_type="llm", params={})
        return await self.llm.worker_manager.model_shutdown(wanted)

    async def app_chat(self, base: str, **parameters: Any) -> Any:
        return plain(await Client(api_base=base).chat(**parameters))

    async def app_chat_stream(self, base: str, **parameters: Any) -> Any:
        return [plain(chunk) async for chunk in Client(api_base=base).chat_stream(**parameters)]


def plain(answer: Any) -> Any:
    """What the application's client gave, which for an error is the parsed body itself."""
    return answer if isinstance(answer, dict) else answer.model_dump()


def request(model: str, messages: list[dict[str, str]], *, stream: bool = False, **parameters: Any) -> Any:
    """DB-GPT's request object; roles are its own: system, human, ai."""
    return ModelRequest.build_request(model, [ModelMessage(**each) for each in messages], stream=stream, **parameters)


async def answer(clients: Clients, line: str) -> dict[str, Any]:
    """The answer to one line; whatever the client raises is the answer's error."""
    wanted = json.loads(line)
    try:
        return {"value": await getattr(clients, wanted.pop("call"))(**wanted)}
    except Exception as error:  # the tests look at the error a user of these clients would get
        return {"error": f"{type(error).__name__}: {error}"}


async def main(controller: str) -> None:
    """Answer line by line until the input ends."""
    clients = Clients(controller)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(clients, line)), file=ANSWERS, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
