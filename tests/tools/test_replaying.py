"""`replay`: what a rule set makes of recorded requests, beside what was made of them then."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
import pytest

from proxy.backends.functions import rule_functions
from proxy.recording.reading import Recording
from proxy.ruleset import load_rules
from proxy.tools import replaying
from proxy.tools.commands import replay
from proxy.types import Json, JsonObject
from tests.tools.packs import run, run_json, write_pack

WORKER: JsonObject = {"model": "vicuna", "address": "http://w:1", "context_length": 100, "backend": "fastchat"}
SAID = '{"token":"he"}\n{"token":"y","done_reason":"stop"}\n'
CLIENT = 'data: {"said":"he","kind":"chat"}\n\ndata: {"said":"hey","end":"stop","kind":"chat"}\n\ndata: [DONE]\n\n'
SENT: JsonObject = {"model": "vicuna", "prompt": "hello", "size": 5, "tokens": 3}


def request(**changes: Json) -> JsonObject:
    """A recorded chat of the small pack."""
    attempt: JsonObject = {
        "worker": WORKER,
        "asked": [{"step": "count", "path": "/count", "body": {"prompt": "hello"}, "answer": {"count": 3}}],
        "exchanges": [
            {
                "method": "POST",
                "path": "/generate",
                "headers": {"Content-Type": "application/json"},
                "body": SENT,
                "status": 200,
                "said": {"text": SAID},
                "complete": True,
            }
        ],
    }
    return {
        "at": "2026-01-01T00:00:00.000Z",
        "seconds": 0.5,
        "method": "POST",
        "path": "/chat",
        "scope": {"query": {}, "headers": {}, "gateway": {}, "listener": {}, "now": 5, "request_id": "1"},
        "body": {"model": "vicuna", "text": "hello", "stream": True},
        "route": "sample/chat",
        "outcome": "ok",
        "attempts": [attempt],
        "client": {
            "status": 200,
            "content_type": "text/event-stream",
            "said": {"text": CLIENT},
            "complete": True,
        },
        **changes,
    }


def with_attempt(**changes: Json) -> JsonObject:
    """As `request`, with changes in what its worker was asked and said."""
    line = request()
    attempts = line["attempts"]
    assert isinstance(attempts, list)
    assert isinstance(attempts[0], dict)
    attempts[0].update(changes)
    return line


def write(*requests: JsonObject) -> Path:
    """A recording in the working directory."""
    head = {"recording": 1, "gateway": "0.9", "began": "2026-01-01T00:00:00.000Z"}
    end = {"ended": "2026-01-01T00:01:00.000Z", "requests": len(requests), "left_out": 2, "why": "its time is over"}
    file = Path("r.jsonl")
    file.write_text("".join(json.dumps(line) + "\n" for line in (head, *requests, end)), encoding="utf-8")
    return file


def differences(pack: Path, *requests: JsonObject) -> list[tuple[str, str, str]]:
    """(path, then, now) of everything that differs."""
    found = run_json(replay, write(*requests), "--rules", pack, code=1)["differences"]
    assert isinstance(found, list)
    return [
        (str(each["path"]), str(each["then"]), str(each["now"]))
        for compared in found
        if isinstance(compared, dict) and isinstance(compared["differences"], list)
        for each in compared["differences"]
        if isinstance(each, dict)
    ]


def test_the_same_rules_make_the_same(pack: Path) -> None:
    """Exit code 0, and how many requests that were; what is missing in the recording is told."""
    file = write(request(), request())
    result = run(replay, file, "--rules", pack)
    assert result.exit_code == 0, result.output
    assert "2 requests recorded by version 0.9: 2 the same, 0 different" in result.output
    assert "2 requests are not in the recording (its time is over)" in result.output
    found = run_json(replay, file, "--rules", pack)
    assert (found["same"], found["different"], found["differences"]) == ({"sample/chat": 2}, {}, [])


def test_each_field_that_changed(pack: Path) -> None:
    """Changed, new and gone, on the way to the worker and to the client; an array that became longer."""
    pack = write_pack(
        pack.parent / "other",
        chat="size: {value: 5} -> sizes: {value: [1]}",
    )
    text = (pack / "chat.yaml").read_text().replace("said: text, end: finish", "said: text, done: finish")
    (pack / "chat.yaml").write_text(text.replace("path: /generate", "path: /other"))
    assert differences(pack, request()) == [
        ("upstream[0].path", '"/generate"', '"/other"'),
        ("upstream[0].body.size", "5", "(absent)"),
        ("upstream[0].body.sizes", "(absent)", "[1]"),
        ("client.frames[1].end", '"stop"', "(absent)"),
        ("client.frames[1].done", "(absent)", '"stop"'),
    ]


def test_a_secret_header_is_there_or_not(pack: Path) -> None:
    """Its value is not known, so only whether it is sent can be told."""
    text = json.dumps(request()).replace('"headers": {"Content', '"headers": {"Authorization": "redacted", "Content')
    line = json.loads(text)
    assert differences(pack, line) == [("upstream[0].headers.authorization", '"redacted"', "(absent)")]
    keyed = "path: /generate -> headers: {Authorization: \"'x'\"}\n  path: /generate"
    other = write_pack(pack.parent / "other", chat=keyed)
    assert run(replay, write(line), "--rules", other).exit_code == 0


def test_another_route_takes_it(pack: Path) -> None:
    """Or none; what follows from that is told too."""
    other = write_pack(pack.parent / "other", chat="when: body.stream -> when: body.streams")
    found = differences(other, request())
    assert found[0] == ("route", '"sample/chat"', '"sample/whole"')
    assert ("client.status", "200", "201") in found
    none = write_pack(pack.parent / "none", chat="path: /chat, -> path: /talk,", whole="path: /chat} -> path: /talk}")
    assert differences(none, request()) == [("route", '"sample/chat"', "null")]


def test_other_questions_to_the_worker(pack: Path) -> None:
    """One that was not asked then has no answer; one that is asked otherwise has the old one."""
    new = differences(pack, with_attempt(asked=[]))
    assert new[0] == ("asked.count", "(absent)", 'POST /count {"prompt":"hello"}')
    assert ("upstream[0].body.tokens", "3", "(absent)") in new
    other = write_pack(pack.parent / "other", chat="prompt: steps.text}} -> prompt: steps.text, n: body.n}}")
    line = request(body={"model": "vicuna", "text": "hello", "stream": True, "n": 1})
    assert differences(other, line) == [("asked.count.body.n", "(absent)", "1")]


def test_a_request_that_is_refused_now(pack: Path) -> None:
    """Nothing goes to the worker, and the client gets the error; and the other way round."""
    other = write_pack(pack.parent / "other", chat="type: string} -> type: integer}")
    found = differences(other, request())
    assert ("upstream[0]", "POST /generate", "(absent)") in found
    assert any(path == "client.frames[0].error" for path, _, _ in found)
    refused = request(
        attempts=[{"worker": WORKER, "failure": {"kind": "invalid_request", "message": "no"}}],
        client={
            "status": 200,
            "content_type": "text/event-stream",
            "said": {"text": 'data: {"error":"no","code":1}\n\ndata: [DONE]\n\n'},
            "complete": True,
            "failure": {"kind": "invalid_request", "message": "no"},
        },
    )
    found = differences(pack, refused)
    assert ("upstream[0]", "(absent)", 'POST /generate {"size":5,"model":"vicuna","prompt":"hello"}') in found


@pytest.mark.parametrize("kind", ["upstream_timeout", "model_unavailable"])
def test_a_request_that_came_too_late(pack: Path, kind: str) -> None:
    """Its time was over, or the gateway stopped, before the worker was asked: nobody would be asked again either."""
    failure: JsonObject = {"kind": kind, "message": "no"}
    said = 'data: {"error":"no","code":1}\n\ndata: [DONE]\n\n'
    line = request(
        attempts=[{"worker": WORKER, "failure": failure}],
        client={"status": 200, "content_type": "text/event-stream", "said": {"text": said}, "failure": failure},
    )
    result = run(replay, write(line), "--rules", pack)
    assert result.exit_code == 0, result.output
    assert "1 the same" in result.output


def test_many_differences_are_counted(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one request, and of all of them; the summary says where they are."""
    monkeypatch.setattr(replaying, "DIFFERENCES_MAX", 1)
    monkeypatch.setattr(replaying, "SHOWN_MAX", 2)
    other = write_pack(pack.parent / "other", chat="kind: {value: chat} -> kind: {value: talk}")
    line = request()
    result = run(replay, write(*[line] * 5), "--rules", other)
    assert result.exit_code == 1
    text = click.unstyle(result.output)
    assert text.count("and 1 more") == 2
    assert "3 more requests differ; --json has them" in text
    assert "sample/chat  0     5" in text
    assert "client.frames[].kind  in 5" in text
    assert "line 3  POST /chat  sample/chat" in text


