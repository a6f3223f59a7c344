"""From a caller's request to the worker's: steps, checks and the request mapping of a route, run in order.

Written as a generator so that it stays pure: it yields each question that must be put to the worker, is sent the
answer, and returns the bodies to send. The server answers the questions over the network, the tests inside rule files
from their own text.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from proxy.errors import GatewayError, Kind
from proxy.translate.mapping import OMIT, RULE_FAILURES, FieldProblem, Scope, Value, shown, truthy
from proxy.translate.plan import Check, Route, Step
from proxy.types import Json


class Question(NamedTuple):
    """Something to ask the chosen worker before the request: POST `path` with `body`. The answer is its JSON, or None
    if it failed.
    """

    step: str
    path: str
    body: Json


def build_request(route: Route, scope: Scope) -> Generator[Question, Json, list[Json]]:
    """Run the route's steps and checks and map the request; returns the bodies to send, several where the route asks in
    parts.

    scope must hold `body`, `query`, `headers`, `path`, `worker` and `gateway`; `steps` is filled here. GatewayError
    where the caller's request is refused.
    """
    steps: dict[str, Json] = {}
    scope["steps"] = steps
    try:
        for step in route.steps:
            if isinstance(step, Check):
                if not truthy(step.condition(scope)):
                    raise GatewayError(step.kind, step.message(scope), field=step.field)
            else:
                steps[step.name] = yield from _run(step, scope)
        return _bodies(route, scope)
    except FieldProblem as problem:
        kind: Kind = "out_of_range" if problem.out_of_range else "invalid_request"
        raise GatewayError(kind, str(problem), field=problem.field) from None
    except RULE_FAILURES as problem:
        raise GatewayError("invalid_request", f"the request does not fit the rule '{route.name}': {problem}") from None


def resumed_request(route: Route, scope: Scope, body: Json, text: str, tokens: int) -> Json:
    """`body`, the request for another worker, changed so that it goes on behind `text`; None where nothing is left to
    ask for, which a field of the rule says by being out of its range. GatewayError where it cannot be asked for.
    """
    overrides = route.upstream.resume if route.upstream is not None else None
    if overrides is None or not isinstance(body, dict):
        raise GatewayError("internal", f"the rule '{route.name}' does not say how a lost stream goes on")
    seen = {**scope, "request": body, "text": text, "tokens": tokens}
    changed = dict(body)
    try:
        for name, value in overrides.items():
            found = value(seen)
            if found is OMIT:
                changed.pop(name, None)
            else:
                changed[name] = found
    except FieldProblem as problem:
        if problem.out_of_range:
            return None
        raise GatewayError("invalid_request", str(problem), field=problem.field) from None
    except RULE_FAILURES as problem:
        raise GatewayError("invalid_request", f"the request does not fit the rule '{route.name}': {problem}") from None
    return changed


def _run(step: Step, scope: Scope) -> Generator[Question, Json, Json]:
    if step.condition is not None and not truthy(step.condition(scope)):
        return None
    if step.call is None:
        return _value(step.value, scope)
    answer = yield Question(step.name, step.call.path, _value(step.call.body, scope))
    if answer is None:
        return None
    try:
        return step.call.result({**scope, "upstream": answer})
    except RULE_FAILURES:
        return None


def _value(value: Value | None, scope: Scope) -> Json:
    found = value(scope) if value is not None else None
    return None if found is OMIT else found


def _bodies(route: Route, scope: Scope) -> list[Json]:
    plan = route.upstream
    if plan is None:
        return []
    if plan.batch is None:
        return [_value(plan.body, scope)]
    items = plan.batch.items(scope)
    if not isinstance(items, list):
        message = f"the request does not fit the rule '{route.name}': expected an array to ask for in parts, got"
        raise GatewayError("invalid_request", f"{message} {shown(items)}")
    slices = [items[start : start + plan.batch.size] for start in range(0, len(items), plan.batch.size)]
    return [_value(plan.body, {**scope, "batch": part}) for part in slices]
