"""Where a worker listens, parsed once from its URL."""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_VISIBLE = re.compile(r"[!-~]*")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")


class Target(NamedTuple):
    """Host (lower case, an IPv6 address without brackets), port, whether TLS is spoken, and the path in front of every
    request path (empty, or `/x` without a slash at its end)."""

    host: str
    port: int
    tls: bool
    base_path: str

    @property
    def address(self) -> str:
        """`host:port`, as it stands in a `Host` header: IPv6 in brackets, the port always said."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read `http://host:port/base` or `https://…`; ValueError says in one sentence what is wrong with the URL."""
        return _parsed(url)


# Each request says the address of its worker, of which a fleet has at most some hundreds.
@functools.lru_cache(maxsize=4096)
def _parsed(url: str) -> Target:
    parts, port = _split(url)
    problem = _problem(url, parts)
    if problem:
        raise ValueError(f"{url!r} is no upstream URL: {problem}")
    host = parts.hostname or ""
    if not (_is_ipv6(host) if ":" in host else _HOST_NAME.fullmatch(host)):
        raise ValueError(f"{url!r} is no upstream URL: {host!r} is neither a host name nor an IP address")
    if port is None:
        port = _DEFAULT_PORTS[parts.scheme]
    return Target(host=host, port=port, tls=parts.scheme == "https", base_path=parts.path.rstrip("/"))


def _split(url: str) -> tuple[SplitResult, int | None]:
    # urlsplit silently drops tabs and line ends, so they are refused before it sees the text.
    if not _VISIBLE.fullmatch(url):
        raise ValueError(f"{url!r} is no upstream URL: only visible ASCII characters are allowed in it")
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no upstream URL: {error}") from error


def _problem(url: str, parts: SplitResult) -> str | None:
    if parts.scheme not in _DEFAULT_PORTS or not url[len(parts.scheme) :].startswith("://"):
        return "it must begin with http:// or https://"
    if "@" in parts.netloc:
        return "it must not hold a user name or password"
    if "?" in url or "#" in url:
        return "it must not hold a query or a fragment"
    if parts.netloc.endswith(":"):
        return "there is no port after the colon"
    if parts.port == 0:
        return "port 0 is not a port to connect to"
    return None


def _is_ipv6(host: str) -> bool:
    try:
        # A zone (`fe80::1%eth0`) would not be legal in a Host header.
        return "%" not in host and bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False
