"""What the end of a request says of itself, of its worker, and of trying another one."""

from __future__ import annotations

from typing import Final

from proxy.errors import CALLER_KINDS, GatewayError, Kind
from proxy.fleet.facts import Outcome as Verdict
from proxy.telemetry.request import Outcome

# With a code of 40000 to 49999 a worker blames the caller or the load; of these the ones that begin with 429 are load.
_CALLER_CODES: Final = range(40_000, 50_000)
_LOAD_CODES: Final = range(42_900, 43_000)
_REFUSALS: Final[frozenset[Kind]] = frozenset({"model_unavailable", "busy"})


def outcome_of(error: GatewayError | None) -> Outcome:
    """Under which word a request is counted that was not cancelled."""
    if error is None:
        return "ok"
    if error.kind in CALLER_KINDS:
        return "client_error"
    if error.kind in _REFUSALS:
        return "refused"
    return "upstream_error" if is_upstream(error) else "gateway_error"


def is_upstream(error: GatewayError) -> bool:
    """Whether a worker is where it went wrong."""
    return error.kind.startswith("upstream")


def verdict_of(error: GatewayError | None) -> Verdict:
    """What a request says of its worker. Blame on the caller and signs of load say nothing."""
    if error is None:
        return "success"
    if not is_upstream(error) or error.upstream_code in _CALLER_CODES:
        return "neutral"
    status = error.upstream_status
    return "neutral" if status is not None and (400 <= status < 500 or status == 503) else "failure"


def worth_retrying(error: GatewayError) -> bool:
    """Whether another worker may do better: not with what this one blames on the request itself."""
    if error.final or not is_upstream(error):
        return False
    if error.upstream_status is not None:
        return error.upstream_status >= 500 or error.upstream_status == 429
    return error.upstream_code not in _CALLER_CODES or error.upstream_code in _LOAD_CODES
