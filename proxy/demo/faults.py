"""What can be made to go wrong with a request to the demonstration worker, so that a gateway can be tried on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from proxy.demo.generation import INTERNAL_ERROR
from proxy.types import JsonObject


class Fault(NamedTuple):
    """Something that goes wrong with one request.

    kind: "cut": the connection closes; "reset": it closes with a TCP reset, which may overtake what was sent before;
    "stall": nothing for `seconds`, then on as usual; "status": an HTTP error with `data` as its body; "error": an error
    frame (or object) with `message` and `code`, then the end; "end": the stream ends cleanly, without a finish reason;
    "frame": `data` goes out as it is, then on as usual.
    after: frames that go out before it; None: before the response's head. Calls that are not streams know only "cut",
    "stall", "status" and "error".
    """

    kind: Literal["cut", "reset", "stall", "status", "error", "end", "frame"]
    after: int | None = None
    seconds: float = 0.0
    status: int = 500
    data: bytes = b"Internal Server Error"
    message: str = "a fault was asked for"
    code: int = INTERNAL_ERROR


FaultHook = Callable[[str, JsonObject], "Fault | None"]
