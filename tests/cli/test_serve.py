"""`serve` as a process: what it says when it starts, that the lines to try work, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.backends.fakes import FakeRegistry, FakeWorker, eventually
from tests.cli.process import ANY_PORTS, Started, environment, free_port
from tests.ports import listens

# Seconds on a machine that is busy with other things; the program needs a few hundredths of one.
QUICKLY = 3.0


@pytest.fixture
def fast_demo(tmp_path: Path) -> Path:
    """Settings of a demonstration fleet whose answers take about a second."""
    file = tmp_path / "settings.yaml"
    file.write_text("demo: {chunks_per_second: 50}\n", encoding="utf-8")
    return file


def _stops(gateway: Started, number: signal.Signals) -> None:
    """The signal ends it, quickly and with exit code 0."""
    began = time.monotonic()
    gateway.send(number)
    assert gateway.wait() == 0
    assert time.monotonic() - began < QUICKLY
    assert "Traceback" not in "\n".join(gateway.err)


def _get(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return reply.status, reply.read().decode()


def _examples(gateway: Started) -> list[str]:
    gateway.until("^Try it:")
    gateway.until("^  curl .*/metrics")
    gateway.until("ollama run")
    return [line.strip() for line in gateway.out if line.startswith("  ") and "http://" in line]


def test_what_the_start_prints(fast_demo: Path) -> None:
    """What was loaded, where clients and operators call, which workers there are, where it registers; plainly."""
    with Started("serve", "--config", str(fast_demo), *ANY_PORTS, "--workers", "2") as gateway:
        assert len(_examples(gateway)) >= 3
        labels = [line.split()[0] for line in gateway.out[: gateway.out.index("")]]
        assert labels == ["rules", "clients", "operators", "worker", "registers", "processes"]
        columns = {len(line) - len(line.split(maxsplit=1)[1]) for line in gateway.out[: gateway.out.index("")]}
        assert len(columns) == 1, "the second column is aligned"
        assert re.search(r"\d\d+ routes in .*dbgpt-worker.*; \d+ tests passed", gateway.out[0])
        assert gateway.out[3].endswith("  demo-chat (llm+text2vec)")
        assert gateway.out[4].split() == ["registers", "nowhere"]
        assert gateway.out[5].split(maxsplit=1)[1].startswith("2 for clients, one has the fleet; signals go to ")
        admin = gateway.until(r"^operators +(http://[^/]+)")[1]
        assert _get(f"{admin}/readyz")[0] == 200
        _stops(gateway, signal.SIGTERM)
        assert gateway.out[-1].startswith("stopping: ")
        assert "\x1b" not in "\n".join([*gateway.out, *gateway.err])


def _on_terminal(command: str) -> list[tuple[float, bytes]]:
    """What a shell writes to a terminal, piece by piece with the seconds at which it came."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(["bash", "-c", command], stdout=theirs, stderr=theirs)
    os.close(theirs)
    pieces = []
    with contextlib.suppress(OSError):  # how a terminal says that the other side has closed it
        while part := os.read(ours, 65_536):
            pieces.append((time.monotonic(), part))
    os.close(ours)
    assert process.wait(20) == 0, pieces
    return pieces


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="curl and bash are not installed")
def test_the_lines_to_try_work_as_they_are_typed(fast_demo: Path) -> None:
    """In a shell at a terminal the first one shows a stream that arrives bit by bit, the second an answer, the third
    what was counted meanwhile."""
    with Started("serve", "--config", str(fast_demo), *ANY_PORTS) as gateway:
        examples = _examples(gateway)
        stream, answer, metrics = (
            next(line for line in examples if part in line)
            for part in ("/api/worker/generate_stream", "/api/worker/generate ", "/metrics")
        )
        others = sorted(set(examples) - {stream, answer, metrics})
        with ThreadPoolExecutor(len(others)) as terminals:
            for other, told in zip(others, terminals.map(_on_terminal, others), strict=True):
                assert b"demo-chat" in b"".join(part for _, part in told), other
        pieces = _on_terminal(stream)
        chunks = [json.loads(line) for line in b"".join(part for _, part in pieces).splitlines() if line.strip()]
        assert len(chunks) > 10
        assert all(chunk["error_code"] == 0 for chunk in chunks)
        texts = [chunk["text"] for chunk in chunks]
        assert texts == sorted(texts, key=len)
        assert "Hello, gateway" in texts[-1]
        assert pieces[-1][0] - pieces[0][0] > 0.3, "it came all at once"
        assert json.loads(b"".join(part for _, part in _on_terminal(answer)))["text"]
        counted = b"".join(part for _, part in _on_terminal(metrics)).decode()
        assert re.search(r'gateway_requests_total\{.*model="demo-chat".*outcome="ok".*\} 1\.0', counted)
        _stops(gateway, signal.SIGINT)


