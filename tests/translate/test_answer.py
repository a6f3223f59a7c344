from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import GatewayError
from proxy.expr import STANDARD, compile_expression
from proxy.translate.answer import ClientAnswer, client_answer, refuse_failure, refused
from proxy.translate.errors import ErrorAnswer, error_answer, error_frame
from proxy.translate.plan import Refusal, Route
from proxy.types import Json, JsonObject
from tests.translate.building import ERRORS, load_route

TEXT = """
route: embed
description: An answer with checks and headers.
match: {method: POST, path: /embed}
worker: {kind: llm, model: body.model}
request:
  path: /embed
  failure: {code: upstream.code, message: upstream.text}
  body: {value: {}}
answer:
  status: 201
  headers: {x-count: length(answers), x-note: body.note}
  checks:
    - {check: "length(answers[].vector) == length(body.input)", message: "{length(answers)} for {body.input}"}
  body: answers[].vector
"""
KNOWN = """
route: known
description: Answered without a worker.
match: {method: POST, path: /known}
answer: {body: {fields: {name: {from: body.name, type: string, required: true}, size: length(body.items)}}}
"""

STREAMED = """
route: streamed
description: A stream.
match: {method: POST, path: /streamed}
worker: {kind: llm, model: body.model}
request: {path: /generate, body: {value: {}}}
stream:
  from: {framing: nul, text: cumulative, read: {text: chunk.text}}
  to: {framing: sse, text: incremental, chunk: {fields: {delta: text}}}
"""


@pytest.fixture
def route(tmp_path: Path) -> Route:
    return load_route(tmp_path, TEXT)


def scope(answers: list[Json], body: JsonObject) -> JsonObject:
    return {"body": body, "answers": answers, "upstream": answers[0] if answers else None}


def test_an_answer_has_the_rules_status_headers_and_body(route: Route) -> None:
    """A header that is null is left out, a number is written in digits."""
    found = client_answer(route, scope([{"vector": 1}, {"vector": 2}], {"input": ["a", "b"]}))
    assert found == ClientAnswer(201, {"x-count": "2"}, [1, 2])


@pytest.mark.parametrize(
    ("answers", "body", "message"),
    [
        ([{"vector": 1}], {"input": ["a", "b"]}, "1 for an array of 2"),
        ([{"vector": 1}], {"input": 5}, "the worker's answer does not fit the rule: length(): argument 1"),
        ([{"vector": 1}], {"input": ["a"], "note": "x\ny"}, "the worker's answer does not fit the rule: header x-note"),
    ],
)
def test_an_answer_that_does_not_fit_is_not_passed_on(
    route: Route, answers: list[Json], body: JsonObject, message: str
) -> None:
    """Too few vectors are an error and not a shorter list."""
    with pytest.raises(GatewayError) as caught:
        client_answer(route, scope(answers, body))
    assert caught.value.kind == "upstream_protocol"
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("body", "says"),
    [({"name": 5, "items": []}, "name: expected a string, got 5"), ({"name": "x"}, "length(): argument 1")],
)
def test_without_a_worker_the_request_is_to_blame(tmp_path: Path, body: JsonObject, says: str) -> None:
    """A route that is answered from what is known has nobody else to blame than its caller."""
    with pytest.raises(GatewayError) as caught:
        client_answer(load_route(tmp_path, KNOWN), {"body": body})
    assert caught.value.kind == "invalid_request"
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("answer", "message", "code"),
    [
        ({"code": 50002, "text": "out of memory"}, "out of memory", 50002),
        ({"code": 1}, "the worker reported error 1", 1),
        ({"code": "E1", "text": ""}, "the worker reported error 'E1'", None),
        ({"code": True, "text": 5}, "the worker reported error true", None),
    ],
)
def test_a_worker_that_says_that_it_failed_is_believed(route: Route, answer: Json, message: str, code: int) -> None:
    """Its words and its code go to the caller."""
    assert route.upstream is not None
    with pytest.raises(GatewayError) as caught:
        refuse_failure(route.upstream, {}, answer)
    assert (caught.value.kind, caught.value.message, caught.value.upstream_code) == ("upstream_error", message, code)


