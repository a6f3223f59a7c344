"""Small JSON calls to other programs' control interfaces: bounded in time and size, and every failure has a kind."""

from __future__ import annotations

import asyncio
import errno
import functools
import ssl
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Protocol

import aiohttp
import orjson

from proxy.types import Json

# refused: nobody listens there; unreachable: no way there (name, route, TLS); connect_timeout: no answer to the
# connection attempt; timeout: connected, no complete answer in time; reset: the connection broke; status: an HTTP
# answer other than 200 (a redirect is one, it is never followed); too_large, malformed: the body.
ControlErrorKind = Literal[
    "refused", "unreachable", "connect_timeout", "timeout", "reset", "status", "too_large", "malformed"
]


class ControlError(Exception):
    """A control call failed. kind as above; status: the HTTP status for kind "status", else None."""

    def __init__(self, kind: ControlErrorKind, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind: ControlErrorKind = kind
        self.status = status


class EventHook(Protocol):
    """Where a loop tells what happened, for counting. Must not raise."""

    def __call__(self, name: str, /, **labels: str) -> None:
        """One event."""


def no_events(name: str, /, **labels: str) -> None:
    """An event hook that counts nothing."""


class CallLimits(NamedTuple):
    """Bounds of one call: seconds to connect, seconds in all, bytes of the answer."""

    connect: float
    total: float
    max_bytes: int


def brief(value: Json) -> str:
    """A value of another program for a message: text cut to 80 characters, of an array or object only how large it is.

    To write it whole could take long, or fail where it is nested deeper than Python recurses.
    """
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    return repr(str(value)[:80])


def new_session() -> aiohttp.ClientSession:
    """A session for control calls; needs a running loop.

    Each call has a connection of its own: the servers in question close an idle one after 5 s, and a call that meets
    this moment would fail for nothing. Proxy variables are not read: this is traffic inside a cluster. No cookies.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )


def has_controls(name: str) -> bool:
    """Whether a name holds control characters or surrogates, which logs, labels and other programs choke on."""
    return any(unicodedata.category(char) in ("Cc", "Cs") for char in name)


async def call_json(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    limits: CallLimits,
    *,
    body: Json = None,
    params: Mapping[str, str] | None = None,
) -> Json:
    """One call; the decoded body of an answer 200. Raises ControlError for everything else."""
    return decoded(await call(session, method, url, limits, body=body, params=params), f"{method} {url}")


async def call(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    limits: CallLimits,
    *,
    body: Json = None,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """One call; the body of an answer 200. Raises ControlError for everything else. headers: those of no body's own."""
    data = None if body is None else orjson.dumps(body)
    given = {**(headers or {}), **({} if data is None else {"Content-Type": "application/json"})}
    timeout = aiohttp.ClientTimeout(total=limits.total, sock_connect=limits.connect)
    try:
        async with session.request(
            method,
            url,
            data=data,
            params=params,
            headers=given,
            timeout=timeout,
            allow_redirects=False,
            ssl=_tls() if url.startswith("https:") else True,
        ) as response:
            if response.status != 200:
                raise ControlError(
                    "status", f"{method} {url} answered {response.status}, expected 200", response.status
                )
            return await _read(response, limits.max_bytes, f"{method} {url}")
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
        raise _classified(error, f"{method} {url}", limits) from error


def decoded(content: bytes, what: str) -> Json:
    """The JSON of an answer to `what`; ControlError where it is none."""
    try:
        value: Json = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ControlError("malformed", f"{what} answered what is not JSON: {error}") from error
    return value


async def pause(wake: asyncio.Event, seconds: float) -> None:
    """Wait for so long, or until the event is set; it is not cleared.

    Unlike `asyncio.wait_for` (Python 3.10, 3.11) it does not lose a cancellation that comes in the moment of the event.
    """
    timer = asyncio.get_running_loop().call_later(seconds, wake.set)
    try:
        await wake.wait()
    finally:
        timer.cancel()


async def end_tasks(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until all have ended.

    One cancellation is not enough: aiohttp (3.14) turns one that comes in the same moment as its own timeout into the
    timeout, and a loop that outlives its timeouts goes on. It happens when the event loop was blocked for a moment.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.2)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Verifies with the system's certificates. They take a while to read, and most fleets are called without."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _read(response: aiohttp.ClientResponse, max_bytes: int, what: str) -> bytes:
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > max_bytes:
            raise ControlError("too_large", f"{what} answered more than {max_bytes} bytes")
    return bytes(content)


def _classified(error: Exception, what: str, limits: CallLimits) -> ControlError:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ControlError("connect_timeout", f"{what}: no connection in {limits.connect:g} s")
    if isinstance(error, asyncio.TimeoutError):
        return ControlError("timeout", f"{what}: no complete answer in {limits.total:g} s")
    reason = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError):
        if error.os_error.errno == errno.ECONNREFUSED:
            return ControlError("refused", f"{what}: connection refused")
        return ControlError("unreachable", f"{what}: {reason}")
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL, ValueError)):
        return ControlError("malformed", f"{what}: {reason}")
    return ControlError("reset", f"{what}: {reason}")
