from __future__ import annotations

import re
from pathlib import Path

from proxy.telemetry.metrics import Metrics
from proxy.telemetry.rows import ConnectionCounts

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_every_metric_is_documented() -> None:
    """Whoever builds a dashboard finds each metric, by its whole name, in the table of the operations page."""
    metrics = Metrics()
    metrics.watch_connections(lambda: ConnectionCounts(0, 0, 0, 0, 0))
    known = set(re.findall("^# TYPE (gateway_[a-z_]+)", metrics.render().decode(), re.MULTILINE))
    rows = [line for line in OPERATIONS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall("`(gateway_[a-z_]+)`", row.split("|")[1])}
    assert not known - named
