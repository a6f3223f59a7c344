"""The supervisor's children: who they are, and which of them do not run."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.limits import SILENT_SECONDS
from proxy.processes.line import Line

# How often it is looked at who has said something. Each says something as often.
LOOK_SECONDS = 1.0


@dataclass
class Child:
    """One process. name: of its place, which its replacement takes; since: on the wall clock; born: monotonic; silent:
    looks in a row at which it had said nothing, None until its first word.
    """

    name: str
    pid: int
    line: Line
    since: float
    born: float
    is_ready: bool = False
    leaves: bool = False  # it ends because it was asked to
    silent: int | None = None


def stuck(children: Iterable[Child]) -> list[Child]:
    """Look at them: those that have said nothing for so long that they do not run, each once.

    Looks are counted and not seconds: while the supervisor is stopped, as all of a machine may be, nobody is silent.
    """
    found = []
    for child in children:
        if child.silent is None:
            continue
        child.silent += 1
        if child.silent * LOOK_SECONDS > SILENT_SECONDS:
            child.silent = None
            found.append(child)
    return found


def signal_name(number: int) -> str:
    """For people."""
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those that have no name
        return f"signal {number}"
