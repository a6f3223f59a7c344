"""A real Prometheus scrapes the gateway: each panel of the dashboard shows something, alerts fire for a cause."""

from __future__ import annotations

import json
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.types import Json, JsonObject
from tests.interop.environments import promtool
from tests.interop.programs import REPOSITORY, Program, answers, free_ports, wait_until
from tests.interop.wire import get_json, post_frames

DASHBOARD = json.loads((REPOSITORY / "docs" / "grafana.json").read_bytes())
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]
# What only shows where something waits or fails.
QUIET = ("gateway_queue_", "gateway_upstream_errors_total")
CONFIG = """\
global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}
rule_files: [{alerts}]
scrape_configs:
  - job_name: gateway
    static_configs: [{{targets: ["{gateway}"]}}]
"""
BODY: JsonObject = {
    "model": "demo-chat",
    "messages": [{"role": "human", "content": "Hello"}],
    "best_of": 3,
    "user": "u",
}


class Prometheus:
    """What a running one has stored."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[Json]:
        """The series that an expression has now; an AssertionError where it has none."""
        found: list[Json] = []

        def there() -> bool:
            asked = urllib.parse.urlencode({"query": expression})
            answer = get_json(f"{self.url}/api/v1/query?{asked}")
            assert isinstance(answer, dict)
            data = answer["data"]
            assert isinstance(data, dict)
            rows = data["result"]
            assert isinstance(rows, list)
            found[:] = rows
            return bool(found)

        wait_until(f"Prometheus has something for {expression}", there, 15)
        return found

    def firing(self) -> set[str]:
        """The names of the alerts that are firing."""
        answer = get_json(f"{self.url}/api/v1/alerts")
        assert isinstance(answer, dict)
        data = answer["data"]
        assert isinstance(data, dict)
        alerts = data["alerts"]
        assert isinstance(alerts, list)
        return {
            str(alert["labels"]["alertname"])
            for alert in alerts
            if isinstance(alert, dict) and isinstance(alert["labels"], dict) and alert["state"] == "firing"
        }


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that watches a gateway in front of a demonstration fleet, through which some streams went."""
    tool = promtool()
    program = tool.with_name("prometheus") if tool is not None else None
    assert program is not None, "Prometheus is not here: it comes with Debian's package prometheus"
    folder = tmp_path_factory.mktemp("prometheus")
    listen, admin, port = free_ports(3)
    (folder / "gateway.yaml").write_text("demo: {chunks_per_second: 200}\n")
    alerts = REPOSITORY / "docs" / "alerts.yaml"
    (folder / "prometheus.yaml").write_text(CONFIG.format(alerts=alerts, gateway=f"127.0.0.1:{admin}"))
    serve = [sys.executable, "-m", "proxy", "serve", "--config", str(folder / "gateway.yaml")]
    serve += ["--listen", f"127.0.0.1:{listen}", "--admin", f"127.0.0.1:{admin}"]
    watch = [str(program), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    gateway = Program("gateway", serve, folder, cwd=REPOSITORY)
    watcher = Program("prometheus", [*watch, f"--web.listen-address=127.0.0.1:{port}"], folder)
    try:
        gateway.wait_ready(lambda: answers(lambda: get_json(f"http://127.0.0.1:{admin}/readyz")))
        watcher.wait_ready(lambda: answers(lambda: get_json(f"http://127.0.0.1:{port}/-/ready")))
        watching = Prometheus(f"http://127.0.0.1:{port}")
        watching.query("gateway_worker_up")  # so that a scrape came before the streams
        for _ in range(10):
            post_frames(f"http://127.0.0.1:{listen}/api/worker/generate_stream", BODY)
        yield watching
        assert watcher.stop() == 0
        assert gateway.stop() == 0
    finally:
        watcher.kill()
        gateway.kill()


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_shows_something(prometheus: Prometheus, query: str) -> None:
    """Prometheus understands the query and has series for it."""
    for name, value in (("$__rate_interval", "1m"), ("$model", ".*"), ("$backend", ".*")):
        query = query.replace(name, value)
    if any(name in query for name in QUIET):
        query = f"({query}) or vector(0)"
    assert prometheus.query(query)


def test_a_field_that_goes_nowhere_is_told(prometheus: Prometheus) -> None:
    """Also the first time; one that the pack accepts to lose is none, and nothing else is wrong with this gateway."""
    wait_until("an alert fires", lambda: bool(prometheus.firing()), 15)
    assert prometheus.firing() == {"GatewayFieldsLost"}
    rows = prometheus.query('ALERTS{alertname="GatewayFieldsLost"}')
    assert {
        str(row["metric"]["field"]) for row in rows if isinstance(row, dict) and isinstance(row["metric"], dict)
    } == {"best_of"}


def test_the_alerts_are_rules(tmp_path: Path) -> None:
    """Prometheus' checker finds no mistake in the file."""
    tool = promtool()
    assert tool is not None, "promtool is not here: it comes with Debian's package prometheus"
    program = Program("promtool", [str(tool), "check", "rules", str(REPOSITORY / "docs" / "alerts.yaml")], tmp_path)
    assert program.process.wait(20) == 0, program.logged()
