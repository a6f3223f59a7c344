"""Every metric that a page can show, in the order of the page: names, help texts, labels, buckets, and of which
processes a gauge is made.
"""

from __future__ import annotations

from typing import Final

from proxy.telemetry.buckets import FIRST_FRAME, INTER_FRAME, OVERHEAD, QUEUE_WAIT, REQUEST_DURATION
from proxy.telemetry.events import EVENT_FAMILIES
from proxy.telemetry.tables import Combine, Family


def _gauge(name: str, text: str, labels: tuple[str, ...] = (), combine: Combine = "control") -> Family:
    return Family(name, text, labels, "gauge", combine)


def _histogram(name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> Family:
    return Family(name, text, labels, "histogram", bounds=bounds)


# The client library's own, read from /proc. A process that runs out of files shows, however well the others are.
PROCESS_FAMILIES: Final = (
    _gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", combine="sum"),
    _gauge("process_resident_memory_bytes", "Resident memory size in bytes.", combine="sum"),
    _gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", combine="min"),
    Family("process_cpu_seconds", "Total user and system CPU time spent in seconds."),
    _gauge("process_open_fds", "Number of open file descriptors.", combine="max"),
    _gauge("process_max_fds", "Maximum number of open file descriptors.", combine="min"),
)

BUILD: Final = _gauge(
    "gateway_build_info", "Version of the gateway and of Python; always 1.", ("version", "python"), "control"
)

_PAIR: Final = ("route", "model")
REQUESTS: Final = Family("gateway_requests", "Finished requests, by route, model and outcome.", (*_PAIR, "outcome"))
IN_FLIGHT: Final = _gauge("gateway_in_flight", "Requests that are being served now.", _PAIR, "sum")
DURATION: Final = _histogram(
    "gateway_request_duration_seconds",
    "From a request's arrival to the end of its answer.",
    _PAIR,
    REQUEST_DURATION,
)
FIRST: Final = _histogram(
    "gateway_time_to_first_frame_seconds",
    "From a request's arrival to the first frame of its stream.",
    _PAIR,
    FIRST_FRAME,
)
GAPS: Final = _histogram(
    "gateway_inter_frame_seconds", "Between two reads of a worker's stream that carried frames.", _PAIR, INTER_FRAME
)
TOKENS: Final = Family("gateway_tokens", "Tokens that workers reported, by model and type.", ("model", "type"))

_CALL: Final = ("backend", "model", "role")
BACKEND_REQUESTS: Final = Family(
    "gateway_backend_requests", "Calls to workers, by backend, model, role and outcome.", (*_CALL, "outcome")
)
BACKEND_IN_FLIGHT: Final = _gauge("gateway_backend_in_flight", "Calls to workers under way.", _CALL, "sum")
BACKEND_TOKENS: Final = Family(
    "gateway_backend_tokens", "Tokens that workers reported, by backend, model, role and type.", (*_CALL, "type")
)
BACKEND_DURATION: Final = _histogram(
    "gateway_backend_request_duration_seconds", "From a call to a worker to its end.", _CALL, REQUEST_DURATION
)
BACKEND_FIRST: Final = _histogram(
    "gateway_backend_first_frame_seconds", "From a call to a worker to its first frame.", _CALL, FIRST_FRAME
)
BACKEND_GAPS: Final = _histogram(
    "gateway_backend_inter_frame_seconds",
    "Between two reads of a worker's stream that carried frames.",
    _CALL,
    INTER_FRAME,
)
BACKEND_TOKEN: Final = _histogram(
    "gateway_backend_time_per_token_seconds",
    "Time for a token after the first, the mean of one stream.",
    _CALL,
    INTER_FRAME,
)

_RULE: Final = ("pack", "route")
RULE_MATCHES: Final = Family(
    "gateway_rule_matches",
    "Requests for which a rule was looked at, by whether it took them.",
    (*_RULE, "result"),
)
RULE_FAILURES: Final = Family("gateway_rule_failures", "Times that a rule itself failed, by side.", (*_RULE, "side"))
DROPPED_FIELDS: Final = Family(
    "gateway_dropped_fields",
    "Requests in which a field went nowhere, by side, field, and whether the pack says why.",
    (*_RULE, "side", "field", "accepted"),
)
RULE_FAMILIES: Final = (RULE_MATCHES, RULE_FAILURES, DROPPED_FIELDS)

FRAMES: Final = Family("gateway_frames", "Stream frames received from workers and sent to clients.", ("direction",))
BYTES: Final = Family("gateway_bytes", "Body bytes received from workers and sent to clients.", ("direction",))
OVERHEADS: Final = _histogram(
    "gateway_overhead_seconds", "Time that the gateway adds to a request, by phase.", ("phase",), OVERHEAD
)

NOTES: Final = Family(
    "gateway_stream_notes",
    "Repairs and losses in streams that a client does not see as an error, by kind.",
    ("note",),
)
UPSTREAM_ERRORS: Final = Family(
    "gateway_upstream_errors", "Failures of calls to a worker, by worker and kind.", ("worker", "kind")
)
QUEUE_ENDS: Final = Family(
    "gateway_queue_ends",
    "Requests that waited for a worker, by model and how it ended.",
    ("model", "result"),
)

INSTANCES: Final = _gauge(
    "gateway_registered_instances", "Instances that a controller holds for this gateway.", ("controller",)
)
AGES: Final = {
    event: _gauge(f"gateway_{event}_age_seconds", f"Time since a controller last accepted a {event}.", ("controller",))
    for event in ("registration", "heartbeat")
}

RELOADED: Final = _gauge(
    "gateway_config_last_reload_successful", "1 if the last reload of settings and rules succeeded, else 0."
)
LOADED: Final = _gauge(
    "gateway_config_last_reload_success_timestamp_seconds",
    "When the settings and rules in use were loaded, in seconds since 1970.",
)

_WORKER: Final = ("worker",)
WORKER_UP: Final = _gauge("gateway_worker_up", "1 if the worker answers, else 0.", _WORKER)
WORKER_IN_FLIGHT: Final = _gauge(
    "gateway_worker_in_flight", "Requests of this gateway that the worker holds now.", _WORKER
)
WORKER_QUEUE: Final = _gauge("gateway_worker_queue_length", "Queue length that the worker reported last.", _WORKER)
WORKER_LIMIT: Final = _gauge(
    "gateway_worker_limit", "Most requests of this gateway that the worker gets at once.", _WORKER
)
WORKER_BREAKER: Final = _gauge(
    "gateway_worker_breaker_state", "State of the worker's breaker: 0 closed, 1 half open, 2 open.", _WORKER
)
WORKER_DEGRADED: Final = _gauge(
    "gateway_worker_degraded", "1 if the worker is used only where no other is left, else 0.", _WORKER
)
WORKER_DRAINED: Final = _gauge(
    "gateway_worker_drained", "1 if an operator took the worker out of service, else 0.", _WORKER
)
WORKER_INFO: Final = _gauge(
    "gateway_worker_info", "What kind of server the worker is; always 1.", ("worker", "backend")
)

QUEUE_DEPTH: Final = _gauge(
    "gateway_queue_depth", "Requests that wait for a worker now, by model and kind.", ("model", "kind")
)
QUEUE_WAITS: Final = _histogram(
    "gateway_queue_wait_seconds",
    "Time that a request waited for a worker, however it ended.",
    ("model",),
    QUEUE_WAIT,
)

CONNECTIONS: Final = _gauge("gateway_upstream_connections", "Connections to workers, by state.", ("state",), "sum")
OPENED: Final = Family("gateway_upstream_connections_opened", "Connections to workers that were opened.")
REUSED: Final = Family(
    "gateway_upstream_connections_reused", "Requests that went over a connection that was already open."
)
RETRIED: Final = Family(
    "gateway_upstream_connections_retried",
    "Requests that were sent again on a fresh connection, because a kept one was dead.",
)

# Only where the gateway has several processes; made by whoever adds them up.
PROCESSES: Final = _gauge("gateway_processes", "Processes of this gateway that run now, by role.", ("role",), "sum")
REPLACEMENTS: Final = Family(
    "gateway_process_replacements", "Processes that ended without being asked to and were replaced, by role.", ("role",)
)

CATALOG: Final = (
    *PROCESS_FAMILIES,
    BUILD,
    *(REQUESTS, IN_FLIGHT, DURATION, FIRST, GAPS, TOKENS),
    *(BACKEND_REQUESTS, BACKEND_IN_FLIGHT, BACKEND_TOKENS),
    *(BACKEND_DURATION, BACKEND_FIRST, BACKEND_GAPS, BACKEND_TOKEN),
    *RULE_FAMILIES,
    *(FRAMES, BYTES, OVERHEADS),
    *(NOTES, UPSTREAM_ERRORS, QUEUE_ENDS),
    *EVENT_FAMILIES,
    *(INSTANCES, *AGES.values(), RELOADED, LOADED),
    *(WORKER_UP, WORKER_IN_FLIGHT, WORKER_QUEUE, WORKER_LIMIT, WORKER_BREAKER, WORKER_DEGRADED, WORKER_DRAINED),
    *(WORKER_INFO, QUEUE_DEPTH, QUEUE_WAITS),
    *(CONNECTIONS, OPENED, REUSED, RETRIED),
    *(PROCESSES, REPLACEMENTS),
)
BY_NAME: Final = {family.name: family for family in CATALOG}
