from __future__ import annotations

from pathlib import Path

import pytest

from proxy.tools.commands import explain
from proxy.types import Json
from tests.tools.calling import write_calls
from tests.tools.packs import body, inside, run, run_json, write_json


def test_a_request_is_followed_to_the_worker(pack: Path) -> None:
    """The route, each step, and each field that is sent or left out, with the line that makes it."""
    file = body({"model": "m", "text": "hi", "stream": True, "user": "me"})
    result = run(explain, "post", "/chat?x=1", "--rules", "sample", "--body", file)
    assert result.exit_code == 0
    assert result.stdout == (
        "POST /chat?x=1\n"
        "takes it sample/chat  POST /chat  sample/chat.yaml:1\n"
        "not      sample/whole  POST /chat: is looked at after the one that takes it  sample/whole.yaml:1\n"
        "not      1 routes with other paths\n"
        'model    "m", kind llm\n'
        "steps\n"
        '  text   "hi"  body.text      sample/chat.yaml:7\n'
        "  count  null  asked: /count  sample/chat.yaml:8\n"
        'asks     POST /count {"prompt":"hi"}; without an answer here steps.count is null\n'
        "sends    POST /generate\n"
        '  model   "vicuna"  worker.model  sample/chat.yaml:13\n'
        '  prompt  "hi"      steps.text    sample/chat.yaml:14\n'
        "  heat    left out  body.heat     sample/chat.yaml:15\n"
        "  size    5         constant      sample/chat.yaml:16\n"
        "  tokens  left out  steps.count   sample/chat.yaml:17\n"
        "not read user\n"
    )


def test_why_other_routes_do_not_take_it(pack: Path) -> None:
    """A condition that does not hold, a header that is missing, a method."""
    told = run_json(explain, "POST", "/chat", "--rules", pack, "--body", body({"model": "m", "text": "a"}))
    assert inside(told, "route", "route") == "whole"
    assert told["not"] == [
        {"route": "chat", "pack": "sample", "why": "its condition body.stream does not hold"},
    ]
    told = run_json(explain, "POST", "/embed/vicuna", "--rules", pack, code=1)
    assert (told["route"], inside(told, "not", 0, "why")) == (None, "wants a header x-key")
    assert (inside(told, "refused", "kind"), inside(told, "refused", "status")) == ("not_found", 500)
    told = run_json(explain, "GET", "/chat", "--rules", pack, code=1)
    assert inside(told, "not", 0, "why") == "is for POST"
    assert inside(told, "refused", "kind") == "method_not_allowed"
    assert inside(told, "refused", "message") == "/chat takes POST, not GET", "as the server says it"
    told = run_json(explain, "GET", "/nothing", "--rules", pack, code=1)
    assert (told["not"], told["other_routes"], inside(told, "refused", "kind")) == ([], 3, "not_found")


def test_a_request_in_parts(pack: Path) -> None:
    """Header, path parameter and every part of a batch are as a gateway would have them."""
    file = body({"input": ["a", "b", "c"]})
    told = run_json(explain, "POST", "/embed/m", "--rules", pack, "--body", file, "--header", "X-Key: k")
    assert told["model"] == "m"
    assert [inside(part, "fields", 0, "value") for part in inside(told, "upstream")] == [["a", "b"], ["c"]]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "kind", "message", "line"),
    [
        ({"model": "m", "stream": True}, "invalid_request", "text: expected something to say", "chat.yaml:6"),
        ({"model": "m", "stream": True, "text": 5}, "invalid_request", "text: expected a string, got 5", "chat.yaml:7"),
        ({"model": "m", "stream": True, "text": "a", "heat": 3}, "out_of_range", "heat: expected", "chat.yaml:15"),
        ({"text": "a", "stream": True}, "model_missing", "the request names no model", "chat.yaml:4"),
        ({"text": "a"}, "model_missing", "the request names no model", "chat.yaml:4"),
    ],
)
def test_a_refused_request(pack: Path, given: Json, kind: str, message: str, line: str) -> None:
    """What the caller is told, and the line of the rule that refuses."""
    told = run_json(explain, "POST", "/chat", "--rules", "sample", "--body", body(given), code=1)
    assert inside(told, "refused", "kind") == kind
    assert str(inside(told, "refused", "message")).startswith(message)
    assert inside(told, "refused", "place") == f"sample/{line}"
    assert inside(told, "upstream") == []


def test_a_body_that_is_no_object(pack: Path) -> None:
    """It is refused as the gateway refuses it, before any rule."""
    told = run_json(explain, "POST", "/chat", "--rules", pack, "--body", body([1]), code=1)
    assert inside(told, "refused", "kind") == "bad_body"


