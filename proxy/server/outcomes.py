"""What the end of a request says of itself, of its worker, and of trying another one."""

from __future__ import annotations

from typing import Final

from proxy.errors import CALLER_KINDS, GatewayError, Kind
from proxy.fleet.facts import Outcome as Verdict
from proxy.telemetry.request import Outcome

# With a code of 40000 to 49999 a worker blames the caller or the load; of these the ones that begin with 429 are load.
_CALLER_CODES: Final = range(40_000, 50_000)
_LOAD_CODES: Final = range(42_900, 43_000)
_LOAD_STATUSES: Final = frozenset({429, 503})
# The path is the rule's choice and no caller's, so a worker without it is at fault.
_WRONG_PATH: Final = frozenset({404, 405})
# How long a worker with too much to do is left alone (seconds) that does not say it itself, and how long at most.
_REST: Final = 1.0
_REST_MAX: Final = 30.0
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
    """Whether a worker is where it went wrong, whatever a refusal of it is called to the client."""
    return error.kind.startswith("upstream") or error.upstream_status is not None


def verdict_of(error: GatewayError | None) -> Verdict:
    """What a request says of its worker. Blame on the caller and signs of load say nothing."""
    if error is None:
        return "success"
    if not is_upstream(error) or error.upstream_code in _CALLER_CODES:
        return "neutral"
    status = error.upstream_status
    if status is None or status in _WRONG_PATH:
        return "failure"
    return "neutral" if 400 <= status < 500 or status in _LOAD_STATUSES else "failure"


def is_load(error: GatewayError) -> bool:
    """Whether a worker says that it has too much to do."""
    return is_upstream(error) and (error.upstream_status in _LOAD_STATUSES or error.upstream_code in _LOAD_CODES)


def rest_after(error: GatewayError | None) -> float:
    """Seconds for which others are to be asked rather than this worker: one that refuses at once is never busy, so that
    it would get the most requests of all.
    """
    if error is None or not is_load(error):
        return 0.0
    return min(max(error.retry_after or 0.0, _REST), _REST_MAX)


def worth_retrying(error: GatewayError) -> bool:
    """Whether another worker may do better: not with what this one blames on the request itself."""
    if error.final or not is_upstream(error):
        return False
    if error.upstream_status is not None:
        return error.upstream_status >= 500 or error.upstream_status in _LOAD_STATUSES | _WRONG_PATH
    return error.upstream_code not in _CALLER_CODES or error.upstream_code in _LOAD_CODES
