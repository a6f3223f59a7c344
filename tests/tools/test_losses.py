from __future__ import annotations

from pathlib import Path

import pytest

from proxy.backends.functions import rule_functions
from proxy.ruleset import load_rules, shipped_rules
from proxy.ruleset.backends import BackendSource
from proxy.ruleset.loader import PackSource
from proxy.tools.commands import check, compat
from proxy.tools.losses import backend_compatibility, compatibility
from proxy.types import Json
from tests.tools.calling import write_calls
from tests.tools.packs import inside, run, run_json, write_pack, write_two_packs

ACCEPTED = """\
sample: -> accepted_losses:
  request.user: nobody asks who it was
  chat.answer.logprob: the dialect has no place for it
  whole.answer.logprob: nor here
  embed.answer.n: not wanted
  request.text: this is not lost
sample:"""


WHOLE = """\
route: chat
description: x
match: {method: POST, path: /chat, when: body.stream}
worker: {kind: llm, model: body.model}
request: {path: /generate, body: "merge(body, {text: upper(body.text)})"}
stream:
  from: {framing: ndjson, text: incremental, read: {text: chunk.token, finish: chunk.done_reason}}
  to: {framing: sse, text: cumulative, chunk: {fields: {said: text}}}
tests:
  - {name: it is taken, given: {request: {text: hello, heat: 1, user: me}}, expect: {upstream: {text: HELLO, user: me}}}
"""


def fates(told: Json, route: str, side: str) -> dict[str, tuple[Json, Json]]:
    fields = inside(told, "fields")
    assert isinstance(fields, list)
    return {
        str(inside(each, "field")): (inside(each, "fate"), inside(each, "into"))
        for each in fields
        if inside(each, "route") == route and inside(each, "side") == side
    }


def test_every_field_of_both_sides_has_a_fate(tmp_path: Path) -> None:
    """Carried as it is, changed into another one, used on the way, dropped, or invented by the rule."""
    told = run_json(compat, write_pack(tmp_path), code=1)
    assert fates(told, "chat", "request") == {
        "model": ("carried", ["model"]),
        "text": ("changed", ["prompt", "tokens"]),
        "heat": ("carried", ["heat"]),
        "stream": ("used", []),
        "user": ("dropped", []),
        "size": ("invented", []),
    }
    assert fates(told, "chat", "answer") == {
        "token": ("changed", ["said"]),
        "done_reason": ("changed", ["end"]),
        "logprob": ("dropped", []),
        "kind": ("invented", []),
    }
    assert fates(told, "whole", "answer")["done_reason"] == ("used", [])
    assert fates(told, "embed", "request") == {"input": ("changed", ["input"])}
    assert fates(told, "embed", "answer") == {
        "v": ("changed", ["vectors"]),
        "n": ("dropped", []),
        "code": ("used", []),
        "why": ("used", []),
    }
    assert told["lost"] == 5


def test_what_only_decides_or_bounds_is_used(tmp_path: Path) -> None:
    """A field in a condition or a bound does not arrive in what depends on it."""
    size = "size: {from: body.text, when: body.wide, clamp: {max: body.most}}"
    told = run_json(compat, write_pack(tmp_path, chat=f"size: {{value: 5}} -> {size}"), code=1)
    fields = fates(told, "chat", "request")
    assert (fields["wide"], fields["most"]) == (("used", []), ("used", []))
    assert fields["text"] == ("changed", ["prompt", "size", "tokens"])


def test_accepted_losses_have_a_reason(tmp_path: Path) -> None:
    """With every loss accepted the exit code is 0, and an acceptance that nothing needs any more is told."""
    pack = write_pack(tmp_path, pack=ACCEPTED)
    result = run(compat, pack)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "sample/chat"
    assert "client to worker changed text into prompt, tokens" in lines
    assert "worker to client dropped logprob accepted: the dialect has no place for it" in lines
    assert lines[-2:] == ["accepted_losses: request.text is not lost", "24 fields, 5 dropped, of which 0 not accepted"]
    assert run(check, pack).exit_code == 0


