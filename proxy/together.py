"""What a gateway of several processes does in all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from proxy.recording.recorder import Elsewhere
from proxy.reload import Others
from proxy.server.turns import TakesTurns
from proxy.telemetry.rules import RuleTable
from proxy.types import Json


class Gathering(Protocol):
    """What all processes count."""

    async def scrape(self) -> bytes:
        """The page of the metrics."""

    async def rules(self) -> RuleTable:
        """What the rules in force do."""


class Together(NamedTuple):
    """counts: of all; processes: the list of them, for people; others: where a reload has to hold too; recordings:
    what else is recorded; turns: at workers.
    """

    counts: Gathering
    processes: Callable[[], list[Json]]
    others: Others
    recordings: Elsewhere
    turns: TakesTurns
