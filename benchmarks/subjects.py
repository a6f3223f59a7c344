"""The programs that are measured side by side, each started in front of the same fake worker."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from benchmarks.answers import MODEL
from benchmarks.process import Process, StartError, free_port, started

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack
    from pathlib import Path


@dataclass(frozen=True)
class Ask:
    """How one kind of request looks to one program: path, body, and the framing of its answer."""

    path: str
    body: bytes
    framing: str = "nul"


@dataclass(frozen=True)
class Subject:
    """A running program; `asks` is by the route a scenario names, `process` is None where nothing is between."""

    name: str
    base_url: str
    process: Process | None
    asks: Mapping[str, Ask]


_PASSED_ON = {
    "generate_stream": Ask(
        "/worker_generate_stream",
        orjson.dumps({"model": MODEL, "prompt": "USER: hi ASSISTANT:", "temperature": 0.7, "echo": False}),
    )
}
_GATEWAY = {
    "generate_stream": Ask(
        "/api/worker/generate_stream",
        orjson.dumps({"model": MODEL, "messages": [{"role": "human", "content": "hi"}], "echo": False}),
    )
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
    return Subject("relay", process.wait_for_address(), process, _PASSED_ON)


def _gateway(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "proxy", "serve", "--listen", listen, "--admin", admin]
    process = stack.enter_context(started("gateway", [*command, "--fastchat-worker", worker_url], folder))
    process.wait_for_answer(f"http://{admin}/readyz")
    return Subject("gateway", f"http://{listen}", process, _GATEWAY)


# Each takes the worker's URL, a folder for its files, and a stack that ends it; raises StartError.
STARTERS: dict[str, Callable[[str, Path, ExitStack], Subject]] = {
    "direct": _direct,
    "nginx": _nginx,
    "relay": _relay,
    "gateway": _gateway,
}