def test_a_broken_recording_is_one_sentence(pack: Path) -> None:
    """With the line, for people and for programs; exit code 2 tells it from differences."""
    file = Path("r.jsonl")
    file.write_text('{"recording": 1, "gateway": "1", "began": ""}\n{"at": 5}\n')
    result = run(replay, file, "--rules", pack)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "r.jsonl:2: at: Input should be a valid string" in result.stderr
    assert "r.jsonl:2: at" in str(run_json(replay, file, "--rules", pack, code=2)["error"])
    result = run(replay, "none.jsonl")
    assert (result.exit_code, result.stderr.strip()) == (2, "Error: none.jsonl: No such file or directory")


def test_a_request_nested_too_deep(pack: Path) -> None:
    """It is told with its line, as what is broken otherwise."""
    deep: Json = {}
    for _ in range(200):
        deep = {"a": deep}
    body: Json = {"model": "vicuna", "text": deep, "stream": True}
    result = run(replay, write(request(body=body)), "--rules", pack)
    assert result.exit_code in {1, 2}
    file = write(request(body={"text": "x"}))
    file.write_text(file.read_text().replace('{"text": "x"}', '{"a":' * 2_000 + "1" + "}" * 2_000))
    result = run(replay, file, "--rules", pack)
    assert result.exit_code == 2
    assert "r.jsonl:2: " in result.stderr


class Terminal(io.StringIO):
    """A terminal as far as anybody asks."""

    def isatty(self) -> bool:
        return True


def test_a_long_recording_shows_how_far_it_is(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal; a short one is over before anybody looks, and a file has no use for it."""
    comparing = replaying.Comparing(load_rules([pack], rule_functions()), None)
    recording = write(*[request()] * 3)
    short, long, file = Terminal(), Terminal(), io.StringIO()
    assert len(list(replaying.replayed(Recording(recording), comparing, short))) == 3
    monkeypatch.setattr(replaying, "_LONG", 100)
    assert len(list(replaying.replayed(Recording(recording), comparing, long))) == 3
    assert len(list(replaying.replayed(Recording(recording), comparing, file))) == 3
    assert (short.getvalue(), file.getvalue()) == ("", "")
    assert "replaying" in long.getvalue()
    assert "%" in long.getvalue()
