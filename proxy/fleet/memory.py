"""Models that were ever seen, and their facts, also while nobody serves them."""

from __future__ import annotations

from collections.abc import Container

from proxy.fleet.facts import Kind, ModelFacts

Key = tuple[str, Kind]


class Memory:
    """Up to `most` pairs of model and kind, and up to `most_of_one` models that one worker brought first; the longest
    unseen go first."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._facts: dict[Key, ModelFacts] = {}
        self._brought: dict[str, str] = {}  # model to the address of the worker that brought it first

    def __contains__(self, key: Key) -> bool:
        return key in self._facts

    def keys(self) -> list[Key]:
        """All pairs."""
        return list(self._facts)

    def get(self, key: Key) -> ModelFacts | None:
        """The facts that were last reported."""
        return self._facts.get(key)

    def rows(self) -> list[tuple[str, ModelFacts]]:
        """Everything that is known, each once, with the address that brought it first; the longest unseen first."""
        each = {id(facts): facts for facts in self._facts.values()}
        return [(self._brought[facts.model], facts) for facts in each.values()]

    def kinds(self, model: str) -> list[Kind]:
        """The kinds a model was ever served with, sorted."""
        return sorted(kind for name, kind in self._facts if name == model)

    def remember(self, facts: ModelFacts, address: str) -> None:
        """These are the facts now, by the worker at this address."""
        self._brought.setdefault(facts.model, address)
        for kind in facts.kinds:
            self._facts.pop((facts.model, kind), None)
            self._facts[facts.model, kind] = facts

    def crowded(self, address: str) -> bool:
        """Whether there are more than there may be, of this worker or in all."""
        return len(self._facts) > self._most or self._excess(address) > 0

    def shrink(self, address: str, held: Container[Key]) -> list[Key]:
        """Forget what is too much, of this worker first, except what is `held`; what was forgotten."""
        loose = [key for key in self._facts if key not in held]
        own = dict.fromkeys(model for model, _ in loose if self._brought[model] == address)
        left = {*list(own)[: self._excess(address)]}
        gone = [key for key in loose if key[0] in left]
        rest = [key for key in loose if key[0] not in left]
        gone += rest[: max(0, len(self._facts) - len(gone) - self._most)]
        for key in gone:
            del self._facts[key]
        known = {model for model, _ in self._facts}
        self._brought = {model: by for model, by in self._brought.items() if model in known}
        return gone

    def _excess(self, address: str) -> int:
        return sum(by == address for by in self._brought.values()) - self._most_of_one
