"""A dialect that calls, and two backends that answer it, in one folder."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "speech/pack.yaml": """\
pack: speech
description: For tests.
backend: lines
accepted_losses: {request.user: nobody asks who it was}
""",
    "speech/errors.yaml": """\
kinds: {default: {status: 500, code: 1}}
body: {fields: {detail: error.message}}
frame: {fields: {error: error.message}}
stream_status: 200
""",
    "speech/say.yaml": """\
route: say
description: x
match: {method: POST, path: /say}
worker: {kind: llm, model: body.model}
steps:
  - {check: body.text, field: text, message: "text: expected something to say"}
  - {set: text, value: {from: body.text, type: string}}
call:
  operation: generate
  with:
    messages: {items: [{fields: {role: {value: user}, content: steps.text}}]}
    temperature: {from: body.heat, type: number, max: 2}
    seed: body.seed
    user: body.user
stream:
  to:
    framing: sse
    text: cumulative
    chunk: {fields: {said: text, end: finish}}
tests:
  - name: a word
    given:
      request: {model: vicuna, text: hello, heat: 1, seed: 3, user: me}
      chunks: [{token: he}, {token: llo, done: stop, took: 7}]
    expect: {upstream: {turns: [{role: user, content: hello}], heat: 1}, chunks: [{said: he}, {said: hello, end: stop}]}
  - name: another backend
    given:
      backend: whole
      request: {model: vicuna, text: hello}
      chunks: [{all: hello, why: stop}]
    expect: {upstream: {text: hello}, last: {said: hello, end: stop}}
""",
    "speech/length.yaml": """\
route: length
description: x
match: {method: POST, path: /length}
worker: {kind: llm, model: body.model}
call: {operation: count, with: {prompt: body.text}}
answer: {body: {fields: {tokens: count}}}
tests:
  - name: it counts
    given: {request: {text: a}, answers: [{n: 5}]}
    expect: {answer: {tokens: 5}}
""",
    "speech/all.yaml": """\
route: all
description: x
match: {method: POST, path: /all}
worker: {kind: llm, model: body.model}
call:
  operation: generate
  each: body.texts
  with: {messages: {items: [{fields: {role: {value: user}, content: item}}]}}
answer: {body: {fields: {said: "results[].text"}}}
tests:
  - name: several answers
    given: {request: {texts: [a, b]}, chunks: [[{token: x, done: stop}], [{token: y, done: stop}]]}
    expect: {answer: {said: [x, y]}}
""",
    "backends/lines/backend.yaml": """\
backend: lines
description: For tests.
sample: {model: vicuna, context_length: 100}
accepted_losses: {call.user: it knows no users}
""",
    "backends/lines/dialogue.yaml": """\
name: dialogue
operation: generate
when: call.messages
description: x
steps:
  - {check: "length(call.messages) < `3`", field: messages, message: "messages: at most two"}
  - {set: count, ask: {path: /count, body: {fields: {of: call.messages}}, result: upstream.n}}
request:
  path: /chat
  body:
    fields:
      model: worker.model
      turns: call.messages
      heat: {from: call.temperature, type: number}
      room: steps.count
stream:
  from: {framing: ndjson, text: incremental, read: {text: chunk.token, finish: chunk.done}}
tests:
  - name: two turns
    given:
      call: {messages: [{role: user, content: a}], temperature: 1, seed: 5}
      chunks: [{token: b}, {token: c, done: stop, took: 3}]
    expect: {upstream: {turns: [{role: user, content: a}], heat: 1}, last: {text: bc, finish: stop}}
""",
    "backends/lines/count.yaml": """\
name: count
operation: count
description: x
request: {path: /count, body: {fields: {of: call.prompt}}}
result: {fields: {count: upstream.n}}
""",
    "backends/whole/backend.yaml": """\
backend: whole
description: For tests.
sample: {model: vicuna}
""",
    "backends/whole/generate.yaml": """\
name: generate
operation: generate
description: x
request: {path: /all, body: {fields: {text: "call.prompt || call.messages[0].content"}}}
stream:
  from: {framing: sse, text: cumulative, read: {text: chunk.all, finish: chunk.why}}
""",
}


def write_calls(folder: Path, **changes: str) -> Path:
    """The packs below this folder; `say="old -> new"` replaces in say.yaml."""
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        old, _, new = changes.get(file.stem, "").partition(" -> ")
        assert old in text
        file.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
    return folder
