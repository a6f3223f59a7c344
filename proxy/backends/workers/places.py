"""Where on a network an IP address is, and where prompts are never sent."""

from __future__ import annotations

import ipaddress
from typing import Final, TypeAlias

IP: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

# Where clouds and providers answer with the credentials of the machine that asks, beside the link-local networks:
# Alibaba, Azure, Oracle, EC2 (with its further services) and Google over IPv6.
_METADATA: Final[tuple[Network, ...]] = (
    ipaddress.ip_network("100.100.100.200/32"),
    ipaddress.ip_network("168.63.129.16/32"),
    ipaddress.ip_network("192.0.0.192/32"),
    ipaddress.ip_network("fd00:ec2::/32"),
    ipaddress.ip_network("fd20:ce::254/128"),
)
_METADATA_NAMES: Final = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_BROADCAST: Final = ipaddress.ip_address("255.255.255.255")
# An IPv4 address is the last 32 bits of an address of these networks (IPv4-compatible, NAT64).
_CARRIERS: Final = (ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("64:ff9b::/96"))


def read_ip(text: str) -> IP | None:
    """An IP address in its usual spelling, without a zone; an IPv4 address within IPv6 is the IPv4 address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def never(address: IP) -> str:
    """What an address is that no worker may have ("link-local", "a metadata service", ...), or ""."""
    for each in (address, *_carried(address)):
        if each.is_link_local:
            return "link-local"
        if any(each in network for network in _METADATA):
            return "a metadata service"
        if each.is_multicast or each == _BROADCAST:
            return "for many receivers"
    return ""


def is_metadata_name(host: str) -> bool:
    """Whether a host name is one under which a cloud gives out credentials."""
    return host in _METADATA_NAMES


def is_here(address: IP) -> bool:
    """Whether an address means the machine that uses it: loopback, or the unspecified one."""
    return any(each.is_loopback or _is_no_address(each) for each in (address, *_carried(address)))


def _is_no_address(address: IP) -> bool:
    # All of 0.0.0.0/8 is "this host on this network"; Linux takes 0.0.0.0 for the machine itself.
    return address.is_unspecified or (address.version == 4 and int(address) >> 24 == 0)


def _carried(address: IP) -> list[IP]:
    """The IPv4 addresses that an IPv6 address leads to."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    found: list[IP] = [ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) for net in _CARRIERS if address in net]
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    found += address.teredo or ()
    return found if int(address) > 1 else []
