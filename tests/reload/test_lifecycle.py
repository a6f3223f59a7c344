"""The order in which a gateway stops."""

from __future__ import annotations

import pytest

from proxy.lifecycle import wind_down


class Requests:
    """Requests under way, of which some never end."""

    def __init__(self, stuck: int) -> None:
        self.stuck = stuck
        self.steps: list[str] = []

    async def drain(self, seconds: float) -> int:
        self.steps.append(f"drain {seconds:g}")
        return self.stuck

    async def cut(self) -> int:
        self.steps.append("cut")
        return self.stuck

    async def withdraw(self) -> None:
        self.steps.append("withdraw")

    def refuse(self) -> None:
        self.steps.append("refuse")


@pytest.mark.parametrize(("stuck", "last"), [(0, []), (3, ["cut"])])
async def test_first_the_clusters_then_the_requests(
    stuck: int, last: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Withdrawn, then refusing, then waiting; what is left then, and nothing else, is cut and told."""
    requests = Requests(stuck)
    await wind_down(withdraw=requests.withdraw, refuse=requests.refuse, traffic=requests, seconds=2)
    assert requests.steps == ["withdraw", "refuse", "drain 2", *last]
    assert ("3 requests are still running" in caplog.text) is bool(stuck)
