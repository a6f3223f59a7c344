"""Starts the programs of FastChat: its controller, its workers, and its own OpenAI server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from proxy.types import Json
from tests.interop.programs import Program, Pythons, answers, as_list
from tests.interop.wire import get_json, post_json


def fastchat_controller(pythons: Pythons, folder: Path, port: int) -> Program:
    """FastChat's controller, answering."""
    program = Program(
        "fastchat-controller",
        [str(pythons.fastchat), "-m", "fastchat.serve.controller", "--host", "127.0.0.1", "--port", str(port)],
        folder,
    )
    program.wait_ready(lambda: answers(lambda: get_json(f"http://127.0.0.1:{port}/test_connection")))
    return program


@dataclass(frozen=True)
class ModelPlan:
    """A model in a worker, under one or more names; ``kind`` is the tiny model's."""

    names: tuple[str, ...]
    template: str
    kind: str = "plain"


@dataclass(frozen=True)
class WorkerPlan:
    """How a worker is started: a ``model_worker``, or with several models a ``multi_model_worker``."""

    port: int
    models: tuple[ModelPlan, ...]
    registered_as: str = ""
    """Its ``--worker-address``; left out: ``url``."""
    heartbeat_seconds: int = 45

    @property
    def url(self) -> str:
        """Where the tests call it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def names(self) -> list[str]:
        return [name for model in self.models for name in model.names]

    def template(self, name: str) -> str:
        return next(model.template for model in self.models if name in model.names)


def fastchat_worker(pythons: Pythons, folder: Path, plan: WorkerPlan, controller: str) -> Program:
    """A worker being started; call ``wait_worker`` before use, so that several load at the same time."""
    module = "model_worker" if len(plan.models) == 1 else "multi_model_worker"
    command = [str(pythons.fastchat), "-m", f"fastchat.serve.{module}", "--host", "127.0.0.1"]
    command += ["--port", str(plan.port), "--worker-address", plan.registered_as or plan.url]
    command += ["--controller-address", controller, "--device", "cpu"]
    for model in plan.models:
        command += ["--model-path", str(pythons.models[model.kind]), "--model-names", ",".join(model.names)]
        command += ["--conv-template", model.template]
    more = {"FASTCHAT_WORKER_HEART_BEAT_INTERVAL": str(plan.heartbeat_seconds)}
    return Program(f"fastchat-{module}-{plan.names[0]}", command, folder, more=more)


def wait_worker(program: Program, plan: WorkerPlan, controller: str) -> None:
    """Wait until the worker answers and its controller lists its models."""

    def listed(answer: Json) -> bool:
        return isinstance(answer, dict) and set(plan.names) <= {str(name) for name in as_list(answer["models"])}

    program.wait_ready(lambda: answers(lambda: post_json(f"{plan.url}/worker_get_status", {})))
    program.wait_ready(lambda: answers(lambda: post_json(f"{controller}/list_models", {}), listed))


def openai_server(pythons: Pythons, folder: Path, port: int, controller: str) -> Program:
    """FastChat's own OpenAI server, answering; it asks its controller only when it is asked itself."""
    command = [str(pythons.fastchat_openai), "-m", "fastchat.serve.openai_api_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--controller-address", controller]
    program = Program("fastchat-openai-api-server", command, folder)
    program.wait_ready(lambda: answers(lambda: get_json(f"http://127.0.0.1:{port}/openapi.json")))
    return program