def test_fields_that_no_test_has_can_be_named(tmp_path: Path) -> None:
    """`fields` says what else the two sides know."""
    pack = write_pack(tmp_path, chat="steps: -> fields: {request: [seed], answer: [id]}\nsteps:")
    told = run_json(compat, pack, code=1)
    assert fates(told, "chat", "request")["seed"] == ("dropped", [])
    assert fates(told, "chat", "answer")["id"] == ("dropped", [])


def test_what_is_passed_on_as_a_whole_is_carried(tmp_path: Path) -> None:
    """A body that goes along whole loses nothing, and what the rule puts over it is changed."""
    pack = write_pack(tmp_path)
    (pack / "chat.yaml").write_text(WHOLE, encoding="utf-8")
    told = fates(run_json(compat, pack, code=1), "chat", "request")
    assert (told["user"], told["heat"], told["text"]) == (
        ("carried", ["user"]),
        ("carried", ["heat"]),
        ("changed", ["text"]),
    )


def test_a_shipped_pack_by_its_name() -> None:
    """It needs no path."""
    assert fates(run_json(compat, "fastchat-worker"), "worker_count_token", "request")["prompt"][0] == "carried"


def test_several_packs_or_none(tmp_path: Path) -> None:
    """One pack is compared; a folder of packs is a wrong argument, one that is not there a mistake."""
    write_two_packs(tmp_path)
    result = run(compat, tmp_path)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {tmp_path}: expected one rule pack, got 2: sample, other\n",
    )
    assert run(compat, "nowhere").stderr.startswith("nowhere: there is no such folder")
    assert run(compat, "nowhere").exit_code == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [("ollama", "ollama/ollama_chat"), ("backends/ollama", "ollama/ollama_embed"), ("tgi", "tgi/tgi_chat")],
)
def test_packs_that_come_with_the_program_are_named(name: str, shown: str) -> None:
    """Where a dialect and a backend have one name, the backend's has its folder before it."""
    result = run(compat, name)
    assert result.exit_code == 0
    assert shown in result.stdout.splitlines()
    assert ("call to client" in result.stdout) == (name == "ollama")


def test_an_acceptance_is_looked_at(tmp_path: Path) -> None:
    """One that could not be meant is a mistake of the pack."""
    pack = write_pack(tmp_path, pack="sample: -> accepted_losses: {user: x, chut.request.a: y}\nsample:")
    result = run(check, pack)
    assert result.exit_code == 1
    assert "'user': expected request.NAME or answer.NAME" in result.stderr
    assert "no route 'chut' in this pack; did you mean 'chat'?" in result.stderr


def ways(told: Json, side: str) -> dict[str, tuple[Json, Json, Json]]:
    fields = inside(told, "fields")
    assert isinstance(fields, list)
    return {
        str(inside(each, "field")): (inside(each, "fate"), inside(each, "into"), inside(each, "accepted"))
        for each in fields
        if inside(each, "route") == "say" and inside(each, "side") == side
    }


def test_a_call_is_compared_through_both_halves(tmp_path: Path) -> None:
    """From the client to the call and on to the worker, and back; each half accepts its own losses."""
    told = run_json(compat, write_calls(tmp_path) / "speech", "--rules", tmp_path, code=1)
    assert fates(told, "say", "request") == {
        "heat": ("changed", ["temperature"]),
        "model": ("used", []),
        "seed": ("carried", ["seed"]),
        "text": ("changed", ["messages"]),
        "user": ("carried", ["user"]),
    }
    assert ways(told, "call") == {
        "messages": ("changed", ["turns", "room"], None),
        "temperature": ("changed", ["heat"], None),
        "seed": ("dropped", [], None),
        "user": ("dropped", [], "it knows no users"),
        "model": ("invented", [], None),
    }
    assert ways(told, "result") == {
        "token": ("changed", ["text"], None),
        "done": ("changed", ["finish"], None),
        "took": ("dropped", [], None),
        "usage": ("absent", [], None),
        "reasoning": ("absent", [], None),
        "logprobs": ("absent", [], None),
    }
    assert ways(told, "answer") == {
        "text": ("changed", ["said"], None),
        "finish": ("changed", ["end"], None),
        "usage": ("dropped", [], None),
        "reasoning": ("dropped", [], None),
        "logprobs": ("dropped", [], None),
    }
    assert told["stale"] == ["request.user"]


