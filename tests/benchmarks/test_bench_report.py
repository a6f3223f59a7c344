"""Medians, ratios and the table of the benchmark, and the micro benchmark's arithmetic."""

from __future__ import annotations

import io

import pytest

from benchmarks import micro
from benchmarks.report import Figure, added, document, ratios, show, summarise

RUNS = {
    "direct": [{"delay_ms_p99": 1.0}, {"delay_ms_p99": 3.0}, {"delay_ms_p99": 2.0}],
    "nginx": [{"cpu_us": 10.0, "delay_ms_p99": 3.0}, {"cpu_us": 30.0, "delay_ms_p99": 3.0}, {"cpu_us": 20.0}],
    "gateway": [{"cpu_us": 50.0, "delay_ms_p99": 4.5}, {"cpu_us": 45.0, "delay_ms_p99": 4.5}],
}


def test_a_summary_holds_median_and_spread_of_what_every_run_has() -> None:
    """A quantity that one run lacks is not summarised from the others."""
    summary = summarise(RUNS)
    assert summary["nginx"] == {"cpu_us": Figure(20, 10, 30)}
    assert summary["gateway"]["cpu_us"] == Figure(47.5, 45, 50)
    assert summary["direct"] == {"delay_ms_p99": Figure(2, 1, 3)}


def test_ratios_are_of_medians_and_need_their_base() -> None:
    """A program without CPU time has no ratio, and without nginx there is none."""
    summary = summarise(RUNS)
    assert ratios(summary) == {"nginx": 1.0, "gateway": pytest.approx(2.375)}
    del summary["nginx"]
    assert ratios(summary) == {}


def test_the_added_delay_is_what_is_above_the_direct_one() -> None:
    """Direct itself is not listed."""
    assert added(summarise(RUNS), "delay_ms_p99") == {"gateway": 2.5}


def test_the_table_in_a_file_is_markdown_with_every_column() -> None:
    """A piped table is not cut at the width of a terminal."""
    out = io.StringIO()
    show("title", summarise(RUNS), out)
    lines = out.getvalue().splitlines()
    gateway = next(line for line in lines if line.startswith("| gateway"))
    assert "47.5 (45.0-50.0)" in gateway
    assert "2.38" in gateway or "2.37" in gateway
    assert "…" not in out.getvalue()


def test_the_document_keeps_every_run() -> None:
    """What is written can be computed again from the runs."""
    result = document(summarise(RUNS), RUNS)["gateway"]
    assert isinstance(result, dict)
    assert result["runs"] == RUNS["gateway"]
    assert result["added_delay_ms"] == {"p99": 2.5}


def test_a_micro_case_that_cannot_be_imported_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row says why; the others have their nanoseconds, for one operation."""
    monkeypatch.setattr(micro, "SAMPLE_SECONDS", 0.001)

    def missing() -> micro.Timed:
        raise ImportError("no such part")

    def thousand() -> micro.Timed:
        return lambda: [None for _ in range(1000)]

    results = micro.measure([micro.Case("missing", 1, missing), micro.Case("loop", 1000, thousand)])
    assert results["missing"] == "ImportError: no such part"
    assert isinstance(results["loop"], float)
    assert 0 < results["loop"] < 1000
