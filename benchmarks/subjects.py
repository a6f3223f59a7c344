"""The programs that are measured side by side, each started in front of the same fake worker."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

import proxy
from benchmarks.answers import MARK_BLANK, MODEL, embedding_texts
from benchmarks.peers import LITELLM, python_for
from benchmarks.process import ROOT, Process, StartError, free_port, started
from benchmarks.scenarios import EMBEDDING_TEXTS
from tests.interop.environments import FASTCHAT_OPENAI, Environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from proxy.types import JsonObject

_RULES = Path(__file__).parent / "rules"
# A Python program with hundreds of imports on a busy machine.
_PEER_START_SECONDS = 90.0


def _nothing(chunks: int) -> JsonObject:
    return {}


@dataclass(frozen=True)
class Ask:
    """How one kind of request looks to one program: path, body, and the form of its answer (`streams.FORMS`).

    last: what the last frame of a cumulative answer must have, by the number of chunks.
    """

    path: str
    body: bytes
    form: str = "nul"
    last: Callable[[int], JsonObject] = _nothing


@dataclass
class Subject:
    """A running program; `asks` is by the route a scenario names, `process` is None where nothing is between.

    pids, idle_bytes: its processes and their memory before the first load, set once it is warm.
    """

    name: str
    base_url: str
    process: Process | None
    asks: Mapping[str, Ask]
    pids: list[int] = field(default_factory=list)
    idle_bytes: int = 0


def _json(**members: object) -> bytes:
    return orjson.dumps({"model": MODEL, **members})


_MARK = MARK_BLANK.decode()
_TEXTS = embedding_texts(EMBEDDING_TEXTS)
_SAID = f"USER: {_MARK} ASSISTANT:"
_PROMPT = _json(prompt=_SAID, temperature=0.7, max_new_tokens=5000, echo=False)
_STREAM = Ask("/worker_generate_stream", _PROMPT)
_COUNT = Ask("/count_token", _PROMPT, "worker-count")
_RELAYED = {"stream": _STREAM, "field": _STREAM}
# What the worker itself is asked: nothing between turns one dialect into the other.
_PASSED_ON = {
    **_RELAYED,
    "chat": _STREAM,
    "lines": _STREAM,
    "generate": Ask("/worker_generate", _PROMPT, "text"),
    "count": _COUNT,
    "embeddings": Ask("/worker_get_embeddings", _json(input=_TEXTS), "worker-vectors"),
}
_MESSAGES = _json(messages=[{"role": "human", "content": _MARK}], max_new_tokens=5000, echo=False)
_CHAT = _json(messages=[{"role": "user", "content": _MARK}], stream=True)
_OPENAI = {
    "chat": Ask("/v1/chat/completions", _CHAT, "sse"),
    "generate": Ask("/v1/chat/completions", _json(messages=[{"role": "user", "content": _MARK}]), "chat"),
    "embeddings": Ask("/v1/embeddings", _json(input=_TEXTS), "openai-vectors"),
}
_GATEWAY = {
    "stream": Ask("/api/worker/generate_stream", _MESSAGES),
    # The worker counts from 0, and its last frame repeats the count of the one before.
    "field": Ask("/bench/field/generate_stream", _MESSAGES, last=lambda chunks: {"tokens": max(chunks - 2, 0) + 1}),
    "chat": _OPENAI["chat"],
    "lines": Ask("/bench/lines/generate_stream", _MESSAGES, "ndjson"),
    "generate": Ask("/api/worker/generate", _MESSAGES, "text"),
    # DB-GPT's remote client (every version to 0.8.2) says no more than this.
    "count": Ask("/api/worker/count_token", orjson.dumps({"prompt": _SAID}), "count"),
    "embeddings": Ask("/api/worker/embeddings", _json(input=_TEXTS), "vectors"),
}

# Unbuffered and silent, with connections to the worker kept: nginx at its best for this work.
_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream worker {{ server {worker}; keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /ready {{ return 200; }}
    location / {{
      client_body_buffer_size 1m;
      proxy_pass http://worker;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def _direct(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    return Subject("direct", worker_url, None, _PASSED_ON)


def _nginx(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    program = shutil.which("nginx")
    if program is None:
        raise StartError("nginx is not installed (Debian package nginx)")
    port = free_port()
    own = folder / "nginx"
    own.mkdir()
    config = own / "nginx.conf"
    config.write_text(_NGINX.format(folder=own, worker=worker_url.removeprefix("http://"), port=port))
    process = stack.enter_context(
        started("nginx", [program, "-p", str(own), "-c", str(config), "-e", "stderr"], folder)
    )
    process.wait_for_answer(f"http://127.0.0.1:{port}/ready")
    return Subject("nginx", f"http://127.0.0.1:{port}", process, _PASSED_ON)


def _relay(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    command = [sys.executable, "-m", "benchmarks.plain_relay", worker_url]
    process = stack.enter_context(started("relay", command, folder))
    return Subject("relay", process.wait_for_address(), process, _RELAYED)


def _bytes(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    command = [sys.executable, "-m", "benchmarks.byte_relay", worker_url]
    process = stack.enter_context(started("bytes", command, folder))
    return Subject("bytes", process.wait_for_address(), process, _PASSED_ON)


def rule_folders() -> list[Path]:
    """The shipped rules and the benchmark's own."""
    return [ROOT / "rules", _RULES / "bench-worker"]


