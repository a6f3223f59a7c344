from __future__ import annotations

import os
from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from proxy.fleet.table import Fleet
from proxy.limits import DROPPED_FIELDS_MAX
from proxy.operations import feed_serving_metrics
from proxy.telemetry.cells import HistogramCell
from proxy.telemetry.gathered import Gathered
from proxy.telemetry.ledger import Ledger, Tables, process_tables
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.rows import ConnectionCounts, QueueRow, WorkerRow
from proxy.telemetry.snapshot import SnapshotError, Snapshots, parse
from proxy.upstream import UpstreamPool
from tests.fleet.making import facts, report
from tests.telemetry.everything import used
from tests.telemetry.several import Several, nothing, taken, value

GOOD = taken(used())


def _counting(metrics: Metrics, model: str = "m", worker: str = "http://w:1") -> None:
    bundle = metrics.request("r", model)
    bundle.started()
    bundle.finished("ok", 0.5)
    metrics.upstream_error(worker, "reset")


def _system(pid: int) -> Tables:
    said = {
        "process_resident_memory_bytes": 100.0,
        "process_cpu_seconds": 2.0,
        "process_open_fds": 70.0 if pid == 2 else 9.0,
        "process_start_time_seconds": 50.0 + pid,
    }
    return {name: {(): number} for name, number in said.items()}


async def test_an_operator_reads_one_page_of_a_gateway_with_four_processes() -> None:
    """As Prometheus reads it: sums, what only one process knows, and one that was replaced."""
    ledger = Ledger(own=1, read=_system)
    control, first, second = used(), Metrics(), Metrics()
    for pid, metrics in ((2, control), (3, first), (4, second)):
        ledger.joined(pid, "control" if pid == 2 else "serving")
        if pid > 2:
            _counting(metrics, "vicuna")
            metrics.request("r", "vicuna").started()
            metrics.watch_connections(lambda: ConnectionCounts(1, 2, 3, 4, 5))
            metrics.watch_queues(lambda: [QueueRow("vicuna", "llm", 77)])
        ledger.heard(pid, await Snapshots(metrics).take())
    ledger.retire(4)
    ledger.joined(5, "serving", replaces=True)

    async def ask() -> bytes:
        return ledger.merged()

    text = (await Gathered(ask).scrape()).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    model, route = ("model", "vicuna"), ("route", "r")
    assert found["gateway_requests_total", model, ("outcome", "ok"), route] == 2
    assert found["gateway_request_duration_seconds_bucket", ("le", "0.5"), model, route] == 2
    assert found["gateway_in_flight", model, route] == 1
    assert found["gateway_queue_depth", ("kind", "llm"), ("model", "vicuna")] == 3
    assert found["gateway_upstream_connections", ("state", "active")] == 4
    assert found["gateway_upstream_connections_reused_total",] == 48
    assert found["gateway_worker_in_flight", ("worker", "http://w:1")] == 2
    assert [found["gateway_processes", ("role", role)] for role in ("supervisor", "control", "serving")] == [1, 1, 2]
    replaced = [found["gateway_process_replacements_total", ("role", role)] for role in ("control", "serving")]
    assert replaced == [0, 1]
    assert found["process_cpu_seconds_total",] == 10
    assert found["process_resident_memory_bytes",] == 400
    assert found["process_open_fds",] == 70
    assert found["process_start_time_seconds",] == 51


def test_a_process_is_asked_of_the_system() -> None:
    """The numbers of another process come from the system, and of one that is gone there are none."""
    told = process_tables(os.getpid())
    assert "process_resident_memory_bytes" in told
    assert process_tables(2**22 + 1) == {}


async def test_a_snapshot_is_sent_only_after_something_was_counted() -> None:
    """A process without requests has nothing to say."""
    metrics = Metrics()
    snapshots = Snapshots(metrics)
    first = await snapshots.changed()
    assert first is not None
    assert await snapshots.changed() is None
    metrics.note("text_shrunk")
    assert await snapshots.changed() not in (None, first)


async def test_a_large_snapshot_is_made_elsewhere_and_says_the_same() -> None:
    """The event loop goes on meanwhile."""
    metrics = Metrics()
    for number in range(60):
        _counting(metrics, f"model {number}")
    assert len(parse(await Snapshots(metrics).take()).tables["gateway_request_duration_seconds"]) == 60


