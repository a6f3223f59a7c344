"""Which labels keep a name of their own where processes are added up, by the bounds that hold in each of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from proxy.limits import DROPPED_FIELDS_MAX
from proxy.telemetry.catalog import DROPPED_FIELDS, RULE_FAMILIES
from proxy.telemetry.cells import NONE, OTHER, Labels
from proxy.telemetry.events import word_labels
from proxy.telemetry.metrics import DIMENSIONS, Dimension
from proxy.telemetry.tables import Family, Key

# What stands for no name needs no place among names.
_NO_NAMES: Final = (OTHER, NONE)


class Folds:
    """Names in the order in which they came; a name that has its place keeps it until it is forgotten.

    cap: of each dimension, and of the rules of all times.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._dimensions: dict[str, Labels] = {name: Labels(cap) for name in DIMENSIONS}
        self._words: dict[tuple[str, str], Labels] = {}
        self._rules: set[Key] = set()
        self._fields: dict[Key, set[Key]] = {}

    def names(self, label: Dimension) -> Collection[str]:
        """Those that have a place."""
        return self._dimensions[label].known()

    def forget(self, label: Dimension, value: str) -> None:
        self._dimensions[label].forget(value)

    def fold(self, family: Family, key: Key) -> Key:
        """The labels under which a series of one process is counted."""
        if family in RULE_FAMILIES:
            return self._rule(family, key)
        return tuple(
            value if value in _NO_NAMES else self._labels(family, label).fold(value)
            for label, value in zip(family.labels, key, strict=True)
        )

    def shown(self, family: Family, key: Key, value: float) -> Key | None:
        """The same for a gauge; None for a nought of something that was forgotten."""
        model = key[family.labels.index("model")] if "model" in family.labels else OTHER
        if not value and model not in _NO_NAMES and model not in self._dimensions["model"].known():
            return None
        return self.fold(family, key)

    def _labels(self, family: Family, label: str) -> Labels:
        dimension = self._dimensions.get(label)
        if dimension is not None:
            return dimension
        return self._words.setdefault((family.name, label), word_labels())

    def _rule(self, family: Family, key: Key) -> Key:
        rule = key[:2]
        if rule not in self._rules and rule != (OTHER, OTHER):
            if len(self._rules) >= self._cap:
                rule = OTHER, OTHER
            else:
                self._rules.add(rule)
        if family != DROPPED_FIELDS:
            return (*rule, *key[2:])
        field = key[2:]
        side, _, accepted = field
        fields = self._fields.setdefault(rule, set())
        if field not in fields and accepted != "true" and len(fields) >= DROPPED_FIELDS_MAX:
            return (*rule, side, OTHER, accepted)
        fields.add(field)
        return (*rule, *field)
