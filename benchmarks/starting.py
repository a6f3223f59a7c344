"""`python -m benchmarks.starting`: how long commands take from their start to the first answer, or to their end."""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.process import ROOT, START_SECONDS, Process, StartError, free_port, started
from benchmarks.report import markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.targets import Medians
    from proxy.types import JsonObject

NAME: Final = "start"
COMMANDS: Final = ("serve", "--version", "check")
# Starts differ by a tenth, and cost half a second each.
REPEATS: Final = 11
_POLL_SECONDS: Final = 0.002
_GATEWAY: Final = (sys.executable, "-m", "proxy")
# What is installed has its bytecode; an empty value is as none.
_WITH_BYTECODE: Final = {"PYTHONDONTWRITEBYTECODE": ""}

Starts = dict[str, list[float]]
"""Seconds of each start, by command."""


def measure(repeats: int, step: Callable[[str], None], commands: Sequence[str] = COMMANDS) -> Starts:
    """Each command so many times, in turn, after a start of each that is not counted. Raises StartError.

    `serve` has all shipped rules and one worker, and counts until a client's GET /v1/models is answered.
    """
    found: Starts = {command: [] for command in commands}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        with started("fake_worker", [sys.executable, "-m", "benchmarks.fake_worker"], folder) as worker:
            url = worker.wait_for_address()
            for repeat in range(repeats + 1):
                for command in commands:
                    step(f"{NAME}: {command}, {repeat} of {repeats}")
                    seconds = _serve(url, folder) if command == "serve" else _run(command)
                    if repeat:
                        found[command].append(seconds)
    return found


def _serve(worker_url: str, folder: Path) -> float:
    port = free_port()
    addresses = ("--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0")
    command = [*_GATEWAY, "serve", *addresses, "--fastchat-worker", worker_url]
    begin = time.monotonic()
    with started("serve", command, folder, environment=_WITH_BYTECODE) as process:
        while not _answers(port):
            if process.returncode is not None or time.monotonic() > begin + START_SECONDS:
                raise StartError(f"serve did not answer: {_end_of(process, folder)}")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - begin


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end_of(process: Process, folder: Path) -> str:
    lines = (folder / f"{process.name}.err").read_text(errors="replace").splitlines()
    return lines[-1] if lines else f"status {process.returncode}"


def _run(command: str) -> float:
    arguments = [*_GATEWAY, command, *([str(ROOT / "rules")] if command == "check" else [])]
    environment = {**os.environ, **_WITH_BYTECODE}
    begin = time.monotonic()
    try:
        subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, timeout=START_SECONDS, check=True)
    except subprocess.SubprocessError as error:
        raise StartError(f"{command}: {error}") from None
    return time.monotonic() - begin


def medians(starts: Starts) -> Medians:
    """As those of scenarios, in seconds."""
    return {NAME: {"gateway": {command: median(seconds) for command, seconds in starts.items() if seconds}}}


def table(starts: Starts) -> str:
    """Milliseconds: median, lowest and highest."""
    rows = [
        [f"`{command}`", *(f"{one(seconds) * 1000:,.0f}" for one in (median, min, max))]
        for command, seconds in starts.items()
        if seconds
    ]
    return markdown(["start, ms", "median", "lowest", "highest"], rows)


def section(starts: Starts) -> str:
    """For the report; nothing where nothing was measured."""
    return f"\n## Start\n\n{table(starts)}" if starts else ""


def document(starts: Starts) -> JsonObject:
    """Every start, in seconds."""
    return {command: [round(one, 4) for one in seconds] for command, seconds in starts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starting", description="How long commands take to start."
    )
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, choices=range(1, 100), metavar="N", help="(%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        print(table(measure(options.repeats, lambda _: None)))
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
