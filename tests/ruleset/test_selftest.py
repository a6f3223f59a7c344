from __future__ import annotations

from pathlib import Path

import pytest

from proxy.backends.functions import rule_functions
from proxy.ruleset import load_rules, run_tests
from proxy.ruleset.selftest import differences
from proxy.types import Json

ERRORS = """
kinds: {default: {status: 500, code: 1}}
body: {fields: {detail: error.message}}
stream_status: 200
frame: {fields: {error: error.message, so_far: text}}
"""
STREAM = """
route: chat
description: x
match: {method: POST, path: /chat}
worker: {kind: llm, model: body.model}
steps:
  - {check: body.prompt, field: prompt, message: "prompt: expected words"}
  - {set: count, ask: {path: /count, body: {fields: {prompt: body.prompt}}, result: upstream.count}}
request:
  path: /x
  body: {fields: {model: worker.model, prompt: body.prompt, count: steps.count, size: length(body.prompt)}}
stream:
  from: {framing: nul, text: cumulative, read: {text: chunk.text, finish: chunk.end, error_code: chunk.code}}
  to: {framing: nul, text: cumulative, chunk: {fields: {text: text, finish: finish, worker: worker.name}}}
tests:
"""
COLLECTED = STREAM.replace(
    "  to: {framing: nul, text: cumulative, chunk: {fields: {text: text, finish: finish, worker: worker.name}}}\n",
    "answer: {body: {fields: {text: text, finish: finish}}}\n",
)
WHOLE = """
route: embed
description: x
match: {method: POST, path: "/embed/{name}"}
worker: {kind: text2vec, model: body.model}
request:
  path: /x
  batch: {of: body.input, size: 2}
  failure: {code: upstream.code}
  body: {fields: {input: batch, name: path.name, query: query.q, header: headers.h, port: listener.port}}
answer: {body: {fields: {vectors: "answers[].v", first: upstream.v, models: length(models)}}}
tests:
"""


def problems(folder: Path, route: str, test: str) -> tuple[str, ...]:
    (folder / "pack.yaml").write_text(
        "pack: sample\ndescription: x\nsample: {model: vicuna, name: one}\n", encoding="utf-8"
    )
    (folder / "errors.yaml").write_text(ERRORS, encoding="utf-8")
    (folder / "route.yaml").write_text(route + "  - name: it\n" + test, encoding="utf-8")
    (outcome,) = run_tests(load_rules([folder], rule_functions()).tests)
    return outcome.problems


def case(given: str, expect: str) -> str:
    return f"    given: {{{given}}}\n    expect: {{{expect}}}\n"


PROMPT = "request: {prompt: abc}"
CHUNKS = "chunks: [{text: a}, {text: ab, end: stop}]"


@pytest.mark.parametrize(
    ("given", "expect", "problem"),
    [
        (PROMPT, "upstream: {prompt: abc, size: 3}", None),
        (PROMPT, "upstream: {prompt: abd}", 'upstream[0].prompt: expected "abd", got "abc"'),
        (PROMPT, "upstream: {count: 1}", "upstream[0].count: expected 1, but it is absent"),
        (PROMPT, "upstream: {count: null}", None),
        (PROMPT, "without: [count]", None),
        (PROMPT, "without: [count, size]", "upstream[0]: 'size' must not be sent, got 3"),
        (f"{PROMPT}, asked: {{count: {{count: 5}}}}", "upstream: {count: 5}", None),
        (f"{PROMPT}, worker: {{model: other}}", "upstream: {model: other}", None),
        ("request: {}", "error: {kind: invalid_request, field: prompt, says: expected words}", None),
        ("request: {}", "error: {kind: unsupported}", "expected the error unsupported, got invalid_request: prompt"),
        (
            "request: {}",
            "error: {kind: invalid_request, field: model}",
            "expected the field 'model', got 'prompt': prom",
        ),
        (
            "request: {}",
            "error: {kind: invalid_request, says: nothing}",
            "expected a message with 'nothing', got: prom",
        ),
        ("request: {}", "upstream: {}", "unexpected error invalid_request: prompt: expected words"),
        ("request: {prompt: 5}", "upstream: {}", "unexpected error invalid_request: the request does not fit the rule"),
        (PROMPT, "error: {kind: invalid_request}", "expected the error invalid_request, but the request was taken"),
        (f"{PROMPT}, {CHUNKS}", "chunks: [{text: a}, {text: ab, finish: stop, worker: one}]", None),
        (f"{PROMPT}, {CHUNKS}", "chunks: [{text: a}]", "chunks: expected 1 elements, got 2"),
        (f"{PROMPT}, {CHUNKS}", "last: {text: ab}", None),
        (f"{PROMPT}, {CHUNKS}", "last: {text: abc}", 'last.text: expected "abc", got "ab"'),
        (PROMPT, "last: {text: ab}", "the test expects a result, but gives no chunks or answers for it"),
        (f"{PROMPT}, chunks: [{{text: a}}], cut: true", "last: {so_far: a}", None),
        (
            f"{PROMPT}, chunks: [{{text: a}}]",
            "last: {error: the worker ended its answer without saying that it was complete}",
            None,
        ),
        (f"{PROMPT}, chunks: [5]", "last: {error: the worker sent a frame that is not an object but 5}", None),
    ],
)
def test_a_stream_route(tmp_path: Path, given: str, expect: str, problem: str | None) -> None:
    """A test passes where everything it names comes out, and otherwise says what did not."""
    found = problems(tmp_path, STREAM, case(given, expect))
    assert len(found) == (0 if problem is None else 1), found
    assert found == () or found[0].startswith(str(problem))


