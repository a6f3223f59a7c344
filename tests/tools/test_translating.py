from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.tools.commands import translate
from tests.tools.calling import write_calls
from tests.tools.packs import body, inside, run, run_json, write_json, write_pack, write_two_packs

STREAM = b'{"token":"he"}\n{"token":"llo","done_reason":"stop"}\n'


def test_a_request(pack: Path) -> None:
    """What the worker would be sent, as JSON; each part of a batch."""
    told = run_json(translate, "chat", body({"text": "hi", "heat": 1}), "--rules", pack)
    assert told["result"] == {"model": "vicuna", "prompt": "hi", "heat": 1, "size": 5}
    result = run(translate, "sample/embed", body({"input": ["a", "b", "c"]}), "--rules", pack)
    assert json.loads(result.stdout) == [{"input": ["a", "b"]}, {"input": ["c"]}]


def test_a_refused_request(pack: Path) -> None:
    """The error goes to standard error, exit code 1; with --json it has its field."""
    result = run(translate, "chat", body({"text": "hi", "heat": 3}), "--rules", pack)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "out_of_range: heat: expected a number of at most 2, got 3\n"
    told = run_json(translate, "chat", body({"text": "hi", "heat": 3}), "--rules", pack, code=1)
    assert inside(told, "error", "field") == "heat"


def test_a_stream(pack: Path) -> None:
    """A line of JSON for each frame, the bytes of the wire with --raw, all in one document with --json."""
    Path("stream").write_bytes(STREAM)
    arguments: list[str | Path] = ["chat", "stream", "--direction", "stream", "--rules", pack]
    assert run(translate, *arguments).stdout == (
        '{"kind":"chat","said":"he"}\n{"kind":"chat","said":"hello","end":"stop"}\n'
    )
    assert run(translate, *arguments, "--raw").stdout_bytes == (
        b'data: {"kind":"chat","said":"he"}\n\ndata: {"kind":"chat","said":"hello","end":"stop"}\n\ndata: [DONE]\n\n'
    )
    assert inside(run_json(translate, *arguments), "result", 1, "said") == "hello"
    assert run(translate, "chat", "-", *arguments[2:], stdin=STREAM).stdout.count("\n") == 2


@pytest.mark.parametrize(
    ("wire", "flags", "kind"),
    [
        (STREAM[:15], ["--cut"], "upstream_reset"),
        (STREAM[:15], [], "upstream_protocol"),
        (STREAM[:20], [], "upstream_protocol"),
        (b"", [], "upstream_empty"),
    ],
)
def test_a_stream_that_goes_wrong(pack: Path, wire: bytes, flags: list[str], kind: str) -> None:
    """The client's error frame is shown, and the exit code is 1; a collected stream has no answer then."""
    Path("stream").write_bytes(wire)
    for route, frames in (("chat", True), ("whole", False)):
        arguments: list[str | Path] = [route, "stream", "--direction", "stream", "--rules", pack, *flags]
        result = run(translate, *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"{kind}: ")
        assert bool(result.stdout) is frames
        assert inside(run_json(translate, *arguments, code=1), "error", "kind") == kind


def test_a_stream_collected_into_an_answer(pack: Path) -> None:
    """It has a status, headers and a body."""
    Path("stream").write_bytes(STREAM)
    told = run_json(translate, "whole", "stream", "--direction", "stream", "--rules", pack)
    assert (told["result"], told["status"], told["headers"]) == ({"said": "hello"}, 201, {"x-finish": "stop"})


def test_an_answer(pack: Path) -> None:
    """A whole answer, a list of them for a batch; the worker's own error is one here too."""
    arguments: list[str | Path] = ["--direction", "answer", "--rules", pack]
    assert run_json(translate, "embed", body([{"v": 1}, {"v": 2}]), *arguments)["result"] == {"vectors": [1, 2]}
    told = run_json(translate, "embed", body({"code": 5, "why": "broken"}), *arguments, code=1)
    assert (inside(told, "error", "kind"), inside(told, "error", "message")) == ("upstream_error", "broken")


