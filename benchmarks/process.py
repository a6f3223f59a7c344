"""Processes a benchmark starts: started, waited for, measured and ended by their process id, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 20.0
STOP_SECONDS = 5.0
_TAIL_BYTES = 600
_POLL_SECONDS = 0.02


class StartError(RuntimeError):
    """A program did not start; the message names it and gives the end of what it wrote."""


class Process:
    """A running program; what it writes goes to `<name>.out` and `<name>.err` in the run's folder."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], folder: Path) -> None:
        self.name = name
        self.pid = popen.pid
        self._popen = popen
        self._out = folder / f"{name}.out"
        self._err = folder / f"{name}.err"

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._popen.poll()

    def wait_for_address(self, seconds: float = START_SECONDS) -> str:
        """Wait for the line `listening HOST:PORT`; returns `http://HOST:PORT`. Raises StartError."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self._out.read_text().splitlines(keepends=True):
                if line.startswith("listening ") and line.endswith("\n"):
                    return "http://" + line.split()[1]
            self._pause()
        raise self._failed(f"printed no address within {seconds:g} s")

    def wait_for_answer(self, url: str, seconds: float = START_SECONDS) -> None:
        """Wait until a GET of `url` gives status 200. Raises StartError."""
        end = time.monotonic() + seconds
        seen = "no answer"
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except urllib.error.HTTPError as error:
                with error:
                    seen = f"status {error.code}"
            except OSError as error:
                seen = str(error)
            self._pause()
        raise self._failed(f"{url} was not ready within {seconds:g} s ({seen})")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for a program that does not end in time, and for children that it left behind."""
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(STOP_SECONDS)
        # The program's own session is a process group of the same number.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def _pause(self) -> None:
        if self._popen.poll() is not None:
            raise self._failed(f"ended with status {self._popen.returncode}")
        time.sleep(_POLL_SECONDS)

    def _failed(self, what: str) -> StartError:
        tail = (self._err.read_bytes() or self._out.read_bytes())[-_TAIL_BYTES:].decode(errors="replace").strip()
        return StartError(f"{self.name} {what}" + (f": {tail.splitlines()[-1]}" if tail else ""))


@contextlib.contextmanager
def started(
    name: str,
    command: Sequence[str],
    folder: Path,
    *,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """Run `command` for the length of the block. Its own session keeps a Ctrl-C for the benchmark away from it.

    environment: variables beside those of this process.
    """
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    process = Process(name, popen, folder)
    try:
        yield process
    finally:
        process.stop()


def free_port() -> int:
    """A port of the loopback interface that is free now; for programs that cannot report the one they were given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class CpuClock:
    """CPU seconds of a process and all its descendants, from /proc; Linux only.

    A descendant that begins between two readings counts. One that ends takes its seconds with it, so that reading is
    refused. A thread that ends is not seen.
    """

    def __init__(self, pid: int) -> None:
        self._root = pid
        self._begin = {pid: _cpu_seconds(pid) for pid in family(pid)}

    def seconds(self) -> float:
        """Since the clock was made. Raises RuntimeError when one of the processes has ended since."""
        now = {pid: _cpu_seconds(pid) for pid in family(self._root)}
        gone = self._begin.keys() - now.keys()
        if gone:
            raise RuntimeError(f"process {min(gone)} under {self._root} ended while its CPU time was measured")
        return sum(now.values()) - sum(self._begin.values())


def memory_bytes(pids: Iterable[int]) -> int:
    """What these processes hold in memory together, pages that they share counted for each; Linux only."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def family(root: int) -> list[int]:
    """A process and all its descendants; Linux only."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parents[int(entry)] = int(_stat_fields(int(entry))[1])
    found = [root] if root in parents else []
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, `state`, on: the second may hold spaces and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_seconds(pid: int) -> float:
    """schedstat counts nanoseconds, but for one thread; stat counts the whole process, in ticks of 10 ms."""
    try:
        threads = [Path(f"/proc/{pid}/task/{thread}/schedstat") for thread in os.listdir(f"/proc/{pid}/task")]
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
    except FileNotFoundError:
        user, system = _stat_fields(pid)[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
