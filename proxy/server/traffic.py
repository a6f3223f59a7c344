"""What the operator decided about requests and workers: how often to try again, how long to wait, who stays
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proxy.server.keys import ApiKeys
from proxy.translate.mapping import Scope
from proxy.translate.plan import Spread


class RetryBudget:
    """How many requests may go to another worker: `share` of the requests of about the last `seconds`, and `burst`, or
    as many as were under way on a worker when it failed, where that is more (a burst of 0 is none).

    Without it a fleet that fails as a whole would get every request several times, which keeps it from recovering. The
    loss of one worker, however much was on it, is no such case. All counts fade with time (to a third in `seconds`), so
    that an hour of calm does not pay for a storm. Pure: times are arguments, in seconds of any clock that does not go
    back.
    """

    def __init__(self, share: float = 0.2, burst: float = 10.0, *, seconds: float = 60.0) -> None:
        self._share = share
        self._burst = burst
        self._seconds = seconds
        self._requests = 0.0
        self._retries = 0.0
        self._lost = 0.0  # the most requests that were under way on a worker that failed
        self._at = 0.0

    def configure(self, share: float, burst: float) -> None:
        """New settings; what was counted stays."""
        self._share, self._burst = share, burst

    def request(self, now: float) -> None:
        """A request came."""
        self._fade(now)
        self._requests += 1.0

    def take(self, now: float, under_way: int = 1) -> bool:
        """Whether one more retry is allowed; it is counted then. under_way: requests on the worker that failed, with
        the one to be tried again.
        """
        self._fade(now)
        self._lost = max(self._lost, under_way)
        burst = max(self._burst, self._lost) if self._burst > 0.0 else 0.0
        if self._retries + 1.0 > burst + self._share * self._requests:
            return False
        self._retries += 1.0
        return True

    def give_back(self) -> None:
        """The last retry taken did not come to pass."""
        self._retries = max(0.0, self._retries - 1.0)

    def _fade(self, now: float) -> None:
        passed = now - self._at
        self._at = now
        if passed > 0.0:
            left = math.exp(-passed / self._seconds)
            self._requests *= left
            self._retries *= left
            self._lost *= left


def _no_key(model: str, scope: Scope) -> str | None:
    return None


@dataclass(frozen=True)
class Traffic:
    """pin_header: the header with which a request names its worker (id or address), None: not possible; hash_key: what
    keeps requests together, from the fleet's name of the model and what rules see of the request; attempts: workers
    that one request may be tried on in all; resumes: whether a model's streams go on elsewhere when their worker is
    lost; queue_seconds: how long a request for a model may wait for a worker; accepting: false while stopping; keys:
    of clients; spreads: who shares requests for a model, before what a route says, by the fleet's name of the model.
    """

    pin_header: str | None = None
    hash_key: Callable[[str, Scope], str | None] = _no_key
    attempts: int = 5
    budget: RetryBudget = field(default_factory=RetryBudget)
    resumes: Callable[[str], bool] = lambda model: False
    queue_seconds: Callable[[str], float] = lambda model: 30.0
    accepting: Callable[[], bool] = lambda: True
    keys: ApiKeys = field(default_factory=ApiKeys)
    spreads: Mapping[str, Spread] = field(default_factory=dict)