def test_a_call_with_workers_of_another_backend(tmp_path: Path) -> None:
    """What that backend loses counts."""
    told = run_json(compat, write_calls(tmp_path) / "speech", "--rules", tmp_path, "--backend", "whole", code=1)
    assert ways(told, "call")["temperature"] == ("dropped", [], None)
    assert {inside(each, "way") for each in told["fields"]} == {None, "whole/generate"}  # type: ignore[union-attr]
    told = run_json(compat, tmp_path / "speech", "--rules", tmp_path, "--backend", "loud", code=2)
    assert str(told["error"]).startswith("there is no backend 'loud'; known: ")


def test_a_backend_by_itself(tmp_path: Path) -> None:
    """Every argument of its operations, whether or not a dialect gives it."""
    told = run_json(compat, write_calls(tmp_path) / "backends" / "whole", code=1)
    assert fates(told, "generate", "call")["messages"] == ("changed", ["text"])
    assert fates(told, "generate", "call")["seed"] == ("dropped", [])


def test_what_is_accepted_of_a_backend(tmp_path: Path) -> None:
    """Arguments, results that it does not tell, and what its workers tell beside them."""
    accepted = "{call.seed: none has one, result.usage: none counts, dialogue.answer.took: nobody asks, call.top_p: x}"
    write_calls(tmp_path)
    file = tmp_path / "backends/lines/backend.yaml"
    file.write_text(
        file.read_text(encoding="utf-8").replace("{call.user: it knows no users}", accepted), encoding="utf-8"
    )
    told = run_json(compat, tmp_path / "backends" / "lines", code=1)
    fields = [each for each in told["fields"] if inside(each, "accepted")]  # type: ignore[union-attr]
    assert [(inside(each, "side"), inside(each, "field"), inside(each, "fate")) for each in fields] == [
        ("call", "seed", "dropped"),
        ("call", "top_p", "dropped"),
        ("result", "took", "dropped"),
        ("result", "usage", "absent"),
    ]
    assert told["stale"] == []


def test_a_shipped_backend_by_its_name() -> None:
    """It needs no path."""
    assert fates(run_json(compat, "fastchat"), "generate", "call")["max_tokens"] == ("changed", ["max_new_tokens"])


SHIPPED = load_rules([shipped_rules()], rule_functions())


@pytest.mark.parametrize("backend", SHIPPED.backends)
@pytest.mark.parametrize("pack", SHIPPED.sources, ids=lambda pack: pack.name)
def test_what_the_shipped_packs_lose_is_said(pack: PackSource, backend: str) -> None:
    """Whichever dialect meets whichever backend: what gets nowhere is accepted with its reason."""
    found = compatibility(pack, SHIPPED.backends, backend)
    assert found.fields
    assert [field for field in found.fields if field.lost] == []


@pytest.mark.parametrize("backend", SHIPPED.backends.values(), ids=lambda backend: backend.name)
def test_what_the_shipped_backends_lose_is_said(backend: BackendSource) -> None:
    """Nothing is accepted that is not lost, either."""
    found = backend_compatibility(backend)
    assert [field for field in found.fields if field.lost] == []
    assert found.stale == ()


def test_losses_one_level_below_a_field(tmp_path: Path) -> None:
    """A field of which the rule reads only what is below has losses there; one that there cannot be is told."""
    losses = "sample: -> accepted_losses: {request.meta.b: x, request.meta.a: x, chat.request.meta.c: x}\nsample:"
    pack = write_pack(tmp_path, pack=losses, chat="size: {value: 5} -> size: body.meta.a")
    assert run_json(compat, pack, code=1)["stale"] == ["request.meta.a"]
