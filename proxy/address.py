"""Where something listens, or is reached: `HOST:PORT` read and written."""

from __future__ import annotations

import errno
import ipaddress
from typing import NamedTuple

# What cannot stand in a host, and says that a whole URL, or a list, was given.
_NOT_IN_HOSTS = frozenset("/\\@?#%,;'\"[]<>")


class Address(NamedTuple):
    """host: a name or an IP address, without brackets; port: 0 to 65535, 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def told(error: OSError) -> OSError:
    """The same error of listening somewhere, with a reason for people as its strerror."""
    reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return OSError(error.errno, reason)


def parse_address(text: str) -> Address:
    """`host:port` or `[::1]:port`. ValueError with one sentence otherwise."""
    host, separator, port = text.strip().rpartition(":")
    expected = f"expected HOST:PORT such as 127.0.0.1:8090, got '{text}'"
    if not separator or not host:
        raise ValueError(expected)
    if not (port.isascii() and port.isdecimal()) or len(port) > 5 or int(port) > 65_535:
        raise ValueError(f"{expected}; the port is a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return Address(_ipv6(host[1:-1], expected), int(port))
    if "/" in host:
        raise ValueError(f"{expected}; it is no URL")
    if ":" in host:
        raise ValueError(f"{expected}; an IPv6 host stands in brackets, as in [::1]:8090")
    if any(character in _NOT_IN_HOSTS or character.isspace() or not character.isprintable() for character in host):
        raise ValueError(expected)
    return Address(host, int(port))


def _ipv6(host: str, expected: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        raise ValueError(f"{expected}; in brackets stands an IPv6 address, as in [::1]:8090") from None


def is_wildcard(host: str) -> bool:
    """Whether a host stands for all interfaces, which can be listened on and not be called."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == "0"


def is_loopback(host: str) -> bool:
    """Whether only programs on the same machine can call a host; False for a name that is not known to be."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
