"""Medians, ratios, targets, tables and the chart of the benchmark."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from benchmarks import micro, starting
from benchmarks.chart import Bar, Group, bar_chart
from benchmarks.measure import cpu_figures
from benchmarks.micro_cases import CASES, Case, Timed
from benchmarks.outcome import write_outcome
from benchmarks.report import Figure, Measurement, added, document, markdown, ratios, scenario_table, summarise
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.targets import TARGETS, judge, unloaded_rate

RUNS = {
    "direct": [{"delay_ms_p99": 1.0}, {"delay_ms_p99": 3.0}, {"delay_ms_p99": 2.0}],
    "nginx": [{"cpu_us": 10.0, "delay_ms_p99": 3.0}, {"cpu_us": 30.0, "delay_ms_p99": 3.0}, {"cpu_us": 20.0}],
    "gateway": [{"cpu_us": 50.0, "delay_ms_p99": 4.5}, {"cpu_us": 45.0, "delay_ms_p99": 4.5}],
}
MEASURED = Measurement(SCENARIOS["worker"], RUNS, {}, {"litellm": "it was not built"})


def test_a_summary_holds_median_and_spread_of_what_every_run_has() -> None:
    """A quantity that one run lacks is not summarised from the others."""
    summary = summarise(RUNS)
    assert summary["nginx"] == {"cpu_us": Figure(20, 10, 30)}
    assert summary["gateway"]["cpu_us"] == Figure(47.5, 45, 50)
    assert summary["direct"] == {"delay_ms_p99": Figure(2, 1, 3)}


def test_ratios_are_of_medians_and_need_their_base() -> None:
    """A program without CPU time has no ratio, and without nginx there is none."""
    summary = summarise(RUNS)
    assert ratios(summary, "cpu_us") == {"nginx": 1.0, "gateway": pytest.approx(2.375)}
    del summary["nginx"]
    assert ratios(summary, "cpu_us") == {}


def test_what_is_added_is_what_is_above_the_direct_figure() -> None:
    """Direct itself is not listed."""
    assert added(summarise(RUNS), "delay_ms_p99") == {"gateway": 2.5}


def test_cpu_is_counted_in_the_unit_of_the_scenario() -> None:
    """For each chunk, request, or byte that the worker sends."""
    chunk = Scenario("a", "A", "stream", 10, 50, 0, rounds=2)
    request = Scenario("b", "B", "generate", 10, 50, 0, unit="request", rounds=2)
    byte = Scenario("c", "C", "stream", 1, 1, 0, unit="byte")
    assert cpu_figures("", 0.5, chunk) == {"cpu_us": 500}
    assert cpu_figures("client_", 0.5, request) == {"client_cpu_us": 25_000}
    assert 1e9 < cpu_figures("", 200, byte)["cpu_ns"] < 2e9


def test_a_table_is_markdown_with_every_column_and_every_reason() -> None:
    """A program that was not measured is named below with why."""
    lines = scenario_table(MEASURED).splitlines()
    gateway = next(line for line in lines if line.startswith("| gateway"))
    assert "47.5 (45.0 to 50.0)" in gateway
    assert "2.38" in gateway or "2.37" in gateway
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "litellm skipped: it was not built" in lines


def test_a_table_is_readable_as_text() -> None:
    """Columns stand below each other: names to the left, figures to the right."""
    assert markdown(["", "ms"], [["nginx", "1.0"], ["gw", "12.0"]]).splitlines() == [
        "|       |   ms |",
        "| ----- | ---: |",
        "| nginx |  1.0 |",
        "| gw    | 12.0 |",
    ]


def test_the_document_keeps_every_run() -> None:
    """What is written can be computed again from the runs."""
    programs = document(MEASURED)["programs"]
    assert isinstance(programs, dict)
    gateway = programs["gateway"]
    assert isinstance(gateway, dict)
    assert gateway["runs"] == RUNS["gateway"]
    assert gateway["added_ms"] == {"delay_ms_p99": 2.5}
    assert gateway["cpu_times_nginx"] == 2.375


def _programs(**cpu: float) -> dict[str, dict[str, float]]:
    return {name: {"cpu_us": value} for name, value in cpu.items()}


def test_a_target_is_met_up_to_its_limit_and_not_beyond() -> None:
    """Its value is the ratio of medians, also to a program of another scenario of the same load."""
    found = {
        "worker": _programs(gateway=36, nginx=20),
        "field": _programs(gateway=44.2, nginx=20),
        "openai": _programs(gateway=50, nginx=20, fastchat=432),
    }
    verdicts = {one.what: one for one in judge(found)}
    assert [one.word for one in verdicts.values()][:5] == ["met", "met", "not met", "met", "met"]
    first = verdicts["CPU per chunk, worker stream, beside nginx"]
    assert (first.measured, first.limit, first.value) == ("1.80 ×", "at most 1.80 ×", 1.8)
    assert verdicts["CPU per chunk, OpenAI stream, beside FastChat's OpenAI server"].measured == "1/8.6"
    assert verdicts["CPU per chunk, OpenAI stream, beside LiteLLM"].word == "not measured"


def test_every_target_speaks_of_scenarios_that_there_are() -> None:
    """With figures of everything there is a verdict on everything."""
    everything = {
        name: {
            program: dict.fromkeys(
                (
                    "cpu_us",
                    "cpu_ns",
                    "first_byte_ms_p50",
                    "first_byte_ms_p99",
                    "delay_ms_p99",
                    "memory_kb",
                    "chunks_per_second",
                    "load_cores",
                    "cpus",
                    "right",
                ),
                1.0,
            )
            for program in ("direct", "nginx", "gateway", "gateway-2", "fastchat", "litellm")
        }
        for name in SCENARIOS
    }
    verdicts = judge({**everything, **starting.medians({"serve": [1.0]})})
    assert len({one.what for one in verdicts}) == len(TARGETS)
    assert [one.what for one in verdicts if one.word == "not measured"] == []


def test_wrong_answers_fail_the_target_of_a_thousand_streams() -> None:
    """A run that was refused is not taken for one that was not made."""
    words = {one.what: one.word for one in judge({"thousand": {"gateway-2": {"right": 0.0}}})}
    assert words["1,000 streams, two processes: answers that are complete and right"] == "not met"


def test_the_load_is_taken_out_of_the_rate_of_several_processes() -> None:
    """On two CPUs of which the load takes one, two processes do half of what they could; one process all of it."""
    assert unloaded_rate(1000, 1.0, 2, 2) == 2000
    assert unloaded_rate(1000, 0.5, 2, 1) == 1000
    assert unloaded_rate(1000, 1.5, 2, 1) == 2000
    assert unloaded_rate(1000, 2.0, 2, 2) == 1000


def test_the_files_of_a_run_agree(tmp_path: Path) -> None:
    """JSON, report and chart are written, and the user is told where and what was met."""
    starts = {"serve": [0.4, 0.9, 0.5], "--version": [0.06], "check": []}
    told = write_outcome(tmp_path, [MEASURED], {"cpus": 2}, starts)
    assert "CPU per chunk, worker stream, beside nginx" in told
    assert str(tmp_path / "cpu.svg") in told
    results = orjson.loads((tmp_path / "results.json").read_bytes())
    assert results["targets"][0]["value"] == 2.375
    assert results["start"]["serve"] == [0.4, 0.9, 0.5]
    assert [one["word"] for one in results["targets"] if one["what"].startswith("serve: ")] == ["met"]
    report = (tmp_path / "report.md").read_text()
    assert "47.5 (×2.4)" in report
    assert "not met" in report
    assert "| `serve`     |    500 |    400 |     900 |" in report
    assert "100 at once, each 100 chunks 20 ms apart" in report


def test_a_chart_is_well_formed_and_says_everything_in_words() -> None:
    """Names with any characters; each value stands beside its bar and in the description; light and dark."""
    groups = [
        Group("A <stream> & more", [Bar("nginx", 17, 16, 19), Bar('this "gateway"', 27.25, 26, 29, own=True)]),
        Group("B", [Bar("LiteLLM", 1034, 900, 1100)]),
    ]
    drawn = bar_chart("CPU", "100 at once", groups, "µs")
    root = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{space}text")]
    assert {"A <stream> & more", "17.0 µs", "27.2 µs", "1,034 µs"} <= set(texts)
    bars = {bar.get("class"): float(bar.get("width", "0")) for bar in root.iter(f"{space}rect")}
    assert bars["bar"] / bars["own"] == pytest.approx(1034 / 27.25, rel=0.02)
    assert "LiteLLM 1,034 µs" in (root.findtext(f"{space}desc") or "")
    assert "prefers-color-scheme: dark" in (root.findtext(f"{space}style") or "")
    edges = [float(text.get("x", "0")) for text in root.iter(f"{space}text")]
    assert max(edges) < float(root.get("width", "0")) - 60


def test_a_chart_of_nothing_is_refused() -> None:
    """An empty picture would look like a result."""
    with pytest.raises(ValueError, match="at least one bar"):
        bar_chart("CPU", "", [Group("A", [])], "µs")


def test_a_micro_case_that_cannot_be_imported_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row says why; the others have their nanoseconds, for one operation."""
    monkeypatch.setattr(micro, "SAMPLE_SECONDS", 0.001)

    def missing() -> Timed:
        raise ImportError("no such part")

    def thousand() -> Timed:
        return lambda: [None for _ in range(1000)]

    results = micro.measure([Case("missing", 1, missing), Case("loop", 1000, thousand)])
    assert results["missing"] == "ImportError: no such part"
    assert isinstance(results["loop"], float)
    assert 0 < results["loop"] < 1000


def test_every_micro_case_runs() -> None:
    """No case measures an error: each can be built and called."""
    assert len(CASES) > 30
    for one in CASES:
        one.build()()
