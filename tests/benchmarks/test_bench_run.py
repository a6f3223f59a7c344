"""The command that measures: its arguments, its files, and what it does about programs that fail."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from benchmarks import run as bench
from benchmarks.process import StartError
from benchmarks.scenarios import SCENARIOS
from benchmarks.subjects import STARTERS, Ask, Starter, Subject, rule_folders
from proxy.app import read_rules

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc")
SMALL = ["--streams", "3", "--chunks", "5", "--interval", "1", "--repeats"]


@needs_proc
def test_the_command_measures_and_writes_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One small run gives a table in which each program stands beside the other, and the same as files."""
    arguments = [*SMALL, "2", "--only", "worker", "--subjects", "relay,direct", "--out", str(tmp_path)]
    assert bench.main(arguments) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| direct", "| relay"))]
    assert len(rows) == 2
    results = orjson.loads((tmp_path / "results.json").read_bytes())
    programs = results["results"][0]["programs"]
    assert len(programs["relay"]["runs"]) == 2
    assert programs["relay"]["figures"]["cpu_us"]["median"] > 0
    assert results["results"][0]["scenario"]["streams"] == 3
    assert "3 at once, each 5 chunks 1 ms apart" in (tmp_path / "report.md").read_text()
    assert ElementTree.parse(tmp_path / "cpu.svg").getroot().tag.endswith("svg")


def _absent(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    raise StartError("it is not installed")


def _wrong(worker_url: str, folder: Path, stack: ExitStack) -> Subject:
    return Subject("wrong", worker_url, None, {"stream": Ask("/worker_generate", b"{}")})


@needs_proc
def test_what_is_absent_is_named_and_what_is_wrong_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing program is no failure; wrong answers are, give no figures, and leave the others theirs."""
    monkeypatch.setitem(STARTERS, "absent", Starter(_absent, frozenset({"stream"})))
    arguments = [*SMALL, "1", "--only", "worker", "--out", str(tmp_path), "--subjects"]
    assert bench.main([*arguments, "direct,absent"]) == 0
    result = orjson.loads((tmp_path / "results.json").read_bytes())["results"][0]
    assert (result["skipped"], result["failed"]) == ({"absent": "it is not installed"}, {})
    monkeypatch.setitem(STARTERS, "wrong", Starter(_wrong, frozenset({"stream"})))
    assert bench.main([*arguments, "direct,wrong"]) == 1
    result = orjson.loads((tmp_path / "results.json").read_bytes())["results"][0]
    assert "0 of 1 answers were right" in result["failed"]["wrong"]
    assert "wrong" not in result["programs"]
    assert len(result["programs"]["direct"]["runs"]) == 1


@pytest.mark.parametrize(
    "arguments", [["--streams", "0"], ["--subjects", "direct,apache"], ["--only", "fun"], ["--repeats", "many"]]
)
def test_a_wrong_argument_is_refused_with_a_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The option is named and the status is 2."""
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_quick_look_has_every_scenario_at_a_fraction_of_its_load() -> None:
    """Nothing is left out, and nothing takes long."""
    for scenario in SCENARIOS.values():
        small = scenario.quick()
        assert (small.name, small.route, small.unit) == (scenario.name, scenario.route, scenario.unit)
        assert small.requests * small.chunks <= 15_000
        paced = (small.spread_ms + small.rounds * small.chunks * small.interval_ms) / 1000
        assert paced < 3
        assert small.timeout > 3 * paced


def test_every_scenario_has_the_gateway_beside_something() -> None:
    """A figure without a peer says nothing."""
    for scenario in SCENARIOS.values():
        names = bench.measured_in(scenario, STARTERS)
        assert {"direct", "nginx", "gateway"} <= set(names)


def test_the_rules_of_the_benchmark_pass_their_own_tests() -> None:
    """The gateway that is measured serves the shipped rules, a changed field, NDJSON, and OpenAI's dialect."""
    paths = {route.path for route in read_rules([str(folder) for folder in rule_folders()]).table.routes}
    assert paths >= {
        "/api/worker/generate_stream",
        "/bench/field/generate_stream",
        "/bench/lines/generate_stream",
        "/v1/chat/completions",
    }
