"""The operations page, the alerts and the dashboard are about what the gateway really exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from tests.telemetry.everything import labels_by_metric

DOCS = Path(__file__).parents[2] / "docs"
TABLE = [
    line.split("|") for line in (DOCS / "operations.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"
]
DASHBOARD = json.loads((DOCS / "grafana.json").read_bytes())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {target["expr"]: panel["title"] for panel in PANELS for target in panel["targets"]}
ALERTS = [rule for group in yaml.safe_load((DOCS / "alerts.yaml").read_bytes())["groups"] for rule in group["rules"]]

_SUFFIX = re.compile("_(bucket|sum|count)$")
_METRIC = re.compile(r"\bgateway_[a-z_]+")
_SELECTED = re.compile(r"(gateway_[a-z_]+)\{([^}]*)\}")
_NAMED = re.compile(r"([a-z_]+) *(?:=~|!~|!=|=)")
_GROUPED = re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")


def test_every_metric_is_documented() -> None:
    """Whoever builds a dashboard finds each metric, by its whole name and with its labels, in the table."""
    known: dict[str, set[str]] = {}
    for name, labels in labels_by_metric().items():
        if name.startswith("gateway_"):
            known.setdefault(_SUFFIX.sub("", name), set()).update(labels - {"le"})
    told = {
        name: set(re.findall("[a-z]+", row[3]))
        for row in TABLE
        if len(row) == 6
        for name in re.findall("`(gateway_[a-z_]+)`", row[1])
    }
    assert told == known


def _wrong_names(query: str) -> list[str]:
    """What a query names that there is not: metrics, labels of a metric, labels to group by that none of them has."""
    known = labels_by_metric()
    metrics = set(_METRIC.findall(re.sub('"[^"]*"', "", query)))
    wrong = sorted(metrics - known.keys())
    for metric, selected in _SELECTED.findall(query):
        wrong += [f"{metric}{{{label}}}" for label in _NAMED.findall(selected) if label not in known.get(metric, ())]
    labels = {label for metric in metrics for label in known.get(metric, ())}
    grouped = {label for names in _GROUPED.findall(query) for label in re.findall("[a-z_]+", names)}
    return wrong + sorted(grouped - labels)


def test_queries_of_the_dashboard_can_be_answered() -> None:
    """No panel stays empty because its metric or label has another name."""
    assert len(QUERIES) > 20
    assert {title: wrong for query, title in QUERIES.items() if (wrong := _wrong_names(query))} == {}


def test_queries_of_the_alerts_can_be_answered() -> None:
    """No alert stays silent for such a reason; and what its text shows is among the labels that are left."""
    assert {rule["alert"]: wrong for rule in ALERTS if (wrong := _wrong_names(rule["expr"]))} == {}
    for rule in ALERTS:
        shown = set(re.findall(r"\$labels\.([a-z_]+)", rule["annotations"]["summary"]))
        grouped = {label for names in _GROUPED.findall(rule["expr"]) for label in re.findall("[a-z_]+", names)}
        plain = set(labels_by_metric()[_METRIC.findall(rule["expr"])[0]])
        assert shown <= (grouped or plain), rule["alert"]


def test_queries_of_the_page_can_be_answered() -> None:
    """Nor does one that somebody copies from the page."""
    queries = [row[2] for row in TABLE if len(row) == 4 and "(gateway_" in row[2]]
    assert len(queries) >= 7
    assert [wrong for query in queries if (wrong := _wrong_names(query))] == []


def test_every_alert_is_explained() -> None:
    """The page names each alert, and no other."""
    named = {name for row in TABLE for name in re.findall("Gateway[A-Z][A-Za-z]+", row[1])}
    assert named == {rule["alert"] for rule in ALERTS}


def test_the_dashboard_is_whole() -> None:
    """Panels have numbers and places of their own, and take their data from the chosen source."""
    everything = DASHBOARD["panels"]
    numbers = [panel["id"] for panel in everything]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(column, line) for column in columns for line in lines}
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    sources = {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]}
    assert sources == {"${datasource}"}
    used = {name for query in QUERIES for name in re.findall(r"\$([a-z]+)", query)}
    assert used | {"datasource"} == variables
