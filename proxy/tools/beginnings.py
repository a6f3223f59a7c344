"""`init --dialect` and `--backend`: packs of one's own that work as they are, to be changed."""

from __future__ import annotations

from proxy.backends.flags import PROGRAM


def dialect_files(name: str, backend: str, *, own_backend: bool) -> dict[str, str]:
    """The files of a dialect, by their names. own_backend: the backend is the one that `backend_files` writes, so that
    the tests know what its workers say.
    """
    return {
        "pack.yaml": _PACK.format(name=name, backend=backend, program=PROGRAM),
        "errors.yaml": _ERRORS,
        "chat.yaml": _CHAT.format(name=name) + (_CHAT_TESTS if own_backend else _CHAT_TEST_OF_REFUSAL),
    }


def backend_files(name: str) -> dict[str, str]:
    """The files of a backend, by their names."""
    return {
        "backend.yaml": _BACKEND.format(name=name, program=PROGRAM),
        "generate.yaml": _GENERATE,
    }


_PACK = """\
# A dialect: how clients of one product are served, whatever their workers are.
#   {program} check says every mistake, {program} test runs the tests below, {program} compat says what is lost.
pack: {name}
description: What its clients are.

# The workers that the tests see; a route with a call is for those of every backend.
backend: {backend}

# Tables for `table`.
# tables: {{roles: {{human: user, bot: assistant}}}}

# What is not carried over, and why.
accepted_losses:
  answer.usage: the example tells no tokens
  answer.reasoning: nor a thought
  answer.logprobs: nor probabilities
"""

_ERRORS = """\
# How this dialect says that something went wrong: a status and a code of its own for each kind.
kinds:
  invalid_request: {status: 400, code: bad_request}
  out_of_range: {status: 400, code: bad_request}
  model_missing: {status: 400, code: bad_request}
  model_unknown: {status: 404, code: no_such_model}
  busy: {status: 429, code: busy}
  default: {status: 500, code: failed}
body: {fields: {error: error.code, message: error.message}}
# An error within a stream, which began with this status.
frame: {fields: {error: error.code, message: error.message}}
stream_status: 200
"""

_CHAT = """\
route: chat
description: One turn of a dialogue, answered as server-sent events.
match: {{method: POST, path: /{name}/chat}}
worker: {{kind: llm, model: body.model}}

steps:
  - check: body.text
    field: text
    message: "text: expected something to say"
  - set: text
    value: {{from: body.text, type: string}}

# What is asked of the worker: an operation and its arguments.
call:
  operation: generate
  with:
    messages: {{items: [{{fields: {{role: {{value: user}}, content: steps.text}}}}]}}
    max_tokens: {{from: body.most, type: integer, min: 1}}
    temperature: {{from: body.temperature, type: number, min: 0, max: 2}}

# What the client gets.
stream:
  to:
    framing: sse
    text: incremental
    chunk: {{fields: {{text: new_text, finish: finish}}}}

tests:
"""

_CHAT_TEST_OF_REFUSAL = """\
  - name: it asks for something to say
    given: {request: {model: m}}
    expect: {error: {kind: invalid_request, field: text}}
  - name: a temperature has a range
    given: {request: {model: m, text: Hi, temperature: 3}}
    expect: {error: {kind: out_of_range, field: temperature}}
"""

_CHAT_TESTS = (
    """\
  - name: a question and its answer
    given:
      request: {model: m, text: Hi, most: 5}
      chunks: [{text: Hel}, {text: lo, finish: stop}]
    expect:
      upstream: {messages: [{role: user, content: Hi}], max_tokens: 5}
      chunks: [{text: Hel}, {text: lo, finish: stop}]
"""
    + _CHAT_TEST_OF_REFUSAL
)

_BACKEND = """\
# A backend: how workers of one kind are asked, whatever the clients are.
#   {program} check says every mistake, {program} test runs the tests of its operations.
backend: {name}
description: What its workers are.

# The worker that the tests see.
sample: {{model: m, address: "http://10.0.0.5:9000", context_length: 4096}}

# Sent with each request; a header that is null is left out.
headers: {{authorization: "worker.key && join(' ', ['Bearer', worker.key]) || `null`"}}

# What an HTTP status other than 200 means.
refusal: {{message: body.error, kinds: {{"400": invalid_request, "404": model_unavailable, "429": busy}}}}

# What each worker is asked to know whether it is there, and which models it has.
probe:
  status: {{path: /models, models: "answer.models[].name"}}
  context_length: 4096

# What the workers cannot take or tell, and why; `compat` finds the rest.
accepted_losses:
  call.stop_token_ids: the example's workers know strings only
  call.best_of: they give one answer
  call.use_beam_search: they know no beams
  call.echo: they never repeat the prompt
  call.logprobs: they tell no probabilities
  call.user: they know no users
  result.logprobs: they tell no probabilities
  result.reasoning: they tell no thought
"""

_GENERATE = """\
name: generate
operation: generate
description: A dialogue or a prompt, answered with lines of JSON.

request:
  path: /chat
  body:
    fields:
      model: worker.model
      # A value that is null is left out.
      messages: call.messages
      prompt: call.prompt
      max_tokens: call.max_tokens
      temperature: call.temperature
      top_p: call.top_p
      top_k: call.top_k
      stop: call.stop
      seed: call.seed
      presence_penalty: call.presence_penalty
      frequency_penalty: call.frequency_penalty
      repetition_penalty: call.repetition_penalty

stream:
  from:
    framing: ndjson
    # Each line has what is new.
    text: incremental
    read:
      text: chunk.text
      finish: chunk.finish
      usage: chunk.usage
      error_code: chunk.error
      error_message: chunk.error

tests:
  - name: a question and its answer
    given:
      call: {messages: [{role: user, content: Hi}], max_tokens: 5}
      chunks: [{text: Hel}, {text: lo, finish: stop}]
    expect:
      upstream: {model: m, messages: [{role: user, content: Hi}], max_tokens: 5}
      without: [temperature]
      last: {text: Hello, finish: stop}
  - name: an error in the stream
    given: {call: {prompt: Hi}, chunks: [{error: out of memory}]}
    expect: {last: {kind: upstream_error, message: out of memory}}
"""
