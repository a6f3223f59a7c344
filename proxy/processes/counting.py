"""What the processes count, at the supervisor, which outlives them: none of it is lost with one of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final, NamedTuple, cast

from proxy.processes.channel import Message
from proxy.processes.line import Line
from proxy.telemetry.ledger import Ledger, Role
from proxy.telemetry.snapshot import SnapshotError

log = logging.getLogger(__name__)

# How long a scrape waits for fresh numbers of a process; then its last ones will do.
_FRESH_SECONDS: Final = 0.5


class _Scrape(NamedTuple):
    """A question of control. missing: the pids that have not answered it; until: monotonic."""

    control: int
    number: int
    missing: set[int]
    until: float


class Counting:
    """Adds up what the processes send, and gives control the sum."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._lines: dict[int, Line] = {}
        self._scrapes: list[_Scrape] = []

    def joined(self, pid: int, line: Line, role: Role, *, replaces: bool) -> None:
        """A process was made."""
        self._lines[pid] = line
        self._ledger.joined(pid, role, replaces=replaces)

    def ended(self, pid: int) -> None:
        """A process has ended, and is not waited for yet: the system still knows how much CPU it took."""
        self._ledger.retire(pid)
        del self._lines[pid]
        self._scrapes = [scrape for scrape in self._scrapes if scrape.control != pid]
        self._answered(pid)

    def heard(self, pid: int, message: Message) -> None:
        """A process says what it has counted, or asks for all."""
        if message[0] in ("counts", "counted"):
            try:
                self._ledger.heard(pid, cast("str", message[1]).encode())
            except SnapshotError as error:
                log.error("process %d: %s", pid, error)
            if message[0] == "counted":
                self._answered(pid)
        elif message[0] == "scrape":
            asked = {other for other, line in self._lines.items() if other != pid and line.is_open}
            self._scrapes.append(_Scrape(pid, cast("int", message[1]), asked, time.monotonic() + _FRESH_SECONDS))
            for other in asked:
                self._lines[other].send("count")
            self._answer()

    def patience(self) -> Iterable[float]:
        """When `overdue` is to be called, monotonic."""
        return (scrape.until for scrape in self._scrapes)

    def overdue(self) -> None:
        """Who has not answered in time is not waited for any more."""
        now = time.monotonic()
        for scrape in self._scrapes:
            if now >= scrape.until:
                scrape.missing.clear()
        self._answer()

    def _answered(self, pid: int) -> None:
        for scrape in self._scrapes:
            scrape.missing.discard(pid)
        self._answer()

    def _answer(self) -> None:
        done = [scrape for scrape in self._scrapes if not scrape.missing]
        if done:
            self._scrapes = [scrape for scrape in self._scrapes if scrape.missing]
            merged = self._ledger.merged().decode()
            for scrape in done:
                self._lines[scrape.control].send("answer", scrape.number, merged)