@pytest.mark.parametrize("answer", [{"code": 0}, {"code": None}, {"code": False}, {}, [], None, 5])
def test_an_answer_without_an_error_code_is_none(route: Route, answer: Json) -> None:
    """0, null and absence are success."""
    assert route.upstream is not None
    refuse_failure(route.upstream, {}, answer)


def test_a_long_reason_is_cut(route: Route) -> None:
    """A page of HTML does not become an error message."""
    assert route.upstream is not None
    with pytest.raises(GatewayError) as caught:
        refuse_failure(route.upstream, {}, {"code": 1, "text": "x" * 100_000})
    assert len(caught.value.message) == 2_000


def test_an_error_is_told_in_the_dialect(route: Route) -> None:
    """Status and code come from the table's line of the kind, a worker's own code goes before."""
    table = route.errors
    assert error_answer(table, GatewayError("invalid_request", "m", field="a.b")) == ErrorAnswer(
        400, {"detail": "m", "code": 40302, "field": "a.b"}
    )
    assert error_answer(table, GatewayError("upstream_error", "m", upstream_code=7)) == ErrorAnswer(
        502, {"detail": "m", "code": 7}
    )
    assert error_answer(table, GatewayError("too_large", "m")).status == 500
    assert error_answer(table, GatewayError("too_large", "m" * 100_000)).body == {"detail": "m" * 2_000, "code": 1}


def test_an_error_of_a_stream_has_the_frames_shape_and_status(route: Route) -> None:
    """DB-GPT never looks at the status of a stream, so its error is a frame with status 200."""
    error = GatewayError("upstream_reset", "m")
    assert error_answer(route.errors, error, as_frame=True) == ErrorAnswer(200, {"error": "m", "code": 1, "so_far": ""})
    assert error_frame(route.errors, error, "Hel") == {"error": "m", "code": 1, "so_far": "Hel"}


def test_an_error_of_a_stream_can_be_a_status_until_the_first_frame(tmp_path: Path) -> None:
    """Where the dialect gives its streams no status of their own, an error before the first frame is a whole answer."""
    errors = ERRORS.replace("stream_status: 200\n", "")
    route = load_route(tmp_path, STREAMED, errors)
    assert not route.errors_as_frame
    error = GatewayError("upstream_error", "m")
    assert error_answer(route.errors, error, as_frame=route.errors_as_frame).status == 502
    assert error_frame(route.errors, error, "Hel") == {"error": "m", "code": 50001, "so_far": "Hel"}


def test_a_dialect_without_frames_tells_errors_as_bodies(tmp_path: Path) -> None:
    """Where the dialect has no frame for errors, its body stands in."""
    errors = "kinds: {default: {status: 500}}\nbody: {fields: {detail: error.message}}\n"
    table = load_route(tmp_path, KNOWN, errors).errors
    assert error_answer(table, GatewayError("internal", "m"), as_frame=True) == ErrorAnswer(500, {"detail": "m"})
    assert error_frame(table, GatewayError("internal", "m"), "") == {"detail": "m"}


REFUSAL = Refusal(
    message=compile_expression("body.error.message", STANDARD),
    kinds={400: "invalid_request", 429: "busy"},
    kind=compile_expression("contains(body.error.message, 'too long') && 'context_overflow' || body.says", STANDARD),
)


@pytest.mark.parametrize(
    ("status", "text", "meaning"),
    [
        (400, '{"error": {"message": "it is too long"}}', ("context_overflow", "it is too long")),
        (400, '{"error": {"message": "no"}}', ("invalid_request", "no")),
        (500, '{"error": {"message": "no"}}', ("upstream_status", "no")),
        (400, '{"error": {"message": "no"}, "says": "nonsense"}', ("invalid_request", "no")),
        (400, '{"error": {"message": 5}}', ("invalid_request", '{"error": {"message": 5}}')),
        (429, "wait", ("busy", "wait")),
        (502, "", ("upstream_status", "")),
    ],
)
def test_what_a_worker_refuses_with_is_told_by_its_body_first(status: int, text: str, meaning: tuple[str, str]) -> None:
    """A body of another kind than the rule was written for leaves the meaning to the status, and the text as it is."""
    assert refused(REFUSAL, status, text) == meaning
