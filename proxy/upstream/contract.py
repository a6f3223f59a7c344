"""What the caller of an upstream exchange gives and gets: limits, events, errors."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

ErrorKind = Literal[
    "refused",
    "connect_timeout",
    "reset",
    "first_timeout",
    "idle_timeout",
    "total_timeout",
    "protocol",
    "too_large",
]


class Timeouts(NamedTuple):
    """Seconds. `connect` covers name look-up, TCP and TLS. `first` runs from the written request until the sink has
    `begun` (or the end). `idle` runs between socket reads after that. `total` covers everything from the call of
    `open`, `spent` seconds of which earlier exchanges for the same purpose took. While the caller has paused the
    exchange only `total` runs, and `resume` starts the other one anew."""

    connect: float = 5
    first: float = 600
    idle: float = 300
    total: float = 3600
    spent: float = 0

    @property
    def whole(self) -> str:
        """`total` in words, for messages."""
        before = f", of which {round(self.spent, 1):g} s were over before" if self.spent >= 0.1 else ""
        return f"{self.total:g} s{before}"


class UpstreamError(Exception):
    """An exchange did not reach its end.

    `kind` is one of a closed set, fit for a metric label: `refused` no connection (also name look-up and TLS),
    `connect_timeout`, `first_timeout`, `idle_timeout`, `total_timeout`, `reset` the peer closed too early,
    `protocol` what came is not acceptable HTTP/1.x, `too_large` a response head or the like above its limit.
    `begun` says that response bytes had come, so another worker must not be asked silently.
    """

    def __init__(self, kind: ErrorKind, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.begun = begun


class ResponseHead(NamedTuple):
    """Status and headers; names in lower case, values as latin-1 text, repeated headers joined with `, `."""

    status: int
    headers: dict[str, str]


class Sink(Protocol):
    """Gets one response, synchronously from the socket callback: `on_head` once, `on_data` for each socket read that
    brought body bytes, then exactly one of `on_end` and `on_error`. Nothing comes after `Exchange.close`.

    A method that raises is a fault of the program: the connection is aborted, the exception goes to the event loop's
    exception handler, and unless the exchange was already over `on_error` gets kind `protocol` with the exception as
    its cause.

    begun: whether what came is the beginning of an answer, and not only an empty line that keeps the connection alive;
    looked at after each `on_data` until it is true.
    """

    @property
    def begun(self) -> bool: ...

    def on_head(self, head: ResponseHead) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_error(self, error: UpstreamError) -> None: ...
