"""Which models an operator, or a cluster's own pages, took out of service."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from proxy.fleet.facts import KINDS, Kind

log = logging.getLogger(__name__)

ELSEWHERE: Final = (
    "Not done: the models of this address are served by FastChat workers behind a gateway, which does not start or "
    "stop them. Do it on the FastChat worker's own machine."
)
STRANGER: Final = "Not done: no FastChat worker behind this gateway ever served the model {model!r}."


class Service:
    """The models that get no new requests and are registered nowhere. What runs goes on; workers keep them loaded.

    version: grows with each change.
    """

    def __init__(self) -> None:
        self.version = 0
        self._out: set[tuple[str, Kind]] = set()

    def answers(self, model: str, kind: Kind) -> bool:
        """Whether this model takes new requests of this kind."""
        return (model, kind) not in self._out

    def stop(self, model: str, kinds: frozenset[Kind]) -> str:
        """Take it out of service; says so."""
        self.version += 1
        self._out |= {(model, kind) for kind in kinds}
        log.info("model %s (%s) was taken out of service", model, "+".join(sorted(kinds)))
        return f"The model {model!r} is out of service at this gateway; requests under way go on to their end."

    def start(self, model: str, kinds: frozenset[Kind]) -> str:
        """Put it back into service; says so."""
        self.version += 1
        self._out -= {(model, kind) for kind in kinds}
        log.info("model %s (%s) is in service", model, "+".join(sorted(kinds)))
        return f"The model {model!r} is in service at this gateway."

    def adopt(self, rows: Iterable[tuple[str, Kind]]) -> None:
        """These were taken out before, and nobody has put them back."""
        self.version += 1
        self._out |= set(rows)

    def clear(self) -> None:
        """Everything is in service again, because nobody may change that any more."""
        for model in sorted({model for model, _ in self._out}):
            log.info("model %s is in service again: dbgpt.management is off", model)
        self.version += 1
        self._out.clear()


def kinds_of(worker_type: str | None) -> frozenset[Kind]:
    """The kinds that a cluster's word for one means; all where it says none. Empty for one that no worker has."""
    return frozenset(kind for kind in KINDS if worker_type in (None, kind))
