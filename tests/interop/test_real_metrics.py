"""The admin address as Prometheus and an orchestrator see it."""

from __future__ import annotations

import subprocess

import pytest

from proxy.types import Json
from tests.interop.clusters import PLAIN, Cluster
from tests.interop.environments import promtool
from tests.interop.streams import total
from tests.interop.wire import Reply, post_frames

BODY: Json = {"model": PLAIN, "messages": [{"role": "human", "content": "Hi"}], "max_new_tokens": 6}


def scrape(cluster: Cluster) -> str:
    with Reply("GET", f"{cluster.plan.admin}/metrics") as reply:
        assert reply.status == 200
        assert (reply.response.getheader("content-type") or "").startswith("text/plain; version=0.0.4")
        return reply.text()


def test_promtool_finds_nothing_to_complain_about(cluster: Cluster) -> None:
    """``promtool check metrics`` accepts the page and has no advice about its names and types."""
    tool = promtool()
    assert tool is not None, "promtool is not here: it comes with Debian's package prometheus"
    post_frames(f"{cluster.plan.url}/generate_stream", BODY)
    done = subprocess.run(
        [str(tool), "check", "metrics"], input=scrape(cluster), capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_request_is_counted(cluster: Cluster) -> None:
    """One streamed request adds one to its model's requests, and its frames and bytes to theirs."""
    before = scrape(cluster)
    frames = post_frames(f"{cluster.plan.url}/generate_stream", BODY)
    after = scrape(cluster)

    def grown(sample: str, **labels: str) -> float:
        return total(after, sample, **labels) - total(before, sample, **labels)

    assert grown("gateway_requests_total", model=PLAIN) == 1
    assert grown("gateway_request_duration_seconds_count", model=PLAIN) == 1
    assert grown("gateway_time_to_first_frame_seconds_count", model=PLAIN) == 1
    assert grown("gateway_frames_total", direction="sent") == len(frames)
    assert grown("gateway_bytes_total", direction="sent") > 0
    assert grown("gateway_tokens_total", model=PLAIN, type="prompt") > 0
    assert total(after, "gateway_in_flight") == 0


def test_each_worker_is_up(cluster: Cluster) -> None:
    """Each worker of the fleet is up, however many models it has, and nothing else is counted as a worker."""
    page = scrape(cluster)
    assert total(page, "gateway_worker_up") == len(cluster.plans)
    assert total(page, "gateway_registered_instances") == len(cluster.names())


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health(cluster: Cluster, path: str) -> None:
    """A gateway with a fleet is alive and ready."""
    with Reply("GET", f"{cluster.plan.admin}{path}") as reply:
        assert reply.status == 200
        assert reply.text().strip()
