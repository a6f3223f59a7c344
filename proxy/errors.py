"""The gateway's own errors: what went wrong with a request, in words that every dialect's error table maps.

A rule pack's error table gives each kind a status and a code of its dialect; `KINDS` is the closed list it may name.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

Kind = Literal[
    "bad_body",  # the body is not JSON, or not an object
    "too_large",  # the body is over the limit
    "unauthorized",  # the caller brings no key, or none of this gateway
    "invalid_request",  # a field is missing, ill-typed or of a kind the model cannot take
    "out_of_range",  # a number is not in its range
    "not_found",  # no route has this path
    "method_not_allowed",  # the path exists with another method
    "model_missing",  # the request names no model and none can be implied
    "model_unknown",  # no worker ever served this model
    "model_unavailable",  # workers serve it, but none can answer now
    "busy",  # workers serve it, but all that may wait for them are waiting already, or it waited too long
    "context_overflow",  # the prompt does not fit into the model's context
    "unsupported",  # the dialect has this call, this deployment does not offer it
    "upstream_refused",  # no connection to the worker
    "upstream_reset",  # the worker closed the connection too early
    "upstream_timeout",  # one of the four timers ran out
    "upstream_protocol",  # the worker's HTTP, framing or frame content is broken
    "upstream_status",  # the worker answered with an HTTP error
    "upstream_error",  # the worker reported an error of its own
    "upstream_empty",  # the worker ended its stream without one frame
    "internal",  # a fault of the gateway or of a rule
]

KINDS: Final[tuple[str, ...]] = get_args(Kind)

# The sides of a rule.
Side = Literal[
    "request",  # what the client asks
    "call",  # what the worker is asked
    "answer",  # what the worker says
    "result",  # what the client is told
]


class Fault(NamedTuple):
    """A rule that could not be followed. pack, rule: its names; "" for the one that was being followed on that side."""

    side: Side
    pack: str = ""
    rule: str = ""


# Faults of the caller: nothing was sent to a worker, and no worker is to blame.
CALLER_KINDS: Final[frozenset[str]] = frozenset(
    {
        "bad_body",
        "too_large",
        "unauthorized",
        "invalid_request",
        "out_of_range",
        "not_found",
        "method_not_allowed",
        "model_missing",
        "model_unknown",
        "context_overflow",
        "unsupported",
    }
)


class GatewayError(Exception):
    """A request that cannot be answered as asked.

    kind: one of `KINDS`; message: one sentence for the caller, naming what was wrong and what was expected;
    field: the caller's name of the field at fault, if one is; upstream_code: the worker's own error code, if it gave
    one; upstream_status: the HTTP status of a worker that answered with an error; retry_after: seconds for which that
    worker wants to be left alone, where it says so; final: no other worker is to be asked, whatever the kind says;
    fault: which rule failed itself, where one did. A request that it refuses as it should is no such failure.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        field: str | None = None,
        upstream_code: int | None = None,
        upstream_status: int | None = None,
        retry_after: float | None = None,
        final: bool = False,
        fault: Fault | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.field = field
        self.upstream_code = upstream_code
        self.upstream_status = upstream_status
        self.retry_after = retry_after
        self.final = final
        self.fault = fault


def model_missing() -> GatewayError:
    """The request says no model."""
    message = "model: is missing or not a string; expected the name of a model"
    return GatewayError("model_missing", message, field="model")
