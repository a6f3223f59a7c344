"""Models that were ever seen, and their facts, also while nobody serves them."""

from __future__ import annotations

from collections.abc import Container

from proxy.fleet.facts import Kind, ModelFacts

Key = tuple[str, Kind]


class Memory:
    """Up to `most` pairs of model and kind; the longest unseen go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._facts: dict[Key, ModelFacts] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._facts

    def keys(self) -> list[Key]:
        """All pairs, sorted."""
        return sorted(self._facts)

    def get(self, key: Key) -> ModelFacts | None:
        """The facts that were last reported."""
        return self._facts.get(key)

    def kinds(self, model: str) -> list[Kind]:
        """The kinds a model was ever served with, sorted."""
        return sorted(kind for name, kind in self._facts if name == model)

    def remember(self, facts: ModelFacts) -> None:
        """These are the facts now."""
        for kind in facts.kinds:
            self._facts.pop((facts.model, kind), None)
            self._facts[facts.model, kind] = facts

    def crowded(self) -> bool:
        """Whether there are more than there may be."""
        return len(self._facts) > self._most

    def shrink(self, held: Container[Key]) -> list[Key]:
        """Forget what is too much, except what is `held`; what was forgotten."""
        gone = [key for key in self._facts if key not in held][: len(self._facts) - self._most]
        for key in gone:
            del self._facts[key]
        return gone
