"""When two base addresses are one worker."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxy.backends.workers.identity import SameWorkers

WHERE = {
    "gpu7": ["10.0.0.7"],
    "gpu7.lan": ["10.0.0.7", "fd00::7"],
    "pool": ["10.0.0.7", "10.0.0.8"],
    "odd": ["nonsense"],
}


class Names:
    """A name service that counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if self.away or host not in WHERE:
            raise OSError(-3, "Try again")
        return WHERE[host]


@pytest.mark.parametrize(
    ("address", "known", "same"),
    [
        ("http://10.0.0.7:1", "http://gpu7:1", True),
        ("http://gpu7:1", "http://10.0.0.7:1", True),
        ("http://gpu7:1", "http://gpu7.lan:1", True),
        ("http://[fd00::7]:1", "http://gpu7.lan:1", True),
        ("http://0.0.0.0:1", "http://127.0.0.1:1", True),
        ("https://10.0.0.7", "https://gpu7:443", True),
        ("http://10.0.0.7:1", "http://gpu7:2", False),
        ("http://10.0.0.7:1", "https://gpu7:1", False),
        ("http://10.0.0.7:1", "http://gpu7:1/x", False),
        ("http://10.0.0.8:1", "http://gpu7:1", False),
        ("http://10.0.0.7:1", "http://pool:1", False),
        ("http://pool:1", "http://10.0.0.7:1", False),
        ("http://nowhere:1", "http://nobody:1", False),
        ("http://odd:1", "http://nobody:1", False),
        ("http://127.0.0.2:1", "http://127.0.0.1:1", False),
    ],
)
async def test_one_worker_or_two(address: str, known: str, same: bool) -> None:
    """The same door of one machine is one worker; a name of several machines, or of none, means only itself."""
    assert await SameWorkers(Names()).find(address, [known]) == (known if same else None)
    assert await SameWorkers(Names()).find(address, [known, address]) == address


async def test_names_are_not_looked_up_without_need() -> None:
    """An answer is remembered for a while, a failure for a moment, and addresses need none."""
    now = [100.0]
    names = Names()
    workers = SameWorkers(names, clock=lambda: now[0])
    assert await workers.find("http://10.0.0.7:1", ["http://10.0.0.8:1", "http://gpu9:2"]) is None
    assert names.asked == []
    for _ in range(3):
        assert await workers.find("http://10.0.0.7:1", ["http://gpu7:1"]) == "http://gpu7:1"
        assert await workers.find("http://10.0.0.7:2", ["http://nobody:2"]) is None
    assert names.asked == ["gpu7", "nobody"]
    now[0] += 11
    assert await workers.find("http://10.0.0.7:2", ["http://nobody:2"]) is None
    assert names.asked == ["gpu7", "nobody", "nobody"]
    now[0] += 30
    names.away = True
    assert await workers.find("http://10.0.0.7:1", ["http://gpu7:1"]) == "http://gpu7:1", "what was true before"
    assert names.asked[3:] == ["gpu7"]


async def test_without_a_name_service_names_mean_themselves() -> None:
    """Nothing is looked up where that is not wanted."""
    assert await SameWorkers().find("http://10.0.0.7:1", ["http://gpu7:1"]) is None
    assert await SameWorkers().find("http://gpu7:1", ["http://gpu7:1"]) == "http://gpu7:1"