def test_the_request_that_was_answered(tmp_path: Path) -> None:
    """Where an answer depends on its request, the request is given along."""
    pack = write_pack(tmp_path / "p", chat="{said: text, end -> {said: text, asked: steps.text, end")
    (tmp_path / "stream").write_bytes(STREAM)
    asked = write_json(tmp_path / "asked.json", {"text": "hi"})
    arguments: list[str | Path] = ["chat", tmp_path / "stream", "--direction", "stream", "--rules", pack]
    assert inside(run_json(translate, *arguments, "--request", asked), "result", 0, "asked") == "hi"
    assert inside(run_json(translate, *arguments), "result", 0, "asked") == "hello", "as in the route's first test"


@pytest.mark.parametrize("route", ["openai_chat_stream", "openai_chat", "api_chat_stream", "generate_stream"])
def test_without_it_the_tests_of_the_route_have_one(tmp_path: Path, route: str) -> None:
    """So a recorded stream can be looked at by itself, also where what the client gets depends on what it asked."""
    wire = b'{"text": "hello", "error_code": 0, "finish_reason": "stop"}\0'
    (tmp_path / "stream").write_bytes(wire)
    told = run_json(translate, route, tmp_path / "stream", "--direction", "stream")
    assert told["error"] is None
    assert "hello" in json.dumps(told["result"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chut", "body.json"], "there is no route 'chut'; known: chat, embed, whole"),
        (["chat", "gone"], "gone: No such file or directory"),
        (["chat", "body.json", "--direction", "answer"], "the route 'chat' reads a stream; give --direction stream"),
        (["embed", "body.json", "--direction", "stream"], "the route 'embed' reads no stream"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(pack: Path, arguments: list[str], message: str) -> None:
    """Exit code 2."""
    body({})
    result = run(translate, *arguments, "--rules", "sample")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {message}")


def test_a_name_of_several_packs(tmp_path: Path) -> None:
    """It is asked which one is meant."""
    write_two_packs(tmp_path)
    result = run(translate, "chat", write_json(tmp_path / "b", {}), "--rules", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == "Error: several packs have a route 'chat'; write sample/chat or other/chat\n"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dialect that calls and two backends below `rules` in the working directory, which is the test's own."""
    monkeypatch.chdir(tmp_path)
    return write_calls(tmp_path / "rules")


def test_a_request_goes_to_the_worker_of_a_backend(calls: Path) -> None:
    """The pack's own, or the one that is named; a call for each element gives a list."""
    file = body({"model": "m", "text": "hi", "heat": 1, "texts": ["a", "b"]})
    told = run_json(translate, "say", file, "--rules", "rules")
    assert told["result"] == {"model": "vicuna", "turns": [{"role": "user", "content": "hi"}], "heat": 1}
    told = run_json(translate, "say", file, "--rules", "rules", "--backend", "whole")
    assert told["result"] == {"text": "hi"}
    told = run_json(translate, "all", file, "--rules", "rules", "--backend", "whole")
    assert told["result"] == [{"text": "a"}, {"text": "b"}]
    told = run_json(translate, "say", file, "--rules", "rules", "--backend", "loud", code=2)
    assert told == {"error": "the route 'say' asks no worker of the kind 'loud'"}


def test_a_stream_of_each_backend(calls: Path) -> None:
    """Either worker's frames become the client's."""
    lines = Path("lines.bin")
    lines.write_bytes(b'{"token": "he"}\n{"token": "llo", "done": "stop"}\n')
    request = body({"model": "m", "text": "hi"})
    arguments: list[str | Path] = ["say", lines, "--direction", "stream", "--rules", "rules", "--request", request]
    assert run_json(translate, *arguments)["result"] == [{"said": "he"}, {"said": "hello", "end": "stop"}]
    lines.write_bytes(b'data: {"all": "he"}\n\ndata: {"all": "hello", "why": "stop"}\n\n')
    told = run_json(translate, *arguments, "--backend", "whole")
    assert told["result"] == [{"said": "he"}, {"said": "hello", "end": "stop"}]


def test_an_answer_of_a_call(calls: Path) -> None:
    """The worker's whole answer means a result, of which the client's is made."""
    answer = write_json(Path("answer.json"), {"n": 5})
    told = run_json(translate, "length", answer, "--direction", "answer", "--rules", "rules")
    assert (told["result"], told["status"]) == ({"tokens": 5}, 200)
