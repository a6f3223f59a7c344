"""A worker's whole answer, and what the client gets of it."""

from __future__ import annotations

from typing import NamedTuple, get_args

import orjson

from proxy.errors import Fault, GatewayError, Kind, Side
from proxy.limits import ERROR_TEXT_MAX
from proxy.translate.changes import header_values
from proxy.translate.mapping import OMIT, RULE_FAILURES, Read, Scope, shown, truthy
from proxy.translate.operations import OPERATIONS, summed
from proxy.translate.plan import Answer, Asking, Refusal, Route, UpstreamPlan
from proxy.types import Json, JsonObject


class ClientAnswer(NamedTuple):
    """status, headers and JSON body."""

    status: int
    headers: dict[str, str]
    body: Json


def refuse_failure(plan: UpstreamPlan, scope: Scope, answer: Json) -> None:
    """GatewayError where the worker's answer says, in the way that the rule names, that it failed."""
    if plan.failure_code is None:
        return
    seen = {**scope, "upstream": answer}
    try:
        code = plan.failure_code(seen)
        if code is None or code == 0:  # false too
            return
        message = plan.failure_message(seen) if plan.failure_message is not None else None
    except RULE_FAILURES as problem:
        raise _unfit(problem, "answer") from None
    number = code if isinstance(code, int) and not isinstance(code, bool) else None
    text = message if isinstance(message, str) and message else f"the worker reported error {shown(code)}"
    raise GatewayError("upstream_error", text[:ERROR_TEXT_MAX], upstream_code=number)


def refused(plan: Refusal | None, status: int, text: str) -> tuple[Kind, str]:
    """What an HTTP status other than 200 means, and what the worker says of it in its own words."""
    if plan is None:
        return "upstream_status", text
    try:
        body: Json = orjson.loads(text)
    except orjson.JSONDecodeError:
        body = None
    said = _tried(plan.message, {"body": body, "text": text, "status": status})
    return refusal_kind(plan, status, body, text), said if isinstance(said, str) and said else text


def refusal_kind(plan: Refusal | None, status: int, body: Json, text: str = "") -> Kind:
    """What an HTTP status other than 200 means, with this body."""
    if plan is None:
        return "upstream_status"
    named = _tried(plan.kind, {"body": body, "text": text, "status": status})
    return next((kind for kind in get_args(Kind) if kind == named), plan.kinds.get(status, "upstream_status"))


def _tried(read: Read | None, scope: Scope) -> Json:
    try:
        return None if read is None else read(scope)
    except RULE_FAILURES:
        return None  # it was written for another body


def call_result(asking: Asking, scope: Scope, answers: list[Json]) -> JsonObject:
    """What a worker's whole answers mean, as the results of the operation. GatewayError where they mean nothing."""
    seen = {**scope, "answers": answers, "upstream": answers[0] if answers else None}
    try:
        for check in asking.checks:
            if not truthy(check.condition(seen)):
                raise GatewayError(check.kind, check.message(seen), fault=Fault("answer"))
        found = asking.result(seen) if asking.result is not None else None
    except RULE_FAILURES as problem:
        raise _unfit(problem, "answer") from None
    return found if isinstance(found, dict) else {}


def client_results(route: Route, scope: Scope, found: list[JsonObject]) -> JsonObject:
    """What the answer's mapping sees of what workers answered: the results of the one call, or of all as `results`,
    each with its `item`. scope: as the call saw it.
    """
    if route.call is None or route.call.each is None:
        return found[0]
    names, asked = OPERATIONS[route.call.operation].results, route.call.each(scope)
    items = asked if isinstance(asked, list) else []
    results: list[Json] = [
        {"item": items[place] if place < len(items) else None, **{name: each.get(name) for name in names}}
        for place, each in enumerate(found)
    ]
    return {"results": results, "usage": summed(each.get("usage") for each in found)}


def client_answer(route: Route, scope: Scope) -> ClientAnswer:
    """The route's answer mapping run on everything that is known: `answers` and `upstream`, or what was collected."""
    if route.answer is None:
        raise GatewayError("internal", f"the rule at {route.place} gives no answer")
    try:
        return _mapped(route.answer, scope)
    except RULE_FAILURES as problem:
        if route.upstream is not None:
            raise _unfit(problem, "result") from None
        text = f"the request does not fit the rule: {problem}"
        raise GatewayError("invalid_request", text, fault=Fault("result")) from None


def _unfit(problem: Exception, side: Side) -> GatewayError:
    text = f"the worker's answer does not fit the rule: {problem}"
    return GatewayError("upstream_protocol", text, fault=Fault(side))


def _mapped(answer: Answer, scope: Scope) -> ClientAnswer:
    for check in answer.checks:
        if not truthy(check.condition(scope)):
            raise GatewayError(check.kind, check.message(scope), fault=Fault("result"))
    headers = header_values(answer.headers, scope)
    body = answer.body(scope)
    return ClientAnswer(answer.status, headers, None if body is OMIT else body)
