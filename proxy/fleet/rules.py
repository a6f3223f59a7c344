"""How a fleet is used: the policy, the limits and the waiting of each model, and when a worker is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

PolicyName = Literal["least_in_flight", "power_of_two", "weighted_round_robin", "random", "consistent_hash"]
POLICY_NAMES: Final[tuple[PolicyName, ...]] = get_args(PolicyName)

# So many other models are tried for one that has no worker; a longer chain is a mistake in the settings.
FALLBACKS_MAX: Final = 3


@dataclass(frozen=True)
class ModelRules:
    """One model. worker_limit: most requests at once on each worker, None: not set; queue_length: requests that may
    wait for each kind of it; queue_seconds: how long (kept by whoever waits); fallback: the model that answers where
    this one has no worker, or its queue is full."""

    policy: PolicyName = "least_in_flight"
    worker_limit: int | None = None
    queue_length: int = 64
    queue_seconds: float = 30.0
    fallback: str | None = None


class BreakerRules(NamedTuple):
    """A worker is left alone after so many failures in a row, or at such a share of failures among the last outcomes:
    for open_seconds, twice as long after each trial that failed, up to most_open_seconds."""

    failures: int = 5
    share: float = 0.5
    open_seconds: float = 5.0
    most_open_seconds: float = 60.0


@dataclass(frozen=True)
class FleetRules:
    """All of it. models: those that differ from `default`, by the fleet's own name; worker_limits: by address;
    default_limit: where nothing else is known of a worker; leak_seconds: how long a worker may hold requests of nobody
    before its slots count as lost."""

    default: ModelRules = field(default_factory=ModelRules)
    models: Mapping[str, ModelRules] = field(default_factory=dict)
    worker_limits: Mapping[str, int] = field(default_factory=dict)
    breaker: BreakerRules = field(default_factory=BreakerRules)
    default_limit: int = 5
    leak_seconds: float = 30.0

    def of(self, model: str) -> ModelRules:
        """The rules of one model."""
        return self.models.get(model, self.default)

    def limit(self, address: str, model: str | None, learned: int | None) -> int:
        """Most requests at once on this worker for this model (None: whichever); at least 1."""
        for limit in (
            self.worker_limits.get(address),
            None if model is None else self.of(model).worker_limit,
            self.default.worker_limit,
            learned,
        ):
            if limit is not None:
                return max(1, limit)
        return max(1, self.default_limit)

    def chain(self, model: str) -> tuple[str, ...]:
        """The model itself and those that stand in for it, in order. A loop ends where it would begin again."""
        names = [model]
        for _ in range(FALLBACKS_MAX):
            fallback = self.of(names[-1]).fallback
            if fallback is None or fallback in names:
                break
            names.append(fallback)
        return tuple(names)