# The fake worker takes everything at once; with the usual limits requests would wait for it, as they should. A line of
# the log for each request is left out, as nginx's is.
_GATEWAY_SETTINGS = "balance: {worker_limit: 100000}\nlog: {level: warning}\n"


def _gateway(worker_url: str, folder: Path, stack: ExitStack, *, name: str = "gateway", processes: int = 1) -> Subject:
    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config = folder / f"{name}.yaml"
    config.write_text(_GATEWAY_SETTINGS)
    command = [sys.executable, "-m", "proxy", "serve", "--listen", listen, "--admin", admin, "--config", str(config)]
    for rules in rule_folders():
        command += ["--rules", str(rules)]
    command += ["--fastchat-worker", worker_url, "--workers", str(processes)]
    process = stack.enter_context(started(name, command, folder))
    process.wait_for_answer(f"http://{admin}/readyz")
    return Subject(name, f"http://{listen}", process, _GATEWAY)


def _gateway_of_two(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    subject = _gateway(worker_url, folder, stack, name="gateway-2", processes=2)
    subject.asks = {"stream": _GATEWAY["stream"]}
    return subject


def _peer(environment: Environment) -> str:
    python = python_for(environment)
    if python is None:
        raise StartError("its environment has not been built: make bench-peers")
    return str(python)


def _fastchat(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    port = free_port()
    command = [_peer(FASTCHAT_OPENAI), "-m", "fastchat.serve.openai_api_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--controller-address", worker_url]
    # It writes log files where it stands.
    process = stack.enter_context(started("fastchat", command, folder, cwd=folder, environment={"LOGDIR": str(folder)}))
    process.wait_for_answer(f"http://127.0.0.1:{port}/v1/models", _PEER_START_SECONDS)
    return Subject("fastchat", f"http://127.0.0.1:{port}", process, _OPENAI)


_LITELLM = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "{worker}/v1", api_key: none}}
"""
# Without these it looks for prices and news on the network, and writes a line for each request.
_LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "NO_DOCS": "True",
}


def _litellm(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM.format(model=MODEL, worker=worker_url))
    command = [_peer(LITELLM), "-m", "litellm.proxy.proxy_cli", "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--telemetry", "False", "--num_workers", "1"]
    process = stack.enter_context(started("litellm", command, folder, cwd=folder, environment=_LITELLM_ENVIRONMENT))
    process.wait_for_answer(f"http://127.0.0.1:{port}/health/liveliness", _PEER_START_SECONDS)
    return Subject("litellm", f"http://127.0.0.1:{port}", process, _OPENAI)


def versions() -> JsonObject:
    """The versions of what is measured; the peers' where they have been built."""
    found: JsonObject = {"gateway": proxy.__version__}
    if (program := shutil.which("nginx")) is not None:
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
        found["nginx"] = said.stderr.strip().rpartition("/")[2]
    for name, environment in (("fastchat", FASTCHAT_OPENAI), ("litellm", LITELLM)):
        if python_for(environment) is not None:
            found[name] = environment.steps[0].packages[0].rpartition("==")[2]
    return found


@dataclass(frozen=True)
class Starter:
    """How a program is started: takes the worker's URL, a folder for its files, and a stack that ends it; raises
    StartError. routes: what it can be asked.
    """

    start: Callable[[str, Path, ExitStack], Subject]
    routes: frozenset[str]
    scenarios: frozenset[str] | None = None
    """Where it is measured; None: wherever it has the route."""

    def takes(self, scenario: str, route: str) -> bool:
        return route in self.routes and (self.scenarios is None or scenario in self.scenarios)


STARTERS: dict[str, Starter] = {
    "direct": Starter(_direct, frozenset(_PASSED_ON)),
    "nginx": Starter(_nginx, frozenset(_PASSED_ON)),
    "bytes": Starter(_bytes, frozenset(_PASSED_ON)),
    "relay": Starter(_relay, frozenset(_RELAYED)),
    "gateway": Starter(_gateway, frozenset(_GATEWAY)),
    "gateway-2": Starter(_gateway_of_two, frozenset({"stream"}), frozenset({"thousand", "saturation"})),
    "fastchat": Starter(_fastchat, frozenset(_OPENAI)),
    "litellm": Starter(_litellm, frozenset(_OPENAI)),
}
