"""What is counted for a request that a route gives to workers of several backends."""

from __future__ import annotations

from pathlib import Path

from proxy.backends.functions import rule_functions
from proxy.errors import Fault, GatewayError
from proxy.ruleset import RuleSet, load_rules
from proxy.ruleset.playing import run_request, sample_scope
from proxy.server.tally import RuleTally
from proxy.telemetry.rules import Dropped, RuleCounts, RuleTable
from proxy.types import JsonObject
from tests.tools.packs import write_pack

BODY: JsonObject = {"model": "vicuna", "text": "hello", "stream": True, "user": "me", "heat": 1}
# Stands beside the route of the small pack, for workers of all other backends, and passes no heat on.
OTHERS = """\
route: chat_others
description: x
beside: chat
call: {operation: generate, with: {prompt: body.text, user: body.user}}
stream: {to: {framing: sse, text: cumulative, chunk: {fields: {said: text, end: finish}}}}
"""


def rules(folder: Path) -> RuleSet:
    pack = write_pack(folder, pack="description: For tests. -> description: For tests.\nbackend: fastchat")
    (pack / "others.yaml").write_text(OTHERS)
    return load_rules([pack], rule_functions())


def tallied(found: RuleSet, backend: str) -> tuple[RuleTable, RuleTally]:
    """The tally of one request that goes to a worker of this backend."""
    table = RuleTable(100)
    table.load(found.names)
    route = next(each for each in found.table.routes if each.name == "chat")
    scope = sample_scope(route, BODY, {"backend": backend})
    tally = RuleTally(table, route, scope)
    tally.built(run_request(route, scope, lambda _: None))
    return table, tally


def since(table: RuleTable, pack: str, name: str) -> RuleCounts:
    return table.of(pack, name).since


def lost(counts: RuleCounts) -> set[tuple[str, str]]:
    return {(one.side, one.field) for one in counts.dropped}


def test_the_way_that_a_request_goes_is_what_counts(tmp_path: Path) -> None:
    """The route took it; what is lost is lost by the one that wrote it for its worker."""
    found = rules(tmp_path)
    table, tally = tallied(found, "fastchat")
    tally.close(None)
    assert (since(table, "sample", "chat").applied, since(table, "sample", "chat_others").applied) == (1, 0)
    assert lost(since(table, "sample", "chat")) == {("request", "user")}
    table, tally = tallied(found, "openai")
    tally.close(None)
    assert (since(table, "sample", "chat").applied, since(table, "sample", "chat_others").applied) == (1, 1)
    assert lost(since(table, "sample", "chat")) == set()
    assert lost(since(table, "sample", "chat_others")) == {("request", "heat")}


def test_the_rules_of_the_backend_count_for_themselves(tmp_path: Path) -> None:
    """Which of its ways was taken, which were passed over, and what it does not take of a call."""
    found = rules(tmp_path)
    table, tally = tallied(found, "fastchat")
    assert all(not since(table, way.pack, way.name).applied for way in found.askings)
    table, tally = tallied(found, "tgi")
    tally.resulted({"text": "a", "usage": {"prompt_tokens": 1}, "logprobs": None})
    tally.close(None)
    ways = [way for way in found.askings if way.backend == "tgi" and way.operation == "generate"]
    assert sum(since(table, way.pack, way.name).applied for way in ways) == 1
    assert Dropped("answer", "usage", accepted=False) in since(table, "sample", "chat_others").dropped


def test_a_failure_is_that_of_the_rule_that_failed(tmp_path: Path) -> None:
    """By its names where the error has them, else of the rule that was followed on that side; once for one error."""
    found = rules(tmp_path)
    table, tally = tallied(found, "openai")
    error = GatewayError("upstream_protocol", "no", fault=Fault("answer"))
    for each in (error, error, GatewayError("invalid_request", "no"), None):
        tally.failed(each)
    tally.failed(GatewayError("upstream_protocol", "no", fault=Fault("result")))
    tally.failed(GatewayError("invalid_request", "no", fault=Fault("request", "sample", "chat")))
    tally.close(error)
    failed = {
        (pack, side)
        for pack, name in found.names
        for side, count in since(table, pack, name).failures.items()
        for _ in range(count)
    }
    assert failed == {("backends/openai", "answer"), ("sample", "result"), ("sample", "request")}
    assert since(table, "sample", "chat_others").failures["result"] == 1
    assert since(table, "sample", "chat").failures["request"] == 1
