"""What control tells the serving processes of its fleet: everything once, then what has changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from proxy.fleet.facts import KINDS, Kind, ModelFacts
from proxy.fleet.shared import SharedFleet
from proxy.processes.channel import Message
from proxy.processes.wire import facts_to_json, worker_to_json
from proxy.types import Json, JsonObject

_Worker = tuple[bool, str, bool, tuple[ModelFacts, ...]]


class Shown(NamedTuple):
    """What is shown beside the fleet, all as `ModelDirectory` has it. ports: of models that have one of their own."""

    public_names: Callable[[], Mapping[str, str]]
    offered: Callable[[], Collection[str]]
    in_service: Callable[[str, Kind], bool]
    ports: Callable[[], Mapping[str, int]]


class View:
    """`news` are the messages for those who know what was said before, `everything` those for one who knows nothing."""

    def __init__(self, fleet: SharedFleet, shown: Shown) -> None:
        self._fleet, self._shown = fleet, shown
        self._workers: dict[str, _Worker] = {}
        self._said: dict[str, Json] = {}

    def news(self) -> list[Message]:
        """What has changed since the last time, in the order in which it is to be heard."""
        messages: list[Message] = []
        views = {view.address: view for view in self._fleet.workers()}
        for address in [address for address in self._workers if address not in views]:
            del self._workers[address]
            messages.append(["gone", address])
        for address, view in views.items():
            known = view.up, view.reason, view.drained, view.models
            if self._workers.get(address) != known:
                self._workers[address] = known
                messages.append(["worker", worker_to_json(view)])
        for name, value in self._rest().items():
            if self._said.get(name) != value:
                self._said[name] = value
                messages.append([name, value])
        return messages

    def everything(self) -> list[Message]:
        """The whole of what `news` has said until now."""
        remembered: list[Json] = [[address, facts_to_json(facts)] for address, facts in self._fleet.remembered()]
        workers: list[Message] = [
            ["worker", worker_to_json(view)] for view in self._fleet.workers() if view.address in self._workers
        ]
        return [["remembered", remembered], *workers, *([name, value] for name, value in self._said.items())]

    def _rest(self) -> JsonObject:
        shown = self._shown
        rows = sorted({(row.model, kind) for row in self._fleet.models() for kind in KINDS})
        out: list[Json] = [[model, kind] for model, kind in rows if not shown.in_service(model, kind)]
        return {
            "names": {**shown.public_names()},
            "offered": [*sorted(shown.offered())],
            "out_of_service": out,
            "ports": {**shown.ports()},
        }