def test_a_flag_beats_the_file(tmp_path: Path) -> None:
    """Where the file and a flag say different things, it is as the flag says; the file's other keys hold."""
    listen, admin = free_port(), free_port()
    (tmp_path / "settings.yaml").write_text(
        f"listen: 127.0.0.1:{free_port()}\nadmin: 127.0.0.1:{admin}\nfastchat: {{workers: ['http://127.0.0.1:9']}}\n",
        encoding="utf-8",
    )
    arguments = (
        "--config",
        "settings.yaml",
        "--listen",
        f"127.0.0.1:{listen}",
        "--fastchat-worker",
        "http://127.0.0.1:10",
    )
    with Started("serve", *arguments, cwd=tmp_path) as gateway:
        assert gateway.until("^clients +(.+)")[1] == f"http://127.0.0.1:{listen}"
        assert gateway.until("^operators +([^/]+//[^/]+)")[1] == f"http://127.0.0.1:{admin}"
        assert gateway.until("^worker +(.+)")[1].startswith("http://127.0.0.1:10  down: ")
        gateway.until("^registers ")
        assert not [line for line in gateway.out if "127.0.0.1:9 " in line]
        _stops(gateway, signal.SIGTERM)


async def test_an_unreachable_controller_is_retried_while_the_gateway_serves() -> None:
    """A cluster that is not there does not keep the gateway from serving; once it is there it has every row within
    seconds, and none of them after the gateway was stopped."""
    registry = FakeRegistry()
    registry.port = free_port()
    arguments = ("--demo", *ANY_PORTS, "--dbgpt-controller", registry.url)
    with Started("serve", *arguments) as gateway:
        began = time.monotonic()
        clients = (await asyncio.to_thread(gateway.until, "^clients +http://(.+)"))[1]
        line = await asyncio.to_thread(gateway.until, "^registers +(.+)")
        assert line[1] == f"with {registry.url} as {clients}; goes on trying while it is away"
        assert time.monotonic() - began < QUICKLY
        admin = gateway.until(r"^operators +(http://[^/]+)")[1]
        assert (await asyncio.to_thread(_get, f"{admin}/readyz"))[0] == 200
        await asyncio.to_thread(gateway.until, f"controller {registry.url}: ", errors=True)
        await registry.start()
        try:
            wanted = {"demo-chat@llm", "demo-chat@text2vec", "WorkerManager@service"}
            await eventually(lambda: registry.keys == wanted, seconds=8)
            assert {f"{host}:{port}" for _, host, port in registry.rows} == {clients}
            await asyncio.to_thread(_stops, gateway, signal.SIGTERM)
            assert registry.rows == {}
        finally:
            await registry.stop()


async def test_a_worker_that_comes_later_is_found() -> None:
    """A worker that is down at the start is said to be, and its models are answered once it is up."""
    worker = FakeWorker()
    worker.port = free_port()
    with Started("serve", *ANY_PORTS, "--fastchat-worker", worker.url) as gateway:
        line = await asyncio.to_thread(gateway.until, "^worker +(.+)")
        assert line[1].startswith(f"{worker.url}  down: ")
        assert "connection refused" in line[1]
        await asyncio.to_thread(_stops, gateway, signal.SIGINT)


@pytest.fixture
def silent_worker() -> Iterator[str]:
    """A worker that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


EARLY = """
import os, signal, sys
from proxy.processes import start
from proxy.cli import main

number, work = int(sys.argv.pop(1)), start.garbage.work

def told_to_end():
    os.kill(os.getpid(), number)
    work()

start.garbage.work = told_to_end
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_there_are_processes(tmp_path: Path, number: signal.Signals) -> None:
    """It ends the program as one that comes later does, and nothing is left behind."""
    command = (sys.executable, "-c", EARLY, str(int(number)))
    env = environment(TMPDIR=str(tmp_path))
    with Started("serve", *ANY_PORTS, "--demo", "--workers", "2", command=command, env=env) as gateway:
        assert gateway.wait() == 0, gateway.err
    assert [*tmp_path.iterdir()] == []
    assert "Traceback" not in "\n".join(gateway.err)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts(silent_worker: str, number: signal.Signals) -> None:
    """While the fleet is looked at for the first time, a signal ends the program at once and cleanly."""
    port = free_port()
    arguments = ("--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0", "--fastchat-worker", silent_worker)
    with Started("serve", *arguments) as gateway:
        deadline = time.monotonic() + 15
        while not listens(port):
            assert gateway.running, gateway.err
            assert time.monotonic() < deadline
            time.sleep(0.02)
        _stops(gateway, number)
        assert gateway.out == []


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """The first signal lets a stream finish, the second one does not wait for it."""
    (tmp_path / "settings.yaml").write_text("demo: {chunks_per_second: 1}\n", encoding="utf-8")
    with Started("serve", "--config", "settings.yaml", *ANY_PORTS, cwd=tmp_path) as gateway:
        url = gateway.until(r"^clients +(http://\S+)")[1]
        body = {"model": "demo-chat", "messages": [{"role": "human", "content": "Hello"}]}
        question = urllib.request.Request(f"{url}/api/worker/generate_stream", json.dumps(body).encode())
        gateway.until("^  curl .*/metrics")
        with urllib.request.urlopen(question, timeout=10) as reply:
            assert reply.read(1)
            gateway.send(signal.SIGINT)
            gateway.until("^stopping: ")
            time.sleep(0.3)
            assert gateway.running, "the stream is not over"
            gateway.send(signal.SIGINT)
            assert gateway.wait() == -signal.SIGINT
            assert "Traceback" not in "\n".join(gateway.err)
