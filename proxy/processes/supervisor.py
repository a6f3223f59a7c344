"""The process that was started: it makes the others, replaces those that end, and ends with them.

It has no event loop and no threads, so that it can fork at any time, and its children begin with everything that it has
read already.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, NoReturn, cast

from proxy import garbage
from proxy.lifecycle import has_terminal
from proxy.limits import END_SECONDS, LEAVING_SECONDS, LIVED_SECONDS, REPLACEMENTS_MAX, SILENT_SECONDS
from proxy.processes.child import ignore_signals, name_process
from proxy.processes.children import LOOK_SECONDS, Child, signal_name, stuck
from proxy.processes.counting import Counting
from proxy.processes.line import Line
from proxy.processes.reading import Reading
from proxy.reload import utc
from proxy.types import Json, JsonObject

log = logging.getLogger(__name__)

CONTROL: Final = "control"
DEMO: Final = "demo"
# What a supervisor heeds. Who makes one blocks them before, so that none ends the process in another way.
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# Exit codes of a child: a mistake of the user, which was told; a fault, whose traceback is in the log.
MISTAKE: Final = 2
FAULT: Final = 70
# Before another attempt to make a process, where the system could not.
_RETRY_SECONDS: Final = 1.0


class Supervisor:
    """`run` until the end of the gateway.

    become: what a child does, by its name, with its end of the line and how many serving processes are there already;
    reading: what is in force, which the next children begin with; others: the names of the processes beside control:
    `DEMO`, the rest are serving ones; say_stopping: told when the stop begins;
    clear_up: what is left to do where a signal ends this process.
    """

    def __init__(
        self,
        others: list[str],
        become: Callable[[str, socket.socket, int], None],
        *,
        reading: Reading,
        say_stopping: Callable[[], None],
        clear_up: Callable[[], None],
    ) -> None:
        self._others, self._become = others, become
        self._reading, self._say_stopping, self._clear_up = reading, say_stopping, clear_up
        self._counting = Counting()
        self.children: dict[int, Child] = {}
        self.replacements: dict[str, int] = {}
        self._row: dict[tuple[str, str], int] = {}
        self._has_begun = False  # it has served once
        self._next_look = 0.0
        self._later: list[tuple[float, Callable[[], None]]] = []  # what could not be done, and when it is tried again
        self._code: int | None = None  # of the exit; None: it goes on
        self._ends_at: float | None = None  # when those that were told to end are killed
        self._poll = select.poll()
        self._wakes, self._woken = os.pipe()
        for end in (self._wakes, self._woken):
            os.set_blocking(end, False)
        self._had_terminal = has_terminal()

    def run(self) -> int:
        """The exit code of the program."""
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._poll.register(self._wakes, select.POLLIN)
        for name in [CONTROL, *self._others]:
            self._start(name)
        while self.children or (self._later and self._code is None):
            self._turn()
        ignore_signals()  # which has heard enough: none is to end it in another way from now on
        return self._code or 0

    def child(self, name: str) -> Child | None:
        """The one that has this place now."""
        return next((child for child in self.children.values() if child.name == name and not child.leaves), None)

    def rows(self) -> list[Json]:
        """Each process for people: its role, pid, since when, and how often it was replaced."""
        rows: list[Json] = [{"role": "supervisor", "pid": os.getpid()}]
        for child in self.children.values():
            row: JsonObject = {"role": child.name, "pid": child.pid, "since": utc(child.since)}
            rows.append({**row, "replacements": self.replacements.get(child.name, 0), "leaving": child.leaves})
        return rows

    # --- one turn

    def _turn(self) -> None:
        lines = {child.line.fileno(): child for child in self.children.values() if child.line.is_open}
        for number, child in lines.items():
            self._poll.register(number, select.POLLIN | (select.POLLOUT if child.line.has_more else 0))
        ready = self._poll.poll(self._patience())
        self._counting.overdue()
        for number in lines:
            self._poll.unregister(number)
        for number, what in ready:
            if number in lines:
                self._hear(lines[number], what)
        self._heed_signals()  # behind what was said before them
        self._bury()
        self._look()
        self._try_again()
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.kill()

    def _patience(self) -> float:
        """Milliseconds until something is to be done though nothing happens."""
        due = [self._next_look, *self._counting.patience(), *(when for when, _ in self._later)]
        if self._ends_at is not None:
            due.append(self._ends_at)
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1

    def _look(self) -> None:
        """Kill who does not run."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        for child in stuck(self.children.values()):
            text = "process %s (%d) has said nothing for %d s and is killed: it was stopped, or is stuck"
            log.error(text, child.name, child.pid, SILENT_SECONDS)
            os.kill(child.pid, signal.SIGKILL)

    def _try_again(self) -> None:
        now = time.monotonic()
        due = [action for when, action in self._later if when <= now]
        self._later = [(when, action) for when, action in self._later if when > now]
        for action in due:
            action()

    def _hear(self, child: Child, what: int) -> None:
        if what & select.POLLOUT:
            child.line.write()
        try:
            messages = child.line.read() if what & (select.POLLIN | select.POLLHUP | select.POLLERR) else []
        except ValueError as error:
            log.error("process %s (%d) is ended: %s", child.name, child.pid, error)
            os.kill(child.pid, signal.SIGKILL)
            return
        if messages:
            child.silent = 0
        for message in messages:
            if message[0] == "ready":
                child.is_ready = True
                self._has_begun = self._has_begun or child.name == CONTROL
                self._tell_control()
            elif message[0] == "leaving":
                self._let_leave(child)
            elif message[0] == "prepare":
                child.line.send("answer", message[1], *self._reading.prepare())
            elif message[0] == "commit":
                done = self._reading.commit(str(message[2]), cast("int", message[3]))
                garbage.work()
                child.line.send("answer", message[1], done)
            else:
                self._counting.heard(child.pid, message)

    def _signals(self) -> Iterator[int]:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield from os.read(self._wakes, 4096)

    def _heed_signals(self) -> None:
        for number in self._signals():
            self._on_signal(number)

    def _on_signal(self, number: int) -> None:
        lost_terminal = number == signal.SIGHUP and self._had_terminal and not has_terminal()
        if number in (signal.SIGTERM, signal.SIGINT) or lost_terminal:
            self._on_stop(number)
        elif number == signal.SIGHUP and self._code is None and (control := self.child(CONTROL)) is not None:
            control.line.send("reload", "SIGHUP")

    # --- the end

    def _on_stop(self, number: int) -> None:
        if self._code is not None:  # the second one
            self.kill()
            self._clear_up()  # nothing comes after the next line
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.stop(0)

    def stop(self, code: int) -> None:
        """Leave the clusters, let streams finish, end; control sees to it, where there is one."""
        if self._code is not None:
            return
        self._code = code
        control = self.child(CONTROL)
        if control is not None and control.is_ready:
            self._say_stopping()
        if control is not None:
            control.line.send("stop")
            return
        self._leave_alone()

    def _leave_alone(self) -> None:
        """Without control: let streams finish."""
        for child in self.children.values():
            if child.name != DEMO:
                child.line.send("leave", None)

    def _end_the_rest(self) -> None:
        self._ends_at = time.monotonic() + END_SECONDS
        for child in self.children.values():
            child.line.send("end")

    def kill(self) -> None:
        """End all of them at once."""
        for child in self.children.values():
            os.kill(child.pid, signal.SIGKILL)

    # --- children that come and go

    def _bury(self) -> None:
        """All that have ended first: those that replace them are told who is there."""
        ended: list[tuple[Child, int]] = []
        for child in [*self.children.values()]:
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            self._hear(child, select.POLLIN)  # its last words
            if child.name != DEMO:
                self._counting.ended(child.pid)
            _, status = os.waitpid(child.pid, 0)
            del self.children[child.pid]
            child.line.close()
            ended.append((child, os.waitstatus_to_exitcode(status)))
        for child, code in ended:
            self._ended(child, code)

    def _ended(self, child: Child, code: int) -> None:
        how = f"exit code {code}" if code >= 0 else signal_name(-code)
        if self._code is not None:
            if child.name == CONTROL and code != 0:
                log.error("process %s (%d) ended (%s) while the gateway stops", child.name, child.pid, how)
                self._leave_alone()
            elif self._ends_at is None and not self._has_to_wait(child):
                self._end_the_rest()
        elif child.leaves:
            log.info("process %s (%d) has ended, as it was asked to", child.name, child.pid)
        elif code == MISTAKE and child.name == CONTROL and not self._has_begun:
            self._code = MISTAKE  # it has told it
            self._end_the_rest()
        else:
            self._replace(child, how)
        self._tell_control()

    def _has_to_wait(self, child: Child) -> bool:
        """Whether others still have something to finish, now that this one has ended."""
        if child.name == CONTROL:
            return False
        return any(other.name != DEMO for other in self.children.values())

    def _replace(self, child: Child, how: str) -> None:
        if self._in_row(child, "ended") > REPLACEMENTS_MAX:
            text = "process %s (%d) ended (%s) after %d replacements in a row: the gateway stops"
            log.error(text, child.name, child.pid, how, REPLACEMENTS_MAX)
            self.stop(1)
            return
        log.warning("process %s (%d) ended (%s) and is replaced", child.name, child.pid, how)
        self._start_another(child.name)

    def _start_another(self, name: str) -> None:
        if self._code is not None:
            return
        try:
            self._start(name, replaces=True)
        except OSError as error:
            self._cannot(name, error, lambda: self._start_another(name))
            return
        self.replacements[name] = self.replacements.get(name, 0) + 1
        self._tell_control()

    def _let_leave(self, child: Child) -> None:
        """Somebody wants this process to end; another one takes its place first."""
        self._heed_signals()  # who stops all of them may have told this process first
        if self._code is not None or child.leaves:
            return
        if self._in_row(child, "left") > REPLACEMENTS_MAX:
            text = "process %s (%d) was asked to end, as %d before it in a row: it goes on with what it has"
            log.error(text, child.name, child.pid, REPLACEMENTS_MAX)
            return
        log.info("process %s (%d) was asked to end: another one takes its place", child.name, child.pid)
        self._start_instead(child)

    def _start_instead(self, child: Child) -> None:
        if self._code is not None or child.pid not in self.children:
            return
        child.leaves = True  # so that it is not the one of its place any more
        try:
            self._start(child.name)
        except OSError as error:
            child.leaves = False
            self._cannot(child.name, error, lambda: self._start_instead(child))
            return
        self.replacements[child.name] = self.replacements.get(child.name, 0) + 1
        child.line.send("leave", LEAVING_SECONDS)
        self._tell_control()

    def _in_row(self, child: Child, why: str) -> int:
        """How many of this place have ended in this way, one after the other; this one is the last."""
        lived = time.monotonic() - child.born
        row = self._row[child.name, why] = 1 if lived >= LIVED_SECONDS else self._row.get((child.name, why), 0) + 1
        return row

    def _cannot(self, name: str, error: OSError, again: Callable[[], None]) -> None:
        log.error("no process can be made for %s now: %s; it is tried again", name, error)
        self._later.append((time.monotonic() + _RETRY_SECONDS, again))

    def _start(self, name: str, *, replaces: bool = False) -> None:
        """OSError where the system cannot make a further process."""
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        heirs = sum(child.name not in (CONTROL, DEMO) and child.is_ready for child in self.children.values())
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        else:
            if pid == 0:
                self._be(name, ours, theirs, heirs)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()
        child = self.children[pid] = Child(name, pid, Line(ours), time.time(), time.monotonic())
        if name != DEMO:
            self._counting.joined(pid, child.line, "control" if name == CONTROL else "serving", replaces=replaces)

    def _be(self, name: str, ours: socket.socket, theirs: socket.socket, heirs: int) -> NoReturn:
        """The new process, which never returns into what it was made of."""
        code = FAULT
        try:
            signal.set_wakeup_fd(-1)
            ignore_signals()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            ours.close()
            for child in self.children.values():
                child.line.close()
            for end in (self._wakes, self._woken):
                os.close(end)
            name_process(name)
            self._become(name, theirs, heirs)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else FAULT
        except BaseException:
            log.exception("process %s has failed", name)
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(code)

    def _tell_control(self) -> None:
        control = self.child(CONTROL)
        if control is not None and control.line.is_open:
            control.line.send("processes", self.rows())
