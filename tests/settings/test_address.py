"""HOST:PORT read and written."""

from __future__ import annotations

import ipaddress
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.address import Address, is_loopback, is_wildcard, parse_address

_label = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=20)
_names = st.lists(_label, min_size=1, max_size=4).map(".".join)
_hosts = st.one_of(_names, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))


@given(_hosts, st.integers(0, 65_535))
def test_what_is_written_is_read_again(host: str, port: int) -> None:
    """Every name, IPv4 and IPv6 address comes back as it was, in brackets where it needs them."""
    address = Address(host, port)
    assert parse_address(str(address)) == address


@given(st.ip_addresses(v=6), st.integers(0, 65_535))
def test_every_spelling_of_an_ipv6_address_is_one_address(host: ipaddress.IPv6Address, port: int) -> None:
    """Long and short spellings are the same address afterwards."""
    assert parse_address(f"[{host.exploded}]:{port}") == parse_address(f"[{host.compressed}]:{port}")


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_one_sentence(text: str) -> None:
    """Whatever is typed, it is an address that can be written again, or one sentence says what was expected."""
    try:
        address = parse_address(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"^expected HOST:PORT such as 127\.0\.0\.1:8090, got "):
            parse_address(text)
    else:
        assert parse_address(str(address)) == address
        assert not set(address.host) & set("/@?# \t\n")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "expected HOST:PORT"),
        ("8090", "expected HOST:PORT"),
        (":8090", "expected HOST:PORT"),
        ("localhost", "expected HOST:PORT"),
        ("localhost:", "the port is a number from 0 to 65535"),
        ("localhost:http", "the port is a number"),
        ("localhost:65536", "the port is a number"),
        ("localhost:-1", "the port is a number"),
        ("localhost:+80", "the port is a number"),
        ("localhost:٨٠", "the port is a number"),
        ("localhost:99999999999999999999", "the port is a number"),
        ("http://localhost:80", "it is no URL"),
        ("localhost:80/path", "the port is a number"),
        ("::1:8090", "stands in brackets"),
        ("[::1]", "expected HOST:PORT"),
        ("[zz]:80", "in brackets stands an IPv6 address"),
        ("[127.0.0.1]:80", "in brackets stands an IPv6 address"),
        ("me@host:80", "expected HOST:PORT"),
        ("a b:80", "expected HOST:PORT"),
        ("a,b:80", "expected HOST:PORT"),
    ],
)
def test_what_is_no_address_is_refused_with_a_hint(text: str, hint: str) -> None:
    """The sentence names what was given, and what may have been meant."""
    with pytest.raises(ValueError, match=re.escape(f"got '{text}'")) as caught:
        parse_address(text)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("host", "wildcard", "loopback"),
    [
        ("0.0.0.0", True, False),
        ("0", True, False),
        ("::", True, False),
        ("127.0.0.1", False, True),
        ("127.8.9.1", False, True),
        ("::1", False, True),
        ("localhost", False, True),
        ("10.0.0.7", False, False),
        ("gateway.example", False, False),
    ],
)
def test_who_can_call_a_host(host: str, wildcard: bool, loopback: bool) -> None:
    """All interfaces cannot be called at all, a loopback only from the same machine."""
    assert (is_wildcard(host), is_loopback(host)) == (wildcard, loopback)
