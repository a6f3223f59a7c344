"""Which IP addresses no worker may have, in whatever spelling they come."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.workers.places import is_here, never, read_ip


def spellings(address: ipaddress.IPv4Address) -> list[str]:
    """Ways to write an IPv4 address, as itself and within IPv6."""
    high, low = divmod(int(address), 0x10000)
    return [
        str(address),
        f"::ffff:{address}",
        f"::ffff:{high:x}:{low:x}",
        f"0:0:0:0:0:FFFF:{address}",
        f"64:ff9b::{address}",
        f"2002:{high:x}:{low:x}::1",
        f"::{address}",
    ]


@given(st.integers(0, 0xFFFF), st.integers(0, 6))
def test_link_local_is_never_in_any_spelling(last: int, spelling: int) -> None:
    """All of 169.254.0.0/16 is found out, also where IPv6 carries it."""
    text = spellings(ipaddress.IPv4Address((169 << 24) + (254 << 16) + last))[spelling]
    address = read_ip(text)
    assert address is not None
    assert never(address)


@pytest.mark.parametrize("text", ["100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "255.255.255.255"])
@pytest.mark.parametrize("spelling", range(7))
def test_metadata_and_multicast_are_never(text: str, spelling: int) -> None:
    """Addresses that give out credentials, or are for many, are found out in each spelling."""
    address = read_ip(spellings(ipaddress.IPv4Address(text))[spelling])
    assert address is not None
    assert never(address)


@pytest.mark.parametrize("text", ["fe80::1", "fe80::1%eth0", "febf::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1"])
def test_the_same_of_ipv6_is_never(text: str) -> None:
    """Link-local, metadata and multicast addresses of IPv6."""
    address = read_ip(text)
    assert address is not None
    assert never(address)


@pytest.mark.parametrize("text", ["10.0.0.5", "192.168.1.1", "172.17.0.2", "8.8.8.8", "100.64.0.1", "fd00::5", "::1"])
def test_usual_addresses_may_be(text: str) -> None:
    """Private and public networks are a matter of the settings."""
    address = read_ip(text)
    assert address is not None
    assert not never(address)


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "127.255.1.2", "0.0.0.0", "0.1.2.3", "::", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"]
)
def test_addresses_that_mean_the_machine_itself(text: str) -> None:
    """Loopback and unspecified addresses mean another machine to each reader."""
    address = read_ip(text)
    assert address is not None
    assert is_here(address)


@pytest.mark.parametrize("text", ["", "host", "1.2.3", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "1.2.3.4.5"])
def test_other_spellings_are_names(text: str) -> None:
    """What is not the usual spelling is left to the look-up, which knows all of them."""
    assert read_ip(text) is None
