"""What rule files can read about the gateway and its models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from proxy import __version__
from proxy.fleet.facts import Kind, ModelFacts
from proxy.fleet.table import Fleet
from proxy.types import Json, JsonObject


class ModelDirectory:
    """Names, ports and the known models; kept until something changes, because each request asks.

    public_names: public name to the fleet's own, a model's aliases after its own name; default_model: the setting;
    port_model: the model that a port stands for; in_service: whether a model takes requests of a kind, which
    service_version counts the changes of; offered: the names of the models that are offered to further clusters;
    requests: how many are under way, waiting ones too.
    """

    def __init__(
        self,
        fleet: Fleet,
        host: str,
        port: int,
        *,
        default_model: Callable[[], str | None],
        public_names: Callable[[], dict[str, str]],
        port_model: Callable[[int], str | None],
        in_service: Callable[[str, Kind], bool],
        service_version: Callable[[], int],
        offered: Callable[[], Collection[str]],
        requests: Callable[[], int],
    ) -> None:
        self._fleet = fleet
        self._host = host
        self._port = port
        self._default_model = default_model
        self.requests = requests
        self._public_names = public_names
        self._port_model = port_model
        self._in_service, self._service_version, self._offered = in_service, service_version, offered
        self._version = -1, -1
        self._names: dict[str, str] = {}
        self._public: dict[str, str] = {}
        self._gateway: JsonObject = {}
        self._models: list[Json] = []
        self._unfit: dict[frozenset[str], frozenset[str]] = {}

    def gateway(self) -> JsonObject:
        """host, port (as advertised), version, default_model (the setting, else the first model that can chat)."""
        self._refresh()
        return self._gateway

    def listener(self, port: int) -> JsonObject:
        """port, and model (its public name) where the port stands for one."""
        self._refresh()
        model = self._port_model(port)
        return {"port": port, "model": None if model is None else self._public.get(model, model)}

    def models(self) -> list[Json]:
        """model (a public name), kind, up, offered, address and context_length of each name and kind that was ever
        seen.
        """
        self._refresh()
        return self._models

    def resolve(self, model: str) -> str:
        """The fleet's own name of a model."""
        self._refresh()
        return self._names.get(model, model)

    def unfit(self, backends: frozenset[str] | None) -> frozenset[str]:
        """The workers of other backends than these, by address; None: whichever will do."""
        self._refresh()
        if backends is None:
            return frozenset()
        found = self._unfit.get(backends)
        if found is None:
            said = {view.address: _backends(view.models) for view in self._fleet.workers()}
            found = frozenset(address for address, theirs in said.items() if theirs and not theirs & backends)
            self._unfit[backends] = found
        return found

    def _refresh(self) -> None:
        version = self._fleet.version, self._service_version()
        if self._version == version:
            return
        self._version = version
        self._unfit = {}
        self._names = self._public_names()
        called: dict[str, list[str]] = {}
        for name, model in self._names.items():
            called.setdefault(model, []).append(name)
        self._public = {model: names[0] for model, names in called.items()}
        rows, offered = self._fleet.models(), self._offered()
        self._models = []
        for row in rows:
            facts = self._fleet.known(row.model, row.kind)
            self._models += [
                {
                    "model": name,
                    "kind": row.kind,
                    "up": row.answerable and self._in_service(row.model, row.kind),
                    "offered": name in offered,
                    "address": facts.document.get("address") if facts else None,
                    "context_length": facts.context_length if facts else None,
                }
                for name in called.get(row.model, [row.model])
            ]
        chats = [self._public.get(row.model, row.model) for row in rows if row.kind == "llm"]
        self._gateway = {
            "host": self._host,
            "port": self._port,
            "version": __version__,
            "default_model": self._default_model() or (chats[0] if chats else None),
        }


def _backends(models: Iterable[ModelFacts]) -> set[str]:
    """The backends that a worker's models name."""
    return {backend for facts in models if isinstance(backend := facts.document.get("backend"), str)}
