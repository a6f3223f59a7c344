"""A worker for a request: at once, or after waiting in the fleet's queue for no longer than the request may wait."""

from __future__ import annotations

import asyncio
from typing import Literal, NamedTuple

from proxy.errors import GatewayError
from proxy.fleet.facts import AtLimit, FleetError, Kind, NoWorker, QueueFull, UnknownModel, UnknownWorker
from proxy.server.facilities import Facilities
from proxy.server.leases import Leased
from proxy.types import Json

_NAMES_SHOWN = 20


class Wanted(NamedTuple):
    """What a request needs. model: by the fleet's own name; name: as its client says it; kind: None for any; key: what
    keeps requests together; pinned: the worker that it names; header: where it names it; backends: whose workers can be
    asked, None: whichever.
    """

    model: str
    name: str
    kind: Kind | None
    key: str | None = None
    pinned: str | None = None
    header: str | None = None
    backends: frozenset[str] | None = None


async def lease_now(
    facilities: Facilities, wanted: Wanted, avoid: frozenset[str] = frozenset(), *, spare: bool = False
) -> Leased | None:
    """A worker, None where all are at their limit. GatewayError where there is nobody to wait for. spare: for a copy of
    a request.
    """
    refuse_out_of_service(facilities, wanted)
    try:
        lease = await facilities.leases.acquire(
            wanted.model,
            wanted.kind or "llm",
            facilities.clock(),
            key=wanted.key,
            pinned=wanted.pinned,
            avoid=avoid,
            spare=spare,
        )
    except AtLimit:
        return None
    except FleetError as error:
        raise refusal(facilities, wanted, error) from None
    if lease.model != wanted.model:
        _check_service(facilities, wanted, lease)
    return lease


def refuse_out_of_service(facilities: Facilities, wanted: Wanted) -> None:
    """GatewayError where the model takes no requests."""
    if not facilities.in_service(wanted.model, wanted.kind or "llm"):
        raise _out_of_service(wanted, wanted.model)


async def queued_lease(
    facilities: Facilities,
    wanted: Wanted,
    label: str,
    seconds: float,
    avoid: frozenset[str] = frozenset(),
) -> Leased:
    """A worker after a wait of at most `seconds`, which is counted for the model `label`. GatewayError where there was
    none in that time.

    Cancelled while it waits it leaves the queue at once, and gives back what it was granted in the same moment.
    """
    if seconds <= 0.0:
        raise _waited_too_long(wanted, seconds)
    began = facilities.clock()
    result: Literal["granted", "timeout", "refused", "left"] = "left"
    place: asyncio.Future[Leased | FleetError] = asyncio.get_running_loop().create_future()
    try:
        ticket = facilities.leases.wait(
            wanted.model,
            wanted.kind or "llm",
            began,
            place.set_result,
            place.set_result,
            key=wanted.key,
            pinned=wanted.pinned,
            avoid=avoid,
        )
    except FleetError as error:
        raise refusal(facilities, wanted, error) from None
    try:
        await asyncio.wait({place}, timeout=seconds)
        ticket.cancel()
        if not place.done():
            result = "timeout"
            raise _waited_too_long(wanted, seconds)
        found = place.result()
        result = "refused"
        if isinstance(found, FleetError):
            raise refusal(facilities, wanted, found)
        _check_service(facilities, wanted, found)
        result = "granted"
        return found
    except asyncio.CancelledError:
        ticket.cancel()
        if place.done():
            unwanted = place.result()
            if not isinstance(unwanted, FleetError):
                unwanted.release("neutral", facilities.clock())
        raise
    finally:
        facilities.metrics.waited(label, facilities.clock() - began, result)


def refusal(facilities: Facilities, wanted: Wanted, error: FleetError) -> GatewayError:
    """The fleet's answer in the words of the gateway's error tables."""
    if isinstance(error, UnknownModel):
        return unknown_model(facilities.directory.models(), wanted.name, wanted.kind)
    if isinstance(error, UnknownWorker):
        return GatewayError("invalid_request", f"header {wanted.header}: {error}", field=wanted.header)
    if isinstance(error, QueueFull):
        return GatewayError(
            "busy",
            f"all workers of the model '{wanted.name}' are busy, and as many requests wait as may",
            field="model",
        )
    return nobody(wanted, "" if isinstance(error, NoWorker) else f" ({error})")


def nobody(wanted: Wanted, why: str = "") -> GatewayError:
    """Workers served the model before, and none can answer now."""
    message = f"no worker for the model '{wanted.name}' can answer now{why}"
    return GatewayError("model_unavailable", message, field="model")


def unknown_model(models: list[Json], name: str, kind: Kind | None) -> GatewayError:
    """Nobody ever served this model; `models` are the rows that rules see."""
    rows = [row for row in models if isinstance(row, dict)]
    known = sorted({str(row["model"]) for row in rows if kind is None or row["kind"] == kind})
    names = ", ".join(known[:_NAMES_SHOWN]) or "none"
    return GatewayError("model_unknown", f"model: no worker serves '{name}'; known models: {names}", field="model")


def _check_service(facilities: Facilities, wanted: Wanted, lease: Leased) -> None:
    """Give a lease back whose model, perhaps a fallback, takes no requests: GatewayError."""
    if not facilities.in_service(lease.model, wanted.kind or "llm"):
        lease.release("neutral", facilities.clock())
        raise _out_of_service(wanted, lease.model)


def _out_of_service(wanted: Wanted, model: str) -> GatewayError:
    which = f"the model '{wanted.name}'"
    if model == wanted.model:
        return GatewayError("model_unavailable", f"{which} is out of service", field="model")
    text = f"no worker for {which} can answer now, and its fallback '{model}' is out of service"
    return GatewayError("model_unavailable", text, field="model")


def _waited_too_long(wanted: Wanted, seconds: float) -> GatewayError:
    return GatewayError(
        "busy",
        f"all workers of the model '{wanted.name}' are busy, and none became free within {seconds:g} s",
        field="model",
    )