def test_what_is_known_of_the_worker_can_be_said(pack: Path) -> None:
    """The sample of the pack is only what it is without --worker."""
    worker = write_json(Path("worker.json"), {"model": "other"})
    file = body({"model": "m", "text": "hi"})
    told = run_json(explain, "POST", "/chat", "--rules", pack, "--body", file, "--worker", worker)
    assert inside(told, "upstream", 0, "fields", 0, "value") == "other"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["POST", "/chat", "--body", "gone.json"], "gone.json: No such file or directory"),
        (["POST", "chat"], "PATH: expected one that begins with /, got chat"),
        (["POST", "/chat", "--header", "x"], "--header x: expected NAME:VALUE"),
        (["POST", "/chat", "--body", "bad.json"], "bad.json: not JSON: "),
        (["POST", "/chat", "--worker", "list.json"], "--worker list.json: expected a JSON object"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(pack: Path, arguments: list[str], message: str) -> None:
    """Exit code 2, and nothing on standard output."""
    Path("bad.json").write_text("{", encoding="utf-8")
    Path("list.json").write_text("[]", encoding="utf-8")
    result = run(explain, *arguments, "--rules", "sample")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {message}")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dialect that calls and two backends below `rules` in the working directory, which is the test's own."""
    monkeypatch.chdir(tmp_path)
    return write_calls(tmp_path / "rules")


def test_a_call_is_followed_through_both_halves(calls: Path) -> None:
    """The arguments with the lines of the client's rule, the backend's steps and fields with those of its rule."""
    file = body({"model": "m", "text": "hi", "heat": 1, "seed": 3, "foo": 1})
    result = run(explain, "POST", "/say", "--rules", "rules", "--body", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "POST /say\n"
        "takes it speech/say  POST /say  rules/speech/say.yaml:1\n"
        "not      2 routes with other paths\n"
        'model    "m", kind llm\n'
        "steps\n"
        '  text  "hi"  body.text  rules/speech/say.yaml:7\n'
        "calls    generate\n"
        '  messages     [{"role":"user","content":"hi"}]  array      rules/speech/say.yaml:11\n'
        "  temperature  1                                 body.heat  rules/speech/say.yaml:12\n"
        "  seed         3                                 body.seed  rules/speech/say.yaml:13\n"
        "  user         left out                          body.user  rules/speech/say.yaml:14\n"
        "backend  lines/dialogue  rules/backends/lines/dialogue.yaml:1\n"
        "  count  null  asked: /count  rules/backends/lines/dialogue.yaml:7\n"
        "lost     seed: lines does not take it\n"
        'asks     POST /count {"of":[{"role":"user","content":"hi"}]}; without an answer here steps.count is null\n'
        "sends    POST /chat\n"
        '  model  "vicuna"                          worker.model      rules/backends/lines/dialogue.yaml:12\n'
        '  turns  [{"role":"user","content":"hi"}]  call.messages     rules/backends/lines/dialogue.yaml:13\n'
        "  heat   1                                 call.temperature  rules/backends/lines/dialogue.yaml:14\n"
        "  room   left out                          steps.count       rules/backends/lines/dialogue.yaml:15\n"
        "not read foo\n"
    )


def test_a_call_to_a_worker_of_another_backend(calls: Path) -> None:
    """The same call, put as that backend puts it."""
    file = body({"model": "m", "text": "hi", "heat": 1})
    told = run_json(explain, "POST", "/say", "--rules", calls, "--body", file, "--backend", "whole")
    assert inside(told, "call", "backend") == "whole"
    assert inside(told, "call", "way") == {
        "name": "generate",
        "place": f"{calls}/backends/whole/generate.yaml:1",
    }
    assert inside(told, "call", "not_taken") == ["temperature"]
    assert inside(told, "upstream") == [
        {
            "method": "POST",
            "path": "/all",
            "fields": [
                {
                    "path": "text",
                    "value": "hi",
                    "sent": True,
                    "rule": "call.prompt || call.messages[0].content",
                    "place": f"{calls}/backends/whole/generate.yaml:4",
                }
            ],
        }
    ]


def test_a_call_for_each_element(calls: Path) -> None:
    """The first one stands for all, and it is said how many there are."""
    file = body({"model": "m", "texts": ["a", "b", "c"]})
    result = run(explain, "POST", "/all", "--rules", calls, "--body", file)
    assert "calls    generate, 3 times; the first:\n" in result.stdout
    told = run_json(explain, "POST", "/all", "--rules", calls, "--body", file)
    assert inside(told, "call", "elements") == 3
    assert inside(told, "call", "arguments", 0, "value") == [{"role": "user", "content": "a"}]


def test_a_backend_that_no_route_asks(calls: Path) -> None:
    """It is a wrong argument."""
    told = run_json(explain, "POST", "/say", "--rules", calls, "--body", body({}), "--backend", "loud", code=2)
    assert told == {"error": "the route 'say' asks no worker of the kind 'loud'"}


@pytest.mark.parametrize(
    ("changes", "given", "kind", "place"),
    [
        ({}, {}, "invalid_request", "speech/say.yaml:6"),
        ({}, {"text": 5}, "invalid_request", "speech/say.yaml:7"),
        ({}, {"text": "a", "heat": 3}, "out_of_range", "speech/say.yaml:12"),
        ({"dialogue": "< `3` -> < `1`"}, {"text": "a"}, "invalid_request", "backends/lines/dialogue.yaml:6"),
        ({"dialogue": "type: number -> type: string"}, {"text": "a", "heat": 1}, "invalid_request", "dialogue.yaml:14"),
        ({"dialogue": "when: call.messages -> when: call.prompt"}, {"text": "a"}, "unsupported", "speech/say.yaml:9"),
    ],
)
def test_where_a_call_is_refused(
    calls: Path, changes: dict[str, str], given: dict[str, Json], kind: str, place: str
) -> None:
    """In the client's half or in the backend's, at the line that refuses; or no way of asking fits."""
    write_calls(calls, **changes)
    file = body({"model": "m", **given})
    told = run_json(explain, "POST", "/say", "--rules", "rules", "--body", file, code=1)
    assert inside(told, "refused", "kind") == kind
    assert str(inside(told, "refused", "place")).endswith(place)
