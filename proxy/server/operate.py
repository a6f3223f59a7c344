"""What a client asks the gateway itself to do about a model."""

from __future__ import annotations

from proxy.errors import GatewayError
from proxy.server.facilities import Facilities
from proxy.translate.mapping import Scope
from proxy.translate.plan import Operation
from proxy.translate.request import operated_on


async def operate(facilities: Facilities, operation: Operation, scope: Scope) -> None:
    """Do it. GatewayError in words for the client where it is not done."""
    done, sentence = await facilities.operate(operation.name, *operated_on(operation, scope))
    if not done:
        raise GatewayError("unsupported", sentence)
