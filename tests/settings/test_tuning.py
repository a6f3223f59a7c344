"""What the data path makes of the settings."""

from __future__ import annotations

from proxy.fleet.rules import FleetRules
from proxy.settings import Settings
from proxy.tuning import Tuning, tune
from proxy.types import JsonObject
from proxy.upstream import Timeouts


def _tuned(**given: object) -> Tuning:
    return tune(Settings.model_validate(given))


def test_without_settings_everything_is_the_default() -> None:
    """The rules of a fleet and of retries are those that the program has by itself."""
    tuned = _tuned()
    assert tuned.fleet == FleetRules()
    assert tuned.traffic.attempts == 5
    assert tuned.retries == (0.2, 10)
    assert tuned.traffic.pin_header is None
    assert tuned.timeouts("any") == Timeouts(5.0, 600.0, 300.0, 3600.0)
    assert tuned.traffic.queue_seconds("any") == 30.0


def test_a_model_differs_in_what_it_sets_only() -> None:
    """Each key of a model beats the common one; the others are the common ones."""
    tuned = _tuned(
        balance={"policy": "random", "worker_limit": 7, "queue_length": 3, "queue_seconds": 4.0},
        timeouts={"first_seconds": 9.0},
        models={
            "a": {"policy": "consistent_hash", "fallback": "b", "resume": True, "connect_seconds": 1.0},
            "b": {"worker_limit": 2, "queue_length": 0, "queue_seconds": 0.5, "idle_seconds": 2.0},
        },
    )
    a, b, other = (tuned.fleet.of(name) for name in ("a", "b", "c"))
    assert (a.policy, a.worker_limit, a.queue_length, a.queue_seconds, a.fallback) == (
        "consistent_hash",
        7,
        3,
        4.0,
        "b",
    )
    assert (b.policy, b.worker_limit, b.queue_length, b.queue_seconds, b.fallback) == ("random", 2, 0, 0.5, None)
    assert (other.policy, other.worker_limit, other.fallback) == ("random", 7, None)
    assert [tuned.traffic.resumes(name) for name in ("a", "b", "c")] == [True, False, False]
    assert [tuned.traffic.queue_seconds(name) for name in ("a", "b", "c")] == [4.0, 0.5, 4.0]
    assert tuned.timeouts("a") == Timeouts(1.0, 9.0, 300.0, 3600.0)
    assert tuned.timeouts("b") == Timeouts(5.0, 9.0, 2.0, 3600.0)


def test_limits_of_single_workers_are_by_normal_address() -> None:
    """However the operator writes an address, it is the worker's."""
    tuned = _tuned(fastchat={"worker_limits": {"http://W:1/": 2}})
    assert tuned.fleet.worker_limits == {"http://w:1": 2}


def test_the_key_of_a_request() -> None:
    """A header beats a field of the body; a model's own say beats the common one; without a value there is no key."""
    tuned = _tuned(
        balance={"hash_header": "X-User", "hash_field": "context.user"},
        models={"m": {"hash_field": "messages[0].content"}},
    )
    key = tuned.traffic.hash_key
    body: JsonObject = {"context": {"user": "u"}, "messages": [{"content": "hello"}]}
    assert key("any", {"headers": {"x-user": "h"}, "body": body}) == "h"
    assert key("any", {"headers": {}, "body": body}) == "u"
    assert key("m", {"headers": {"x-user": "h"}, "body": body}) == "hello"
    assert key("any", {"headers": {}, "body": {}}) is None
    assert key("any", {"headers": {}, "body": {"context": {"user": 7}}}) == "7"
    assert key("any", {"headers": {}, "body": {"context": {"user": {"id": 7}}}}) is None
    assert key("any", {"headers": {}, "body": {"context": {"user": ""}}}) is None


def test_a_field_that_does_not_fit_the_request_is_no_key() -> None:
    """A function that cannot take what a client sent gives no key, and no error."""
    key = _tuned(balance={"hash_field": "join('', messages)"}).traffic.hash_key
    assert key("m", {"headers": {}, "body": {"messages": 7}}) is None