@pytest.mark.parametrize(
    ("given", "expect", "problem"),
    [
        (f"{PROMPT}, {CHUNKS}", "answer: {text: ab, finish: stop}", None),
        (f"{PROMPT}, {CHUNKS}", "answer: {text: a}", 'answer.text: expected "a", got "ab"'),
        (f"{PROMPT}, chunks: [{{text: a}}], cut: true", "error: {kind: upstream_reset}", None),
        (f"{PROMPT}, chunks: [{{text: a, end: stop}}], cut: true", "answer: {text: a}", None),
        (f"{PROMPT}, chunks: [{{text: a, code: 1}}]", "error: {kind: upstream_error, says: error 1}", None),
        (f"{PROMPT}, chunks: []", "error: {kind: upstream_empty}", None),
        (PROMPT, "answer: {text: a}", "the test expects a result, but gives no chunks or answers for it"),
    ],
)
def test_a_collected_route(tmp_path: Path, given: str, expect: str, problem: str | None) -> None:
    """A stream that is collected gives one answer or one error."""
    found = problems(tmp_path, COLLECTED, case(given, expect))
    assert len(found) == (0 if problem is None else 1), found
    assert found == () or found[0].startswith(str(problem))


@pytest.mark.parametrize(
    ("given", "expect", "problem"),
    [
        (
            "request: {input: [a, b, c]}, path: {name: n}, query: {q: x}, headers: {h: y}, listener: {port: 5}",
            "upstream: [{input: [a, b], name: n, query: x, header: y, port: 5}, {input: [c]}]",
            None,
        ),
        (
            "request: {input: [a]}, answers: [{v: [1]}, {v: [2]}]",
            "answer: {vectors: [[1], [2]], first: [1], models: 1}",
            None,
        ),
        ("request: {input: [a]}, answers: [{code: 5}]", "error: {kind: upstream_error, says: error 5}", None),
        ("request: {input: [a]}, models: [{}, {}], answers: []", "answer: {models: 2, vectors: []}", None),
        ("request: {input: [a]}, answers: [{v: 1}]", "answer: [1]", "answer: expected [1], got {"),
    ],
)
def test_a_route_with_whole_answers(tmp_path: Path, given: str, expect: str, problem: str | None) -> None:
    """Everything that an expression may read can be given."""
    found = problems(tmp_path, WHOLE, case(given, expect))
    assert len(found) == (0 if problem is None else 1), found
    assert found == () or found[0].startswith(str(problem))


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": None}, {}, []),
        ({"a": None}, {"a": None}, []),
        ({"a": None}, {"a": 0}, ["x.a: expected null, got 0"]),
        (1, True, ["x: expected 1, got true"]),
        (0, False, ["x: expected 0, got false"]),
        (1, 1.0, []),
        ([1, [2]], [1, [3]], ["x[1][0]: expected 2, got 3"]),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{}]}}, ["x.a.b[0].c: expected 1, but it is absent"]),
        ({}, [], ["x: expected {}, got []"]),
    ],
)
def test_differences(wanted: Json, found: Json, expected: list[str]) -> None:
    """In objects only the named keys count; in lists every element does; true is not 1."""
    assert [str(each) for each in differences(wanted, found, "x")] == expected


RESUMED = STREAM.replace(
    "stream:\n", "  resume: {prompt: \"join('', [request.prompt, text])\", left: {from: tokens, max: 3}}\nstream:\n"
)
RECEIVED = "request: {prompt: abc}, received: {text: de, tokens: 2}"


@pytest.mark.parametrize(
    ("given", "expect", "problem"),
    [
        (RECEIVED, "upstream: {prompt: abcde, left: 2, size: 3}", None),
        (RECEIVED, "upstream: {prompt: abc}", 'upstream[0].prompt: expected "abc", got "abcde"'),
        (f"{RECEIVED}, chunks: [{{text: f}}, {{text: fg, end: stop}}]", "chunks: [{text: def}, {text: defg}]", None),
        (f"{RECEIVED}, chunks: [{{text: f, end: stop}}]", "last: {text: f}", 'last.text: expected "f", got "def"'),
        (RECEIVED.replace("2", "4"), "upstream: null", None),
        (RECEIVED.replace("2", "4"), "upstream: {}", "upstream[0]: expected {}, got null"),
    ],
)
def test_how_a_lost_stream_goes_on(tmp_path: Path, given: str, expect: str, problem: str | None) -> None:
    """With what had come the request is the one for the other worker; none where nothing is left."""
    assert problems(tmp_path, RESUMED, case(given, expect)) == (() if problem is None else (problem,))
