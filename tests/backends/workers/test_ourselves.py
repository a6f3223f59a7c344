"""Which addresses lead back to this gateway, however they are spelt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxy.backends.workers.identity import SameWorkers
from proxy.backends.workers.ourselves import Ourselves

NAMES = {
    "here": ["127.0.0.1"],
    "gateway": ["10.0.0.7"],
    "gateway6": ["2001:db8::7"],
    "other": ["10.0.0.8"],
    "balanced": ["10.0.0.7", "10.0.0.8"],
}


async def look_up(host: str) -> Sequence[str]:
    if host not in NAMES:
        raise OSError(-2, "Name or service not known")
    return NAMES[host]


def ourselves(advertised: Sequence[str] = ("http://gateway:8090",)) -> Ourselves:
    return Ourselves(
        SameWorkers(look_up),
        ports={8090, 8091, 443},
        advertised=advertised,
        is_own_host=lambda host: host in {"127.0.0.1", "10.0.0.7", "2001:db8::7"},
    )


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://127.0.0.1:8090", True),
        ("http://127.0.0.1:8091", True),
        ("http://127.0.0.1:8092", False),
        ("http://10.0.0.7:8090", True),
        ("http://0.0.0.0:8090", True),
        ("http://here:8090", True),
        ("http://gateway:8090", True),
        ("http://gateway:8090/v1", True),
        ("http://[2001:db8::7]:8090", True),
        ("http://gateway6:8091", True),
        ("https://gateway", True),
        ("http://gateway:9000", False),
        ("http://other:8090", False),
        ("http://10.0.0.8:8090", False),
        ("http://nowhere:8090", False),
        ("http://balanced:8090", False),
    ],
)
async def test_an_address_on_this_machine(address: str, own: bool) -> None:
    """Where the gateway listens, by any name or address of this machine; the path makes no other program of it."""
    assert await ourselves()(address) is own


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://198.51.100.1:80", True),
        ("http://198.51.100.1", True),
        ("http://198.51.100.1:8090", False),
        ("https://198.51.100.1", False),
        ("http://198.51.100.2", False),
    ],
)
async def test_an_address_that_others_use(address: str, own: bool) -> None:
    """The advertised one may be on another machine, which passes on what comes there."""
    assert await ourselves(["http://198.51.100.1"])(address) is own


async def test_an_advertised_name_without_an_address() -> None:
    """It means itself and nothing else."""
    is_own = ourselves(["http://gateway.example:80"])
    assert await is_own("http://gateway.example:80")
    assert not await is_own("http://198.51.100.1:80")
