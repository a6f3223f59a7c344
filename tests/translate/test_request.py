from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import GatewayError
from proxy.translate.plan import Route
from proxy.translate.request import Question, build_request
from proxy.types import Json, JsonObject
from tests.translate.building import load_route

TEXT = """
route: chat
description: Steps, questions and a request.
match: {method: POST, path: /chat}
worker: {kind: llm, model: body.model}
steps:
  - {check: body.text, error: unsupported, field: text, message: "text: expected words, got {body.text}"}
  - {set: size, value: length(body.text)}
  - {set: nothing, value: body.nothing}
  - set: count
    when: steps.size > `2`
    ask: {path: /count, body: {fields: {text: body.text, model: body.model}}, result: "length(upstream.words)"}
  - set: double
    value: steps.count && add(steps.count, steps.count)
  - check: steps.count == `null` || steps.count < `5`
    error: context_overflow
    message: "{steps.count} words, {body}, {body.model}"
request:
  path: /generate
  body:
    fields:
      text: body.text
      count: steps.count
      double: steps.double
      nothing: steps.nothing
      n: {from: body.n, type: integer, max: 5}
answer: {body: upstream}
"""
BATCHED = """
route: embed
description: A request in parts.
match: {method: POST, path: /embed}
worker: {kind: llm, model: body.model}
request:
  path: /embed
  batch: {of: body.input, size: 2}
  body: {fields: {input: batch, model: body.model}}
answer: {body: answers}
"""


@pytest.fixture
def route(tmp_path: Path) -> Route:
    return load_route(tmp_path, TEXT)


def run(route: Route, body: Json, *answers: Json) -> tuple[list[Question], list[Json], JsonObject]:
    """The questions that were put, the bodies to send, and the scope afterwards."""
    scope: JsonObject = {"body": body, "query": {}, "headers": {}, "path": {}, "worker": {}, "gateway": {}}
    running = build_request(route, scope)
    asked: list[Question] = []
    waiting = iter(answers)
    try:
        question = next(running)
        while True:
            asked.append(question)
            question = running.send(next(waiting))
    except StopIteration as done:
        return asked, done.value.bodies, scope


def refusal(route: Route, body: Json, *answers: Json) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        run(route, body, *answers)
    return caught.value


def test_a_question_is_asked_only_where_its_condition_holds(route: Route) -> None:
    """A short text needs no count; what is null is not sent."""
    asked, bodies, scope = run(route, {"text": "ab"})
    assert asked == []
    assert bodies == [{"text": "ab"}]
    assert scope["steps"] == {"size": 2, "nothing": None, "count": None, "double": None}


def test_the_answer_of_a_question_goes_into_the_request(route: Route) -> None:
    """The question has its step's name, path and body; its result is there for the steps after it."""
    asked, bodies, _ = run(route, {"text": "a b c", "model": "m"}, {"words": ["a", "b", "c"]})
    assert [(each.step, each.path, each.body) for each in asked] == [
        ("count", "/count", {"text": "a b c", "model": "m"})
    ]
    assert bodies == [{"text": "a b c", "count": 3, "double": 6}]


@pytest.mark.parametrize("answer", [None, {}, {"words": 5}, [], "text"])
def test_a_question_without_a_usable_answer_gives_null(route: Route, answer: Json) -> None:
    """A worker that cannot count does not fail the request."""
    assert run(route, {"text": "abc"}, answer)[1] == [{"text": "abc"}]


def test_a_check_refuses_with_its_kind_field_and_message(route: Route) -> None:
    """The caller gets the sentence of the rule, with what came filled in."""
    error = refusal(route, {"text": ""})
    assert (error.kind, error.field, error.message) == ("unsupported", "text", "text: expected words, got ")
    error = refusal(route, {"text": "x" * 99, "model": None}, {"words": [1] * 7})
    assert (error.kind, error.field) == ("context_overflow", None)
    assert error.message == "7 words, an object, null"


def test_a_refused_field_is_named(route: Route) -> None:
    """A range has a kind of its own."""
    error = refusal(route, {"text": "a", "n": "1"})
    assert (error.kind, error.field) == ("invalid_request", "n")
    assert error.message == "n: expected a whole number of at most 5, got '1'"
    assert refusal(route, {"text": "a", "n": 6}).kind == "out_of_range"


def test_an_expression_that_fails_on_a_request_is_the_callers_error(route: Route) -> None:
    """A request that the rule's expressions cannot take is refused, and the rule is named."""
    error = refusal(route, {"text": 5})
    assert error.kind == "invalid_request"
    assert error.message.startswith("the request does not fit the rule 'chat': length(): argument 1")


@pytest.mark.parametrize(
    ("given", "parts"),
    [([1, 2, 3, 4, 5], [[1, 2], [3, 4], [5]]), ([1, 2], [[1, 2]]), ([1], [[1]]), ([], [])],
)
def test_a_batch_is_cut_into_parts(tmp_path: Path, given: list[Json], parts: list[list[int]]) -> None:
    """Each part is a request of its own, in order; nothing to ask makes none."""
    route = load_route(tmp_path, BATCHED)
    assert run(route, {"model": "m", "input": given})[1] == [{"input": part, "model": "m"} for part in parts]


def test_a_batch_of_something_else_is_the_callers_error(tmp_path: Path) -> None:
    """What should have been a list is named as it stands in the rule."""
    error = refusal(load_route(tmp_path, BATCHED), {"input": "x"})
    assert error.kind == "invalid_request"
    assert error.message == "the request does not fit the rule 'embed': expected an array to ask for in parts, got 'x'"
