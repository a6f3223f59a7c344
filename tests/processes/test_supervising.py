"""What the supervisor does about its children, one step at a time."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from typing import cast

import pytest

from proxy.limits import REPLACEMENTS_MAX, SILENT_SECONDS
from proxy.processes.channel import frame
from proxy.processes.children import Child, stuck
from proxy.processes.line import Line
from proxy.processes.reading import Reading
from proxy.processes.supervisor import CONTROL, MISTAKE, Supervisor


class Forks:
    """Stands for `os.fork`; the processes that it makes are nobody. fails: as long as there are to be none."""

    def __init__(self) -> None:
        self.fails = False
        self.made = 0
        self._pids = count(2**22 + 1)  # no process has such a number

    def __call__(self) -> int:
        if self.fails:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.made += 1
        return next(self._pids)


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> Forks:
    made = Forks()
    monkeypatch.setattr(os, "fork", made)
    monkeypatch.setattr("proxy.processes.supervisor._RETRY_SECONDS", 0.0)
    return made


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    reading = cast("Reading", None)  # nobody asks for it
    made = Supervisor(["serving-1"], _nothing, reading=reading, say_stopping=lambda: None, clear_up=lambda: None)
    yield made
    for child in made.children.values():
        child.line.close()
    for end in (made._wakes, made._woken):
        os.close(end)


def _nothing(name: str, end: socket.socket, heirs: int) -> None:
    raise AssertionError("nobody becomes anything here")


def _begun(supervisor: Supervisor, name: str) -> Child:
    supervisor._start(name)
    child = supervisor.child(name)
    assert child is not None
    return child


def test_who_says_nothing_is_stuck(supervisor: Supervisor, forks: Forks) -> None:
    """After so many looks in a row, and told once; who has not begun to speak may take its time."""
    quiet, new = _begun(supervisor, "serving-1"), _begun(supervisor, CONTROL)
    quiet.silent = 0
    for _ in range(SILENT_SECONDS):
        assert stuck([quiet, new]) == []
    assert stuck([quiet, new]) == [quiet]
    assert stuck([quiet, new]) == []


def test_who_is_stuck_is_killed(supervisor: Supervisor, caplog: pytest.LogCaptureFixture) -> None:
    """Also a process that is stopped."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen(["sleep", "60"]) as process:
        os.kill(process.pid, signal.SIGSTOP)
        child = Child("control", process.pid, Line(ours), time.time(), 0.0, silent=SILENT_SECONDS)
        supervisor.children[child.pid] = child
        supervisor._look()
        assert process.wait(5) == -signal.SIGKILL
    theirs.close()
    assert f"process control ({child.pid}) has said nothing for {SILENT_SECONDS} s and is killed" in caplog.text


def test_a_signal_comes_behind_what_was_said_before_it(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has read that the gateway serves, and stops it at once, is told that it stops."""
    told: list[str] = []
    monkeypatch.setattr(supervisor, "_say_stopping", lambda: told.append("stopping"))
    supervisor._poll.register(supervisor._wakes, select.POLLIN)
    ours, theirs = socket.socketpair()
    with theirs, subprocess.Popen(["sleep", "60"]) as process:
        supervisor.children[process.pid] = Child(CONTROL, process.pid, Line(ours), time.time(), time.monotonic())
        theirs.send(frame([["ready"]]))
        os.write(supervisor._woken, bytes([signal.SIGTERM]))
        supervisor._turn()
        process.kill()
        assert told == ["stopping"]
        assert b'"stop"' in theirs.recv(1000)


@pytest.mark.parametrize("how", ["killed", "asked to leave"])
def test_where_no_process_can_be_made(
    supervisor: Supervisor, forks: Forks, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """It is tried again and again, and the gateway goes on meanwhile."""
    child = _begun(supervisor, "serving-1")
    forks.fails = True
    if how == "killed":
        del supervisor.children[child.pid]
        supervisor._ended(child, -signal.SIGKILL)
        child.line.close()
    else:
        supervisor._let_leave(child)
    for _ in range(2 * REPLACEMENTS_MAX):
        supervisor._try_again()
    assert supervisor._code is None
    assert (supervisor.child("serving-1") is child) == (how != "killed")
    assert "no process can be made for serving-1 now: " in caplog.text
    forks.fails = False
    supervisor._try_again()
    other = supervisor.child("serving-1")
    assert other not in (None, child)
    assert supervisor.replacements == {"serving-1": 1}
    supervisor._try_again()
    assert forks.made == 2


def test_who_is_to_leave_again_and_again_stays(
    supervisor: Supervisor, forks: Forks, caplog: pytest.LogCaptureFixture
) -> None:
    """Something is wrong that another process would not mend; it serves meanwhile."""
    for _ in range(REPLACEMENTS_MAX + 1):
        child = supervisor.child("serving-1") or _begun(supervisor, "serving-1")
        supervisor._let_leave(child)
    assert forks.made == REPLACEMENTS_MAX + 1
    assert supervisor.child("serving-1") is child
    assert "it goes on with what it has" in caplog.text


@pytest.mark.parametrize("has_begun", [False, True], ids=["the first", "a later one"])
def test_a_control_that_cannot_start(supervisor: Supervisor, forks: Forks, has_begun: bool) -> None:
    """The first one's mistake is told and ends everything; a later one's costs nobody a stream."""
    supervisor._has_begun = has_begun
    child = _begun(supervisor, CONTROL)
    del supervisor.children[child.pid]
    supervisor._ended(child, MISTAKE)
    child.line.close()
    assert supervisor._code == (None if has_begun else MISTAKE)
    assert (supervisor.child(CONTROL) is not None) == has_begun
