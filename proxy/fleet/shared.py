"""A fleet of which other processes have a copy, and which can go on where an earlier one ended."""

from __future__ import annotations

from proxy.fleet.facts import ModelFacts
from proxy.fleet.lease import Lease
from proxy.fleet.table import Fleet


class SharedFleet(Fleet):
    """What makes one of another one's knowledge, and takes over what is held of it."""

    def adopt(self, address: str, model: str, now: float) -> Lease:
        """A lease that is held already, of an earlier fleet: it counts, whatever the limit says.

        A worker that is not known stays out of use until somebody looks at it, and goes with its last lease otherwise.
        FleetFull as in `report`.
        """
        worker = self._record(address, now)
        if not worker.up:
            worker.reason = worker.reason or "not looked at yet"
            worker.on_idle = self._gone
        return self._desk.adopt(worker, ModelFacts(model, frozenset(), 0, None, {}), now)

    def remembered(self) -> list[tuple[str, ModelFacts]]:
        """The facts of every model that was ever seen, each with the address of the worker that brought it first; the
        longest unseen come first.
        """
        return self._memory.rows()

    def remember(self, address: str, facts: ModelFacts) -> None:
        """Another fleet remembers this, as `remembered` says it."""
        self._memory.remember(facts, address)
        self._changed()
