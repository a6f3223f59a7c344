"""Base addresses of other programs, each in its one spelling. No HTTP client is loaded to tell a wrong one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

# The longest host name has 253 characters; the rest is for a path. Addresses become labels and lines of the log.
_URL_MAX: Final = 500


def normalise_base_url(url: str) -> str:
    """A base address as the key under which it is known, however it was written.

    Lower-case scheme and host, no dot behind the host, no port that the scheme implies, no slash at the end, IP
    addresses in their usual spelling. "localhost" (and any name under it) is 127.0.0.1, so that a worker that is named
    in both ways is one; not with https, where the certificate is for the name.
    ValueError with one sentence for what cannot be used: another scheme than http and https, credentials, a query.
    """
    if len(url) > _URL_MAX:
        raise ValueError(f'"{url[:40]}..." is not an address: {len(url)} characters, expected at most {_URL_MAX}')
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ValueError(f'"{url}" is not an address: {error}') from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f'"{url}" is not an address: expected http://HOST:PORT or https://HOST:PORT')
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"the address of {parts.hostname} holds credentials: expected http://HOST:PORT without them")
    if not url.strip().isascii() or "%" in (parts.hostname or ""):
        raise ValueError(f'"{url}" is not an address: expected ASCII, an international name as xn--, and no IPv6 zone')
    if not parts.hostname or port == 0:
        raise ValueError(f'"{url}" is not an address: expected a host and a port from 1 to 65535')
    if parts.query or parts.fragment or any(char.isspace() or not char.isprintable() for char in parts.netloc):
        raise ValueError(f'"{url}" is not a base address: expected nothing after the path, and no spaces')
    host = _canonical_host(parts.scheme, parts.hostname)
    shown = "" if port in (None, 443 if parts.scheme == "https" else 80) else f":{port}"
    return f"{parts.scheme}://{host}{shown}{parts.path.rstrip('/')}"


def _canonical_host(scheme: str, host: str) -> str:
    """A lower-case host as it stands in a base address; an IPv4 address within IPv6 is the IPv4 address."""
    host = host.rstrip(".") or host
    if scheme == "http" and (host == "localhost" or host.endswith(".localhost")):
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"[{host}]" if ":" in host else host  # a name, or IPvFuture
    mapped = getattr(address, "ipv4_mapped", None)
    return f"[{address}]" if address.version == 6 and mapped is None else str(mapped or address)


def base_urls(urls: Iterable[str]) -> list[str]:
    """Base addresses as `normalise_base_url` spells them, each once."""
    return list(dict.fromkeys(normalise_base_url(url) for url in urls))
