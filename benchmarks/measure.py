"""One load against one running program, and what it cost."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, cast

import orjson

from benchmarks.answers import frames
from benchmarks.process import ROOT, CpuClock, Process, memory_bytes

if TYPE_CHECKING:
    from benchmarks.scenarios import Scenario
    from benchmarks.subjects import Ask, Subject
    from proxy.types import JsonObject

# Between two looks at the memory of the program under test.
_SAMPLE_SECONDS = 0.05


class LoadError(RuntimeError):
    """Answers were wrong or missing: the figures of such a run mean nothing."""


def set_answer(worker_url: str, chunks: int, interval_ms: float) -> None:
    """Tell the fake worker what to stream."""
    body = orjson.dumps({"chunks": chunks, "interval_ms": interval_ms})
    with urllib.request.urlopen(f"{worker_url}/bench/answer", data=body, timeout=10):
        pass


def run_once(subject: Subject, worker: Process, worker_url: str, scenario: Scenario) -> dict[str, float]:
    """One run. Figures that do not exist (the CPU of no program, the delay of an unpaced stream) are left out.

    CPU is microseconds (nanoseconds for a byte) for each chunk, request or byte that the worker was asked for, the
    cost of connections and requests included. memory_kb: what the program held at most above what it held before the
    first load, for each stream; the kernel's buffers are not in it. Raises LoadError unless every answer was right.
    """
    set_answer(worker_url, scenario.chunks, scenario.interval_ms)
    clock = None if subject.process is None else CpuClock(subject.process.pid)
    worker_clock = CpuClock(worker.pid)
    line, memory = _run_client(subject, worker_url, scenario)
    try:
        own_seconds = None if clock is None else clock.seconds()
        worker_seconds = worker_clock.seconds()
    except RuntimeError as error:
        raise LoadError(f"{subject.name}: {error}") from error
    figures = {
        "chunks_per_second": scenario.requests * scenario.chunks / _number(line, "seconds"),
        "requests_per_second": scenario.requests / _number(line, "seconds"),
        "load_cores": (_number(line, "cpu_seconds") + worker_seconds) / _number(line, "seconds"),
        **cpu_figures("client_", _number(line, "cpu_seconds"), scenario),
        **cpu_figures("worker_", worker_seconds, scenario),
    }
    if own_seconds is not None:
        figures |= cpu_figures("", own_seconds, scenario)
        figures["cores"] = own_seconds / _number(line, "seconds")
        figures["memory_kb"] = max(memory - subject.idle_bytes, 0) / 1000 / scenario.streams
    for name in ("first_byte_ms", "first_text_ms", "delay_ms"):
        shares = cast("dict[str, float | None]", line[name])
        figures |= {f"{name}_{share}": value for share, value in shares.items() if value is not None}
    return figures


def cpu_figures(whose: str, seconds: float, scenario: Scenario) -> dict[str, float]:
    """CPU seconds of a run in the scenario's unit. A stream's bytes are those that the worker sends, for all alike."""
    if scenario.unit == "request":
        return {f"{whose}cpu_us": seconds * 1e6 / scenario.requests}
    if scenario.unit == "byte":
        size = sum(map(len, frames(scenario.chunks))) * scenario.requests
        return {f"{whose}cpu_ns": seconds * 1e9 / size}
    return {f"{whose}cpu_us": seconds * 1e6 / (scenario.requests * scenario.chunks)}


def command_of(subject: Subject, worker_url: str, scenario: Scenario) -> list[str]:
    """The load client's command line."""
    ask: Ask = subject.asks[scenario.route]
    command = [sys.executable, "-m", "benchmarks.load_client", subject.base_url + ask.path]
    command += ["--body", ask.body.decode(), "--form", ask.form, "--streams", str(scenario.streams)]
    command += ["--rounds", str(scenario.rounds), "--chunks", str(scenario.chunks), "--timeout", str(scenario.timeout)]
    command += ["--interval", str(scenario.interval_ms), "--spread", str(scenario.spread_ms)]
    command += ["--texts", str(scenario.texts), "--read-rate", str(scenario.reads_per_second)]
    command += ["--last", orjson.dumps(ask.last(scenario.chunks)).decode()]
    command += ["--new-connections"] if scenario.new_connections else []
    command += ["--sent", f"{worker_url}/bench/sent"] if scenario.interval_ms else []
    return command


def _run_client(subject: Subject, worker_url: str, scenario: Scenario) -> tuple[JsonObject, int]:
    """The client's line, and the most memory that the program was seen with, in bytes."""
    memory = 0
    end = time.monotonic() + scenario.timeout + 30
    with subprocess.Popen(
        command_of(subject, worker_url, scenario), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as client:
        try:
            while client.poll() is None and time.monotonic() < end:
                if subject.process is not None:
                    memory = max(memory, memory_bytes(subject.pids))
                time.sleep(_SAMPLE_SECONDS)
        finally:
            if client.poll() is None:
                client.kill()
        out, err = client.communicate()
    if client.returncode != 0:
        raise LoadError(f"the load client failed on {subject.name}: {err.decode()[-600:]}")
    line: JsonObject = orjson.loads(out)
    if line["complete"] != line["requests"]:
        raise LoadError(
            f"{subject.name}: {line['complete']} of {line['requests']} answers were right: {line['failures']}"
        )
    return line, memory


def _number(line: JsonObject, name: str) -> float:
    value = line[name]
    assert isinstance(value, (int, float))
    return float(value)
