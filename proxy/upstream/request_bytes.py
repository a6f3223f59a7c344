"""A request as bytes. Nothing a caller passes can change where the head or the body ends."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from .target import Target

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(r"/[!-~]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})
# These decide framing, coding or the connection itself.
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def encode_request(target: Target, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Head and body as one piece; `path` may carry a query and is put behind the target's base path.

    `Host` (with port), `Accept-Encoding: identity` and `Content-Length` (always for POST, PUT and PATCH) are set here.
    ValueError: a method, path, header name or value that is not legal in HTTP, or a header that is set here.
    """
    head = _head(target, method, path, tuple(headers.items()))
    if body or method in _BODY_EXPECTED:
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
    return head + b"\r\n"


# Most requests for a worker differ in their body alone.
@functools.lru_cache(maxsize=1024)
def _head(target: Target, method: str, path: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    """All of a head that does not depend on the body; ValueError as `encode_request`."""
    if not _TOKEN.fullmatch(method) or method == "CONNECT":
        raise ValueError(f"{method!r} is not a request method this client sends")
    if not _PATH.fullmatch(path):
        raise ValueError(f"the request path {path!r} must begin with a slash and hold only visible ASCII characters")
    lines = [f"{method} {target.base_path}{path} HTTP/1.1\r\nhost: {target.address}\r\naccept-encoding: identity"]
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not a legal header name")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"the header {name!r} is set by the upstream client and cannot be passed to it")
        if _CONTROL.search(value):
            raise ValueError(f"the value of header {name!r} holds a control character: {value!r}")
        lines.append(f"{name}: {value}")
    # Header text that is not UTF-8 has its bytes as surrogates; they go out as they came in.
    return ("\r\n".join(lines) + "\r\n").encode("utf-8", "surrogateescape")
