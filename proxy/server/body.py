"""Bodies of requests: read, bounded one by one and all together, and understood."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

import orjson

from proxy.errors import GatewayError
from proxy.http import BodyError, Request
from proxy.limits import REQUEST_BODY_SECONDS, REQUEST_MAX_BYTES, REQUEST_MAX_VALUES
from proxy.types import Json

_CODINGS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Bodies:
    """The bodies of all requests under way, which have `held` bytes and no more than `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0


class Share:
    """One request's part of these bytes, from its head to its end: what a body is turned into stays as long."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes that it has so far, however they came."""
        return self._size

    def grow(self, size: int) -> None:
        """The body has at least so many bytes. GatewayError where there is no room for them."""
        bodies, more = self._bodies, max(0, size - self._size)
        if bodies.held + more > bodies.most:
            raise GatewayError(
                "busy", f"a body of {size} bytes: the bodies of all requests under way may have {bodies.most} together"
            )
        bodies.held += more
        self._size += more

    def copy(self) -> Share | None:
        """As much once more, for a copy of the request; None where there is no room for it."""
        other = Share(self._bodies)
        try:
            other.grow(self._size)
        except GatewayError:
            return None
        return other

    def release(self) -> None:
        """The request is over."""
        self._bodies.held -= self._size
        self._size = 0


async def read_body(request: Request, share: Share, *, optional: bool = False) -> Json:
    """The JSON object in a request's body, whose bytes are not kept; an empty one where there is no body and it is
    optional. GatewayError where it cannot be had.

    Raises CancelledError where the client has left.
    """
    length = request.content_length or 0
    _hold(share, length)
    try:
        if request.complete:  # it came with the head, as most do
            raw = _joined(request.came())
            if len(raw) != length:
                _hold(share, len(raw))
        else:
            raw = await asyncio.wait_for(_whole(request, share), REQUEST_BODY_SECONDS)
    except asyncio.TimeoutError:
        raise GatewayError("bad_body", f"the body did not arrive within {REQUEST_BODY_SECONDS:g} s") from None
    except ConnectionError:
        raise asyncio.CancelledError from None  # the client left within its body; there is nobody to answer
    except BodyError as error:
        raise GatewayError("bad_body", f"the body cannot be read: {error}") from None
    if request.left:
        # It left in the moment in which its body was complete: wait_for (Python 3.10, 3.11) then keeps the cancellation
        # to itself, and the request would go on for nobody.
        raise asyncio.CancelledError
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding != "identity" and raw:
        raw = _decoded(raw, coding)
        share.grow(len(raw))
    if optional and not raw:
        return {}
    if _holds_more_values(raw, REQUEST_MAX_VALUES):
        raise GatewayError("too_large", f"the body has more than {REQUEST_MAX_VALUES} commas and opening brackets")
    try:
        body: Json = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise GatewayError("bad_body", f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise GatewayError("bad_body", "the body is not a JSON object")
    return body


async def _whole(request: Request, share: Share) -> bytes:
    parts: list[bytes] = []
    size = 0
    while more := await request.parts():
        size += sum(map(len, more))
        _hold(share, size)
        parts += more
    return _joined(parts)


def _hold(share: Share, size: int) -> None:
    """A body has so many bytes. GatewayError where these are too many."""
    if size > REQUEST_MAX_BYTES:
        raise _too_large()
    share.grow(size)


def _joined(parts: list[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large() -> GatewayError:
    return GatewayError("too_large", f"the body is over the limit of {REQUEST_MAX_BYTES} bytes")


def _decoded(raw: bytes, coding: str) -> bytes:
    """A compressed body as it was before. GatewayError where it cannot be read, or would be too large."""
    if coding not in _CODINGS:
        known = ", ".join(_CODINGS)
        raise GatewayError("bad_body", f"the body has the content-encoding '{coding[:40]}', expected {known}, or none")
    # Those who say "deflate" mean it with zlib's frame, or without any.
    bare = coding == "deflate" and raw[0] & 0x0F != zlib.DEFLATED
    unpack = zlib.decompressobj(wbits=-zlib.MAX_WBITS if bare else _CODINGS[coding])
    try:
        found = unpack.decompress(raw, REQUEST_MAX_BYTES + 1)
    except zlib.error as error:
        raise GatewayError("bad_body", f"the body is not {coding}: {error}") from None
    if len(found) > REQUEST_MAX_BYTES:
        raise _too_large()
    if not unpack.eof:
        raise GatewayError("bad_body", f"the body is not {coding}: it ends too early")
    return found


def _holds_more_values(raw: bytes, limit: int) -> bool:
    """Whether a JSON text may hold more values than `limit`: each but the first has a comma or a bracket before it.

    Those within strings count too, because this must cost less than reading the text.
    """
    if len(raw) <= limit:
        return False
    count = 0
    for start in range(0, len(raw), 1 << 20):  # in parts, so that a dense body is found out early
        end = start + (1 << 20)
        count += raw.count(b",", start, end) + raw.count(b"[", start, end) + raw.count(b"{", start, end)
        if count > limit:
            return True
    return False