def test_what_the_fleet_forgot_is_forgotten_in_the_sum() -> None:
    """Models and workers that left make room, also those that only processes counted which have ended since."""
    several = Several(2, cap=1)
    control, serving = several.metrics.values()
    rows = [WorkerRow("http://w:1", True, 0, 0)]
    control.watch_workers(lambda: rows)
    control.forget_models({"m"})
    _counting(serving)
    several.merged()
    several.replace(1)
    assert value(several.merged(), "gateway_requests", "r", "m", "ok") == 1
    rows[:] = [WorkerRow("http://w:2", True, 0, 0)]
    control.forget_models({"n"})
    merged = several.merged()
    assert value(merged, "gateway_requests", "r", "m", "ok") is None
    assert value(merged, "gateway_request_duration_seconds", "r", "m") is None
    assert value(merged, "gateway_upstream_errors", "http://w:1", "reset") is None
    _counting(several.metrics[1], "n", "http://w:2")
    merged = several.merged()
    assert value(merged, "gateway_requests", "r", "n", "ok") == 1
    assert value(merged, "gateway_upstream_errors", "http://w:2", "reset") == 1


def test_a_model_with_a_request_under_way_in_any_process_stays() -> None:
    """As in one process, until the request ends; a process that has not forgotten yet does not bring it back."""
    several = Several(2)
    control, serving = several.metrics.values()
    control.forget_models({"m"})
    _counting(serving)
    running = serving.request("r", "m")
    running.started()
    several.merged()
    control.forget_models(set())
    merged = several.merged()
    assert value(merged, "gateway_in_flight", "r", "m") == 1
    assert value(merged, "gateway_requests", "r", "m", "ok") == 1
    running.finished("ok", 1.0)
    several.hear(1)
    several.hear(0)
    several.hear(0)
    merged = several.merged()
    assert value(merged, "gateway_requests", "r", "m", "ok") is None
    assert value(merged, "gateway_in_flight", "r", "m") is None
    _counting(serving)
    assert value(several.merged(), "gateway_requests", "r", "m", "ok") == 1


def test_a_new_model_is_not_lost_before_the_fleet_has_told_of_it() -> None:
    """Messages of two processes may cross: the series of a model that one of them does not know yet stays."""
    several = Several(2)
    control, serving = several.metrics.values()
    control.forget_models(set())
    several.hear(0)
    _counting(serving, "new")
    several.hear(1)
    several.hear(0)
    control.forget_models({"new"})
    assert value(several.merged(), "gateway_requests", "r", "new", "ok") == 1


def test_a_control_process_that_has_just_begun_makes_nothing_forgotten() -> None:
    """Its fleet is empty until it has looked, and then has the same models as before."""
    several = Several(2)
    several.metrics[0].forget_models({"m"})
    _counting(several.metrics[1])
    several.merged()
    several.replace(0)
    several.metrics[0].forget_models(set())
    for _ in range(3):
        several.hear(0, settled=False)
    assert value(several.now(), "gateway_requests", "r", "m", "ok") == 1
    several.metrics[0].forget_models({"m"})
    assert value(several.merged(), "gateway_requests", "r", "m", "ok") == 1


def test_what_a_process_forgot_is_not_counted_twice() -> None:
    """A number that became smaller, because a part of it was forgotten, adds nothing; what comes after it does."""
    several = Several(1)
    bundles = [several.metrics[0].request("r", model) for model in ("a", "b")]
    for bundle in bundles:
        for _ in range(3):
            backend = bundle.backend("server", "b")
            backend.started()
            backend.finished("ok", 1.0)
    several.hear(0, settled=False)
    several.metrics[0].forget_models({"b"})
    several.hear(0, settled=False)
    assert value(several.now(), "gateway_backend_requests", "server", "b", "main", "ok") == 6
    assert _calls(several) == 6
    backend = bundles[1].backend("server", "b")
    backend.started()
    backend.finished("ok", 1.0)
    several.hear(0, settled=False)
    assert value(several.now(), "gateway_backend_requests", "server", "b", "main", "ok") == 7
    assert _calls(several) == 7


def _calls(several: Several) -> int:
    cell = value(several.now(), "gateway_backend_request_duration_seconds", "server", "b", "main")
    assert isinstance(cell, HistogramCell)
    return sum(cell.counts)


def test_requests_without_a_model_take_no_place_of_one() -> None:
    """However few names may have a place, "none" and "other" are not among them."""
    several = Several(2, cap=1)
    _counting(several.metrics[0], "")
    _counting(several.metrics[1], "m")
    merged = several.merged()
    assert value(merged, "gateway_requests", "r", "none", "ok") == 1
    assert value(merged, "gateway_requests", "r", "m", "ok") == 1


