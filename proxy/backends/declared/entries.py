"""The workers that the settings declare, and the looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from proxy.backends.declared.look import BackendRules, Entry, PlannedLooks, WantedModel
from proxy.backends.declared.settings import DeclaredModel, DeclaredWorker
from proxy.backends.workers.look import Looks, ModelKnowledge
from proxy.backends.workers.settings import SourceSettings
from proxy.translate.probe import Said


def planned_looks(
    backend: str,
    rules: BackendRules,
    entry: Callable[[str], Entry],
    models: ModelKnowledge,
    settings: SourceSettings,
) -> PlannedLooks:
    """Looks at the workers of a backend whose rules have a probe. ValueError where they have none."""
    if rules.probe is None:
        raise ValueError(f"the rules of the backend '{backend}' have no probe, so its workers cannot be watched")
    return PlannedLooks(backend, rules.probe, rules.headers, entry, models, settings)


def declared_looks(
    workers: Iterable[DeclaredWorker],
    rules: Mapping[str, BackendRules],
    models: ModelKnowledge,
    settings: SourceSettings,
) -> dict[str, Looks]:
    """By address, how each worker is looked at. Those of one backend share their looks."""
    entries = {worker.url: _entry(worker) for worker in workers}
    shared: dict[str, Looks] = {}
    for worker in workers:
        if worker.kind not in shared:
            found = rules[worker.kind]
            shared[worker.kind] = planned_looks(worker.kind, found, entries.__getitem__, models, settings)
    return {worker.url: shared[worker.kind] for worker in workers}


def unknown_kinds(workers: Iterable[DeclaredWorker], rules: Mapping[str, BackendRules]) -> list[str]:
    """One sentence for each worker of a backend that no rules tell how to look at."""
    known = ", ".join(sorted(name for name, each in rules.items() if each.probe is not None)) or "none"
    return [
        f"backends[{number}].kind: no backend '{worker.kind}'; known: {known}"
        for number, worker in enumerate(workers)
        if worker.kind not in rules or rules[worker.kind].probe is None
    ]


def _entry(worker: DeclaredWorker) -> Entry:
    models = {own: _wanted(own, model) for own, model in worker.wanted().items()}
    return Entry(models=None if worker.models is None else models, key=worker.secret(), interval=worker.probe_seconds)


def _wanted(own: str, model: DeclaredModel) -> WantedModel:
    kinds = None if model.kinds is None else frozenset(model.kinds)
    return WantedModel(model.name or own, Said(kinds, model.context_length))
