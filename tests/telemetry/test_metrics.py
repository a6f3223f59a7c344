from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import threading
import timeit
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import proxy
from proxy.telemetry import buckets
from proxy.telemetry.metrics import NOTES, Metrics, WaitResult
from proxy.telemetry.request import OUTCOMES, PHASES
from proxy.telemetry.rows import BreakerState, QueueRow, WorkerRow
from tests.telemetry.everything import several, used


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def parsed(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels, as Prometheus' own client library reads the page; no series may come twice."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"series twice: {key}"
            samples[key] = sample.value
    return samples


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return parsed(metrics).get((name, frozenset(labels.items())))


def test_a_request_shows_in_every_metric_it_touched() -> None:
    """Names, labels and values of one request, as a dashboard reads them."""
    metrics = used()
    pair = {"route": "generate", "model": "vicuna"}
    assert value(metrics, "gateway_requests_total", outcome="ok", **pair) == 1
    assert value(metrics, "gateway_requests_total", outcome="cancelled", **pair) == 0
    assert value(metrics, "gateway_in_flight", **pair) == 0
    assert value(metrics, "gateway_request_duration_seconds_sum", **pair) == 1.5
    assert value(metrics, "gateway_request_duration_seconds_bucket", le="1.0", **pair) == 0
    assert value(metrics, "gateway_request_duration_seconds_bucket", le="2.5", **pair) == 1
    assert value(metrics, "gateway_time_to_first_frame_seconds_count", **pair) == 1
    assert value(metrics, "gateway_inter_frame_seconds_bucket", le="0.025", **pair) == 1
    assert value(metrics, "gateway_inter_frame_seconds_bucket", le="0.01", **pair) == 0
    assert value(metrics, "gateway_inter_frame_seconds_sum", **pair) == 0.02
    assert value(metrics, "gateway_frames_total", direction="received") == 12
    assert value(metrics, "gateway_frames_total", direction="sent") == 11
    assert value(metrics, "gateway_bytes_total", direction="received") == 3400
    assert value(metrics, "gateway_bytes_total", direction="sent") == 3300
    assert value(metrics, "gateway_tokens_total", model="vicuna", type="prompt") == 19
    assert value(metrics, "gateway_tokens_total", model="vicuna", type="completion") == 7
    for phase in PHASES:
        assert value(metrics, "gateway_overhead_seconds_count", phase=phase) == 1
    assert value(metrics, "gateway_overhead_seconds_bucket", phase="queue", le="0.00025") == 1
    assert value(metrics, "gateway_overhead_seconds_bucket", phase="queue", le="0.0001") == 0
    bundle = metrics.request("generate", "vicuna")
    bundle.spent("queue", 29.0)
    assert value(metrics, "gateway_overhead_seconds_bucket", phase="queue", le="10.0") == 1
    assert value(metrics, "gateway_overhead_seconds_bucket", phase="queue", le="30.0") == 2


def test_the_control_plane_and_the_fleet_show() -> None:
    """Workers, connections, controllers, notes and errors are on the same page."""
    metrics = used()
    worker, controller = {"worker": "http://w:1"}, {"controller": "http://c:1"}
    assert value(metrics, "gateway_worker_up", **worker) == 1
    assert value(metrics, "gateway_worker_in_flight", **worker) == 2
    assert value(metrics, "gateway_worker_queue_length", **worker) == 4
    assert value(metrics, "gateway_upstream_connections", state="idle") == 1
    assert value(metrics, "gateway_upstream_connections", state="active") == 2
    assert value(metrics, "gateway_upstream_connections_opened_total") == 3
    assert value(metrics, "gateway_upstream_connections_reused_total") == 40
    assert value(metrics, "gateway_upstream_connections_retried_total") == 5
    assert value(metrics, "gateway_upstream_errors_total", kind="reset", **worker) == 1
    assert value(metrics, "gateway_probes_total", result="ok", **worker) == 1
    assert value(metrics, "gateway_discovery_total", result="ok", **controller) == 1
    assert value(metrics, "gateway_registrations_total", result="ok", **controller) == 1
    assert value(metrics, "gateway_heartbeats_total", result="ok", **controller) == 1
    assert value(metrics, "gateway_registered_instances", **controller) == 3
    assert value(metrics, "gateway_worker_limit", **worker) == 5
    assert value(metrics, "gateway_worker_breaker_state", **worker) == 1
    assert value(metrics, "gateway_worker_degraded", **worker) == 1
    assert value(metrics, "gateway_worker_drained", **worker) == 1
    assert value(metrics, "gateway_queue_depth", model="vicuna", kind="llm") == 3
    assert value(metrics, "gateway_stream_notes_total", note="finish_synthesized") == 1
    samples = parsed(metrics)
    builds = [dict(labels) for (name, labels) in samples if name == "gateway_build_info"]
    assert [build["version"] for build in builds] == [proxy.__version__]
    assert any(name == "process_resident_memory_bytes" for name, _ in samples)
    assert any(name == "python_info" for name, _ in samples)


def test_each_event_of_the_fleet_has_its_counter() -> None:
    """A dashboard finds what happened to workers and requests under names of their own; the rest is not lost."""
    metrics = used()
    worker, model = {"worker": "http://w:1"}, {"model": "vicuna"}
    assert value(metrics, "gateway_selections_total", policy="random") == 1
    assert value(metrics, "gateway_worker_breaker_transitions_total", state="open", **worker) == 1
    assert value(metrics, "gateway_worker_degraded_transitions_total", state="degraded", **worker) == 1
    assert value(metrics, "gateway_retries_total", reason="upstream_refused") == 1
    assert value(metrics, "gateway_failovers_total", **model) == 1
    assert value(metrics, "gateway_resumed_streams_total", result="ok", **model) == 1
    assert value(metrics, "gateway_fallbacks_total", **model) == 1
    assert value(metrics, "gateway_worker_registrations_total", result="ok") == 1
    assert value(metrics, "gateway_rejected_registrations_total", reason="not_allowed") == 1
    assert value(metrics, "gateway_reloads_total", result="ok") == 1
    assert value(metrics, "gateway_reloads_total", result="refused") == 0
    assert value(metrics, "gateway_events_total", event="last_resort") == 1
    assert value(metrics, "gateway_events_total", event="selection") is None


def test_a_wait_shows_how_long_it_was_and_how_it_ended() -> None:
    """Every wait is in the histogram, also one in vain, so that its p99 is what clients see."""
    metrics = Metrics()
    for seconds in (0.0004, 0.3, 29.0):
        metrics.waited("m", seconds)
    metrics.waited("m", 60.0, "timeout")
    metrics.waited("m", 1.0, "left")
    assert value(metrics, "gateway_queue_wait_seconds_bucket", model="m", le="0.001") == 1
    assert value(metrics, "gateway_queue_wait_seconds_bucket", model="m", le="0.5") == 2
    assert value(metrics, "gateway_queue_wait_seconds_bucket", model="m", le="30.0") == 4
    assert value(metrics, "gateway_queue_wait_seconds_bucket", model="m", le="60.0") == 5
    assert value(metrics, "gateway_queue_wait_seconds_sum", model="m") == pytest.approx(90.3004)
    ends = {
        result: value(metrics, "gateway_queue_ends_total", model="m", result=result) for result in get_args(WaitResult)
    }
    assert ends == {"granted": 3, "timeout": 1, "refused": None, "left": 1}


def test_queues_are_read_at_the_scrape_and_models_past_the_cap_are_summed() -> None:
    """The page shows who waits now; queues of models without a name of their own are one series, not two."""
    metrics = Metrics(label_cap=1)
    rows = [QueueRow("a", "llm", 2), QueueRow("b", "llm", 3), QueueRow("c", "llm", 4), QueueRow("a", "text2vec", 0)]
    metrics.watch_queues(lambda: rows)
    metrics.waited("b", 0.1)
    metrics.waited("c", 0.1)
    assert value(metrics, "gateway_queue_depth", model="b", kind="llm") == 3
    assert value(metrics, "gateway_queue_depth", model="other", kind="llm") == 6
    assert value(metrics, "gateway_queue_depth", model="other", kind="text2vec") == 0
    assert value(metrics, "gateway_queue_wait_seconds_count", model="other") == 1
    rows[:] = [QueueRow("b", "llm", 0)]
    assert value(metrics, "gateway_queue_depth", model="b", kind="llm") == 0
    assert value(metrics, "gateway_queue_depth", model="other", kind="llm") is None


def test_a_failed_reload_shows_until_one_succeeds() -> None:
    """The start counts as a load; a refused reload leaves the time of the one in use."""
    clock = Clock()
    metrics = Metrics(wall_clock=clock)
    last = "gateway_config_last_reload"
    assert value(metrics, f"{last}_successful") == 1
    clock.now += 60
    metrics.on_event("reload", result="refused")
    assert value(metrics, f"{last}_successful") == 0
    assert value(metrics, f"{last}_success_timestamp_seconds") == 1000
    clock.now += 60
    metrics.on_event("reload", result="ok")
    assert value(metrics, f"{last}_successful") == 1
    assert value(metrics, f"{last}_success_timestamp_seconds") == 1120
    assert value(metrics, "gateway_reloads_total", result="refused") == 1


def test_made_up_reasons_cannot_flood_the_page() -> None:
    """A reason that somebody's text leaked into makes a bounded number of series."""
    metrics = Metrics()
    for number in range(1000):
        metrics.on_event("rejected_registration", reason=f"http://evil:{number}")
    rejected = [name for name, _ in parsed(metrics) if name == "gateway_rejected_registrations_total"]
    assert len(rejected) == 41


def test_the_same_pair_has_the_same_bundle() -> None:
    """A request may look its counters up as often as it likes."""
    metrics = Metrics()
    assert metrics.request("r", "m") is metrics.request("r", "m")
    assert metrics.request("r", "m") is not metrics.request("r", "n")


def test_made_up_models_cannot_flood_the_page() -> None:
    """A caller who invents model names gets one more series, not one for each name."""
    metrics = Metrics(label_cap=3)
    for number in range(1000):
        bundle = metrics.request("generate", f"model-{number}")
        bundle.started()
        bundle.finished("client_error", 0.1)
        metrics.upstream_error(f"http://w:{number}", "reset")
    samples = parsed(metrics)
    models = {dict(labels)["model"] for name, labels in samples if name == "gateway_requests_total"}
    workers = {dict(labels)["worker"] for name, labels in samples if name == "gateway_upstream_errors_total"}
    assert models == {"model-0", "model-1", "model-2", "other"}
    assert workers == {"http://w:0", "http://w:1", "http://w:2", "other"}
    assert value(metrics, "gateway_requests_total", route="generate", model="other", outcome="client_error") == 997


def test_models_outside_the_closed_set_are_other() -> None:
    """With the served models known, any other name is counted together."""
    metrics = Metrics()
    metrics.close_labels("model", ["vicuna"])
    assert metrics.request("r", "made up") is metrics.request("r", "made up too")
    assert metrics.request("r", "vicuna").model == "vicuna"


def test_workers_are_read_at_the_scrape() -> None:
    """The page shows the fleet as it is now: changed states, and no series of a worker that is gone."""
    metrics = Metrics()
    rows = [WorkerRow("a", True, 1, None), WorkerRow("b", False, 0, 3)]
    metrics.watch_workers(lambda: rows)
    assert value(metrics, "gateway_worker_queue_length", worker="a") is None
    assert value(metrics, "gateway_worker_up", worker="b") == 0
    rows[:] = [WorkerRow("b", True, 5, 0)]
    assert value(metrics, "gateway_worker_up", worker="b") == 1
    assert value(metrics, "gateway_worker_in_flight", worker="b") == 5
    assert value(metrics, "gateway_worker_up", worker="a") is None


def test_workers_past_the_cap_are_summed() -> None:
    """A fleet larger than the cap still shows all its load, and a down worker among the rest is not hidden."""
    metrics = Metrics(label_cap=1)
    metrics.watch_workers(
        lambda: [WorkerRow("a", True, 1, 1), WorkerRow("b", True, 2, 5), WorkerRow("c", False, 3, None)]
    )
    assert value(metrics, "gateway_worker_in_flight", worker="a") == 1
    assert value(metrics, "gateway_worker_in_flight", worker="other") == 5
    assert value(metrics, "gateway_worker_queue_length", worker="other") == 5
    assert value(metrics, "gateway_worker_up", worker="other") == 0
    assert value(metrics, "gateway_worker_limit", worker="other") is None


@pytest.mark.parametrize(("states", "worst"), [(("closed", "half_open"), 1), (("open", "closed"), 2)])
def test_the_worst_worker_past_the_cap_shows(states: tuple[BreakerState, BreakerState], worst: int) -> None:
    """An alert on breakers, degraded or drained workers also rings for those without a name of their own."""
    metrics = Metrics(label_cap=1)
    first = WorkerRow("a", True, 0, 0, 5, "closed")
    second, third = WorkerRow("b", True, 0, 0, 5, states[0]), WorkerRow("c", True, 0, 0, 3, states[1], True, True)
    metrics.watch_workers(lambda: [third, second, first])
    assert value(metrics, "gateway_worker_breaker_state", worker="a") == 0
    assert value(metrics, "gateway_worker_breaker_state", worker="other") == worst
    assert value(metrics, "gateway_worker_degraded", worker="other") == 1
    assert value(metrics, "gateway_worker_drained", worker="other") == 1
    assert value(metrics, "gateway_worker_limit", worker="other") == 8


def test_a_worker_without_more_facts_is_an_ordinary_one() -> None:
    """What is not known of a worker makes no alert: no limit, breaker closed, neither degraded nor drained."""
    metrics = Metrics()
    metrics.watch_workers(lambda: [WorkerRow("a", True, 0, None)])
    assert value(metrics, "gateway_worker_limit", worker="a") is None
    for state in ("breaker_state", "degraded", "drained"):
        assert value(metrics, f"gateway_worker_{state}", worker="a") == 0


def test_a_forgotten_worker_leaves_no_series() -> None:
    """A worker that left for good does not stay on the page for ever."""
    metrics = used()
    metrics.forget_worker("http://w:1")
    assert value(metrics, "gateway_probes_total", worker="http://w:1", result="ok") is None
    assert value(metrics, "gateway_upstream_errors_total", worker="http://w:1", kind="reset") is None
    for change, state in (("breaker", "open"), ("degraded", "degraded")):
        name = f"gateway_worker_{change}_transitions_total"
        assert value(metrics, name, worker="http://w:1", state=state) is None
    assert value(metrics, "gateway_registrations_total", controller="http://c:1", result="ok") == 1


def test_ages_grow_until_the_next_success() -> None:
    """An operator can alert on a controller that accepts no heartbeat any more; a failure does not set the age back."""
    clock = Clock()
    metrics = Metrics(clock=clock)
    assert value(metrics, "gateway_heartbeat_age_seconds", controller="c") is None
    metrics.on_event("registration", controller="c", result="ok")
    metrics.on_event("heartbeat", controller="c", result="ok")
    clock.now += 30
    metrics.on_event("heartbeat", controller="c", result="unreachable")
    assert value(metrics, "gateway_heartbeat_age_seconds", controller="c") == 30
    metrics.on_event("heartbeat", controller="c", result="ok")
    assert value(metrics, "gateway_heartbeat_age_seconds", controller="c") == 0
    assert value(metrics, "gateway_registration_age_seconds", controller="c") == 30
    assert value(metrics, "gateway_heartbeats_total", controller="c", result="unreachable") == 1


def test_an_event_without_its_labels_is_still_counted() -> None:
    """A missing label is shown as missing instead of losing the event; labels that a counter lacks are left out."""
    metrics = Metrics()
    metrics.on_event("heartbeat", reason="reset", seconds=1.5)
    assert value(metrics, "gateway_heartbeats_total", controller="none", result="none") == 1


def test_an_unknown_note_is_not_lost() -> None:
    """A note that the list does not have yet is counted as other."""
    metrics = Metrics()
    metrics.note("brand_new", 2)
    metrics.note("text_shrunk")
    assert value(metrics, "gateway_stream_notes_total", note="other") == 2
    assert value(metrics, "gateway_stream_notes_total", note="text_shrunk") == 1
    assert {value(metrics, "gateway_stream_notes_total", note=note) for note in NOTES} == {0, 1, 2}


def test_outcomes_and_in_flight_add_up() -> None:
    """Each outcome has its own count and every finished request leaves the gauge."""
    metrics = Metrics()
    bundle = metrics.request("r", "m")
    for outcome in OUTCOMES:
        bundle.started()
        assert value(metrics, "gateway_in_flight", route="r", model="m") == 1
        bundle.finished(outcome, 0.1)
        assert value(metrics, "gateway_requests_total", route="r", model="m", outcome=outcome) == 1
    assert value(metrics, "gateway_in_flight", route="r", model="m") == 0
    assert value(metrics, "gateway_request_duration_seconds_count", route="r", model="m") == len(OUTCOMES)


def test_negative_usage_does_not_turn_a_counter_back() -> None:
    """A broken worker's negative token counts would look like a restart to Prometheus."""
    metrics = Metrics()
    metrics.request("r", "m").tokens(-5, 3)
    assert value(metrics, "gateway_tokens_total", model="m", type="prompt") == 0
    assert value(metrics, "gateway_tokens_total", model="m", type="completion") == 3


def test_label_values_are_escaped() -> None:
    """A model's name with quotes and line breaks does not break the page."""
    name = 'a"b\\c\nd'
    metrics = Metrics()
    bundle = metrics.request("r", name)
    bundle.started()
    assert value(metrics, "gateway_in_flight", route="r", model=name) == 1


def test_two_gateways_in_one_process_do_not_share_counts() -> None:
    """Each `Metrics` has its own registry unless it is given one."""
    registry = CollectorRegistry()
    one, two = Metrics(registry), Metrics()
    one.note("text_shrunk")
    assert registry.get_sample_value("gateway_stream_notes_total", {"note": "text_shrunk"}) == 1
    assert two.registry.get_sample_value("gateway_stream_notes_total", {"note": "text_shrunk"}) == 0


def test_bounds_ascend_and_hold_the_limits_that_alerts_use() -> None:
    """Histograms need ascending bounds; two seconds to the first frame is a common promise."""
    for bounds in (
        buckets.REQUEST_DURATION,
        buckets.FIRST_FRAME,
        buckets.INTER_FRAME,
        buckets.QUEUE_WAIT,
        buckets.OVERHEAD,
    ):
        assert list(bounds) == sorted(set(bounds))
    assert {2.0, 3.0, 15.0, 30.0, 60.0} <= set(buckets.FIRST_FRAME)
    assert (buckets.OVERHEAD[0], buckets.OVERHEAD[-1]) == (0.00005, 60.0)
    assert (buckets.QUEUE_WAIT[0], buckets.QUEUE_WAIT[-1]) == (0.001, 60.0)
    assert (buckets.INTER_FRAME[0], buckets.INTER_FRAME[-1]) == (0.001, 10.0)
    assert (buckets.REQUEST_DURATION[0], buckets.REQUEST_DURATION[-1]) == (0.05, 7200.0)


def test_names_follow_the_conventions_of_prometheus() -> None:
    """Own prefix, base units at the end, `_total` on counters only, a sentence of help for each."""
    families = [
        family
        for family in text_string_to_metric_families(several().decode())
        if not family.name.startswith(("process_", "python_"))
    ]
    assert len(families) >= 45
    for family in families:
        assert re.fullmatch(r"gateway_[a-z]+(_[a-z]+)*", family.name), family.name
        assert re.fullmatch(r"[A-Z0-9].{15,}\.", family.documentation), family.name
        names = {sample.name for sample in family.samples}
        assert names, family.name
        assert all(name.endswith("_total") for name in names) is (family.type == "counter"), family.name
        assert "milli" not in family.name
        assert "micro" not in family.name
        if family.type == "histogram" or family.name.endswith("age"):
            assert family.name.endswith("_seconds"), family.name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not on PATH")
def test_promtool_finds_nothing() -> None:
    """Prometheus' own checker accepts the page without a remark."""
    done = subprocess.run(["promtool", "check", "metrics"], input=used().render(), capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


async def test_a_scrape_reads_the_fleet_on_the_loop_and_renders_elsewhere() -> None:
    """The fleet belongs to the event loop; only the rendering may leave it, and new requests do not disturb it."""
    metrics = Metrics(label_cap=2000)
    threads: list[int] = []

    def rows() -> list[WorkerRow]:
        threads.append(threading.get_ident())
        return [WorkerRow("a", True, 0, 0)]

    metrics.watch_workers(rows)
    for number in range(300):
        metrics.request("r", f"model-{number}").started()
    scrape = asyncio.create_task(metrics.scrape())
    turns = 0
    while not scrape.done():
        metrics.request("r", f"late-{turns % 1000}").started()
        turns += 1
        await asyncio.sleep(0)
    page = (await scrape).decode()
    assert 'gateway_worker_up{worker="a"} 1.0' in page
    assert threads == [threading.get_ident()]
    assert turns > 1, "the event loop stood still while the page was rendered"
    metrics.watch_workers(list)
    assert b"gateway_worker_up{" not in await metrics.scrape()


def test_a_gap_costs_little() -> None:
    """It is called for each read from a socket, so it must stay under 1.5 microseconds (the best of several rounds)."""
    gap = Metrics().request("r", "m").backend("b", "m").gap
    rounds = timeit.repeat(lambda: gap(0.02), number=20_000, repeat=5)
    assert min(rounds) / 20_000 < 1.5e-6


def test_forgotten_models_leave_no_series() -> None:
    """Models that nobody knows any more make room for others; one with a request under way stays until it ends."""
    metrics = Metrics(label_cap=2)
    running = metrics.request("generate", "running")
    running.started()
    used = metrics.request("generate", "used")
    used.started()
    used.finished("ok", 1.0)
    metrics.waited("used", 1.0)
    metrics.on_event("failover", model="used")
    metrics.forget_models({"known"})
    models = {dict(labels).get("model") for _, labels in parsed(metrics)}
    assert models == {None, "running"}
    assert metrics.request("generate", "new").model == "new"
    running.finished("ok", 1.0)
    metrics.forget_models(set())
    assert {dict(labels).get("model") for _, labels in parsed(metrics)} == {None}
