"""A small rule pack of an invented dialect, written to a folder, and commands run on it."""

from __future__ import annotations

import json
from pathlib import Path

import click
from click.testing import CliRunner, Result

from proxy.types import Json, JsonObject

FILES = {
    "pack.yaml": """\
pack: sample
description: For tests.
sample: {model: vicuna, context_length: 100}
""",
    "errors.yaml": """\
kinds: {out_of_range: {status: 422, code: 7}, default: {status: 500, code: 1}}
body: {fields: {detail: error.message, code: error.code}}
frame: {fields: {error: error.message, code: error.code}}
stream_status: 200
""",
    "chat.yaml": """\
route: chat
description: x
match: {method: POST, path: /chat, when: body.stream}
worker: {kind: llm, model: body.model}
steps:
  - {check: body.text, field: text, message: "text: expected something to say"}
  - {set: text, value: {from: body.text, type: string}}
  - {set: count, ask: {path: /count, body: {fields: {prompt: steps.text}}, result: upstream.count}}
request:
  path: /generate
  body:
    fields:
      model: worker.model
      prompt: steps.text
      heat: {from: body.heat, type: number, max: 2}
      size: {value: 5}
      tokens: steps.count
stream:
  from: {framing: ndjson, text: incremental, read: {text: chunk.token, finish: chunk.done_reason}}
  to: {framing: sse, text: cumulative, chunk: {fields: {said: text, end: finish, kind: {value: chat}}}}
tests:
  - name: a word
    given:
      request: {model: vicuna, text: hello, heat: 1, user: me}
      chunks: [{token: he, logprob: 1}, {token: llo, done_reason: stop}]
    expect: {upstream: {prompt: hello, heat: 1}, chunks: [{said: he}, {said: hello, end: stop}]}
""",
    "whole.yaml": """\
route: whole
description: x
match: {method: POST, path: /chat}
like: chat
answer: {status: 201, headers: {x-finish: finish}, body: {fields: {said: text}}}
tests:
  - name: one answer
    given: {request: {text: a}, chunks: [{token: b, done_reason: stop}]}
    expect: {answer: {said: b}}
""",
    "embed.yaml": """\
route: embed
description: x
match: {method: POST, path: "/embed/{name}", headers: {x-key: "*"}}
worker: {kind: text2vec, model: path.name}
request:
  path: /embed
  batch: {of: body.input, size: 2}
  failure: {code: upstream.code, message: upstream.why}
  body: {fields: {input: batch}}
answer: {body: {fields: {vectors: "answers[].v"}}}
tests:
  - name: it embeds
    given: {request: {input: [a, b, c]}, answers: [{v: 1, n: 2}, {v: 2}]}
    expect: {answer: {vectors: [1, 2]}}
""",
}


def write_pack(folder: Path, **changes: str) -> Path:
    """The pack in this folder; `chat="old -> new"` replaces in chat.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        old, _, new = changes.get(name.removesuffix(".yaml"), "").partition(" -> ")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
    return folder


def write_two_packs(folder: Path) -> None:
    """The pack, and another one with the same routes at other paths."""
    write_pack(folder / "one")
    write_pack(
        folder / "two",
        pack="pack: sample -> pack: other",
        chat="path: /chat, -> path: /two/chat,",
        whole="path: /chat} -> path: /two/chat}",
        embed='path: "/embed -> path: "/two/embed',
    )


def run(command: click.Command, *arguments: str | Path, stdin: str | bytes | None = None) -> Result:
    """The command's result; a traceback fails the test."""
    result = CliRunner().invoke(command, [str(each) for each in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def run_json(command: click.Command, *arguments: str | Path, code: int = 0) -> JsonObject:
    """What the command says with --json."""
    result = run(command, *arguments, "--json")
    assert result.exit_code == code, result.output
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


def write_json(file: Path, value: Json) -> Path:
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def body(value: Json) -> Path:
    """A file `body.json` in the working directory."""
    return write_json(Path("body.json"), value)


def inside(value: Json, *path: str | int) -> Json:
    """What stands at this path of a JSON value."""
    for part in path:
        if isinstance(part, int):
            assert isinstance(value, list), value
            value = value[part]
        else:
            assert isinstance(value, dict), value
            value = value[part]
    return value
