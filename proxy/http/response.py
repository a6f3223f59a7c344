"""What goes back to a client, and the bytes of its head."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
# These say what the response is, where it ends, and what becomes of the connection.
_OWN: Final = frozenset(
    {"connection", "content-length", "content-type", "date", "keep-alive", "trailer", "transfer-encoding", "upgrade"}
)
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Response:
    """A whole response. close: the connection ends with it."""

    __slots__ = ("body", "close", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
        *,
        close: bool = False,
    ) -> None:
        self.status, self.body, self.content_type, self.close = status, body, content_type, close
        self.headers = headers


class Streamed:
    """A response that was sent as it was made, see `Request.stream`."""

    __slots__ = ("status",)

    def __init__(self, status: int) -> None:
        self.status = status


def has_no_body(status: int) -> bool:
    """Whether a response of this status ends with its head, whatever its headers say."""
    return status in (204, 304) or status < 200


def head_bytes(status: int, content_type: str, headers: Mapping[str, str] | None, rest: str) -> bytes:
    """The head of a response. rest: the lines that say where it ends, each with its line end.

    ValueError for a header that would end its line, or is the server's own: nothing of a response may be forged by what
    it is made of.
    """
    lines = f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n"
    if content_type:
        lines += f"Content-Type: {_checked(content_type)}\r\n"
    if headers:
        for name, value in headers.items():
            if name.lower() in _OWN:
                raise ValueError(f"the header {name} is written by the server itself")
            lines += f"{_checked(name)}: {_checked(value)}\r\n"
    return f"{lines}Date: {_date()}\r\n{rest}\r\n".encode()


def _checked(text: str) -> str:
    if "\r" in text or "\n" in text or "\0" in text:
        raise ValueError(f"a header holds a line break: {text[:80]!a}")
    return text


class _Clock:
    """The date of this second, written once."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        second = int(self._now())
        if second != self._second:
            at = time.gmtime(second)
            self._text = (
                f"{_DAYS[at.tm_wday]}, {at.tm_mday:02d} {_MONTHS[at.tm_mon - 1]} {at.tm_year} "
                f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} GMT"
            )
            self._second = second
        return self._text


_date: Final = _Clock(time.time)