def test_invented_fields_of_several_processes_are_bounded() -> None:
    """Each process may know other names; all together are no more than one may have."""
    several = Several(2)
    for slot, metrics in several.metrics.items():
        for number in range(DROPPED_FIELDS_MAX):
            metrics.rules.of("pack", "rule").dropped("request", [f"x{slot}-{number}"], ())
        metrics.rules.of("pack", "rule").dropped("request", ["user"], ("user",))
    merged = several.merged()
    dropped = merged.tables["gateway_dropped_fields"]
    assert len(dropped) == DROPPED_FIELDS_MAX + 2
    assert value(merged, "gateway_dropped_fields", "pack", "rule", "request", "other", "false") == DROPPED_FIELDS_MAX
    assert value(merged, "gateway_dropped_fields", "pack", "rule", "request", "user", "true") == 2


def test_a_process_that_was_retired_is_not_heard() -> None:
    """Whoever sends under its number is a mistake of the caller."""
    ledger = Ledger(own=1, read=nothing)
    ledger.joined(2, "serving")
    ledger.retire(2)
    with pytest.raises(KeyError):
        ledger.heard(2, GOOD)


@pytest.mark.parametrize(
    ("path", "put", "said"),
    [
        (["format"], 2, "a snapshot has the format 2, expected 1"),
        (["more"], 1, "a snapshot: expected an object of format, known, rules, tables"),
        (["tables", "gateway_nonsense"], [], "tables: there is no metric 'gateway_nonsense'"),
        (["tables", "gateway_bytes"], {}, "tables.gateway_bytes: expected a list, found dict"),
        (["tables", "gateway_bytes"], [[["a", "b"], 1]], "('a', 'b') are not the labels direction of one series"),
        (["tables", "gateway_bytes"], [[["a"], 1], [["a"], 1]], "('a',) are not the labels direction of one series"),
        (["tables", "gateway_bytes"], [[["a"], -1]], "tables.gateway_bytes: -1 is no count"),
        (["tables", "gateway_bytes"], [[["a"], None]], "tables.gateway_bytes: expected a number, found None"),
        (["tables", "gateway_bytes"], [[["a"], 2**63]], "tables.gateway_bytes: 9223372036854775808 is no count"),
        (["tables", "gateway_overhead_seconds"], [[["a"], [1], 1]], "1 buckets, expected 20"),
        (["tables", "gateway_overhead_seconds"], [[["a"], [0.5] * 20, 1]], "a bucket is no count"),
        (["rules", "generation"], -1, "rules: generation is no count"),
        (["rules", "since", "gateway_bytes"], [], "rules.since has metrics that are not about rules"),
        (
            ["rules", "since", "gateway_rule_failures"],
            [[["p", "r", "left"], 1]],
            "side is 'left', expected request, call, answer, result",
        ),
        (["known"], {"models": [1], "workers": []}, "known.models: expected texts"),
    ],
)
def test_bytes_that_are_no_snapshot_are_refused(path: list[str], put: object, said: str) -> None:
    """With what was found where, and without a change of the sums."""
    document = orjson.loads(GOOD)
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = put
    ledger = Ledger(own=1, read=nothing)
    ledger.joined(2, "control")
    before = ledger.merged()
    with pytest.raises(SnapshotError) as refused:
        ledger.heard(2, orjson.dumps(document))
    assert said in str(refused.value)
    assert ledger.merged() == before


@given(st.integers(0, len(GOOD)), st.binary(max_size=4), st.integers(0, 40))
def test_damaged_bytes_do_no_harm(place: int, put: bytes, lost: int) -> None:
    """They are refused, or are a snapshot and can be added up; nothing else is raised."""
    ledger = Ledger(own=1, read=nothing)
    ledger.joined(2, "control")
    with suppress(SnapshotError):
        ledger.heard(2, GOOD[:place] + put + GOOD[place + lost :])
    assert parse(ledger.merged()).generation >= 0


async def test_a_serving_process_forgets_what_left_its_copy_of_the_fleet() -> None:
    """It makes room for others as the process with the fleet does, and shows no fleet of its own."""
    fleet = Fleet(max_workers=4, max_models_per_worker=4, max_remembered=1)
    fleet.report(report("http://w:1", facts("old")), 0.0)
    pool = UpstreamPool()
    metrics = Metrics(label_cap=1)
    feed_serving_metrics(metrics, fleet, pool)
    _counting(metrics, "old")
    first = parse(await Snapshots(metrics).take())
    assert value(first, "gateway_requests", "r", "old", "ok") == 1
    assert value(first, "gateway_upstream_connections", "idle") == 0
    assert first.tables.get("gateway_worker_up") is None
    fleet.forget("http://w:1", 1.0)
    fleet.report(report("http://w:2", facts("new")), 2.0)
    await Snapshots(metrics).take()
    _counting(metrics, "new", "http://w:2")
    then = parse(await Snapshots(metrics).take())
    assert list(then.tables["gateway_tokens"]) == [("new", "prompt"), ("new", "completion")]
    assert list(then.tables["gateway_upstream_errors"]) == [("http://w:2", "reset")]
    await pool.close()
