"""The command as a process of its own: run to its end, or started and watched while it serves."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = (sys.executable, "-m", "proxy")
ANY_PORTS = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
SECONDS = 20.0


def environment(**more: str) -> dict[str, str]:
    """This process's environment, without what changes how a command speaks or starts; the checkout can be imported."""
    dropped = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONPATH", "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def run(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`dbgpt-gateway ARGUMENTS`, to its end; its output as text."""
    return subprocess.run(
        [*GATEWAY, *arguments],
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )


def mistakes_of(*arguments: str, cwd: Path | None = None, code: int = 2) -> list[str]:
    """What a call that must fail says on standard error: a few plain lines, nothing started, no traceback."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode == code, done
    assert done.stdout == "", done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    assert "\x1b" not in done.stderr, done.stderr
    assert done.stderr.endswith("\n")
    return done.stderr.splitlines()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Started:
    """A command that goes on; `with` ends it. Its output is read while it runs: `out`, and `err` at the end."""

    def __init__(
        self,
        *arguments: str,
        command: Sequence[str] = GATEWAY,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [*command, *arguments],
            cwd=cwd,
            env=env or environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read, args=(pipe, lines), daemon=True)
            for pipe, lines in ((self._process.stdout, self.out), (self._process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Started:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        code = self._process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return code

    def until(self, pattern: str, *, errors: bool = False) -> re.Match[str]:
        """The first match in a line of its output (or of its standard error); fails when it ends or takes too long."""
        lines = self.err if errors else self.out
        deadline = time.monotonic() + SECONDS
        while True:
            for line in list(lines):
                if found := re.search(pattern, line):
                    return found
            if not self.running and not any(reader.is_alive() for reader in self._readers):
                raise AssertionError(f"ended without {pattern!r}: {self.out} {self.err}")
            try:
                self._news.get(timeout=max(0.0, min(0.2, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise AssertionError(f"no {pattern!r} in {SECONDS} s: {self.out} {self.err}") from None

    def _read(self, pipe: IO[str], lines: list[str]) -> None:
        for line in pipe:
            lines.append(line.rstrip("\n"))
            self._news.put(None)
