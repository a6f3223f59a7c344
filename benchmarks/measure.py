"""One load against one running program, and what it cost."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import orjson

from benchmarks.process import ROOT, CpuClock, Process

if TYPE_CHECKING:
    from benchmarks.subjects import Subject
    from proxy.types import JsonObject


@dataclass(frozen=True)
class Scenario:
    """A load that every program gets; `route` names the request in a subject's `asks`. Times are milliseconds."""

    name: str
    route: str
    streams: int
    chunks: int
    interval_ms: float
    spread_ms: float = 0.0
    rounds: int = 1
    new_connections: bool = False

    @property
    def title(self) -> str:
        pace = f"{self.interval_ms:g} ms apart" if self.interval_ms else "flat out"
        return f"{self.name}: {self.streams} streams of {self.chunks} chunks, {pace}"

    @property
    def chunks_sent(self) -> int:
        """By the worker, in one run."""
        return self.streams * self.rounds * self.chunks

    @property
    def timeout(self) -> float:
        """Seconds after which a run is given up: 5 times its pace, and 1 ms of work for each chunk."""
        paced = (self.spread_ms + self.rounds * self.chunks * self.interval_ms) / 1000
        return min(20 + 5 * paced + self.chunks_sent * 0.001, 600)


class LoadError(RuntimeError):
    """Answers were wrong or missing: the figures of such a run mean nothing."""


def set_answer(worker_url: str, scenario: Scenario) -> None:
    """Tell the fake worker what to stream."""
    body = orjson.dumps({"chunks": scenario.chunks, "interval_ms": scenario.interval_ms})
    with urllib.request.urlopen(f"{worker_url}/bench/answer", data=body, timeout=10):
        pass


def run_once(subject: Subject, worker: Process, scenario: Scenario) -> dict[str, float]:
    """One run. Figures that do not exist (the CPU of no program, the delay of an unpaced stream) are left out.

    CPU is microseconds for each chunk the worker sent, the cost of connections and requests included.
    Raises LoadError unless every answer was complete and right.
    """
    clock = None if subject.process is None else CpuClock(subject.process.pid)
    worker_clock = CpuClock(worker.pid)
    line = _run_client(subject, scenario)
    chunks = scenario.chunks_sent
    figures = {
        "worker_cpu_us": worker_clock.seconds() * 1e6 / chunks,
        "client_cpu_us": _number(line, "cpu_seconds") * 1e6 / chunks,
        "chunks_per_second": chunks / _number(line, "seconds"),
    }
    if clock is not None:
        figures["cpu_us"] = clock.seconds() * 1e6 / chunks
    for name in ("first_byte_ms", "delay_ms"):
        shares = cast("dict[str, float | None]", line[name])
        figures |= {f"{name}_{share}": value for share, value in shares.items() if value is not None}
    return figures


def _run_client(subject: Subject, scenario: Scenario) -> JsonObject:
    ask = subject.asks[scenario.route]
    command = [sys.executable, "-m", "benchmarks.load_client", subject.base_url + ask.path]
    command += ["--body", ask.body.decode(), "--framing", ask.framing, "--streams", str(scenario.streams)]
    command += ["--rounds", str(scenario.rounds), "--chunks", str(scenario.chunks), "--timeout", str(scenario.timeout)]
    command += ["--interval", str(scenario.interval_ms), "--spread", str(scenario.spread_ms)]
    command += ["--new-connections"] if scenario.new_connections else []
    try:
        ended = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=scenario.timeout + 30, check=True)
    except subprocess.CalledProcessError as error:
        raise LoadError(f"the load client failed on {subject.name}: {error.stderr.decode()[-600:]}") from error
    line: JsonObject = orjson.loads(ended.stdout)
    if line["complete"] != line["requests"]:
        raise LoadError(
            f"{subject.name}: {line['complete']} of {line['requests']} answers were right: {line['failures']}"
        )
    return line


def _number(line: JsonObject, name: str) -> float:
    value = line[name]
    assert isinstance(value, (int, float))
    return float(value)
