"""What a client asks the gateway itself to do about a model."""

from __future__ import annotations

from proxy.errors import GatewayError
from proxy.limits import MODEL_NAME_MAX
from proxy.server.admission import model_missing
from proxy.server.facilities import Facilities
from proxy.translate.mapping import RULE_FAILURES, Scope
from proxy.translate.plan import Operation


def operate(facilities: Facilities, operation: Operation, scope: Scope) -> None:
    """Do it. GatewayError in words for the client where it is not done."""
    try:
        model = operation.model(scope)
        kind = operation.kind(scope) if operation.kind is not None else None
    except RULE_FAILURES as problem:
        raise GatewayError("invalid_request", f"the request does not fit the rule: {problem}") from None
    if not isinstance(model, str) or not 0 < len(model) <= MODEL_NAME_MAX:
        raise model_missing()
    if kind is not None and not isinstance(kind, str):
        raise GatewayError("invalid_request", "the kind of the model is not a string")
    done, sentence = facilities.operate(operation.name, model, kind)
    if not done:
        raise GatewayError("unsupported", sentence)
