"""From a caller's request to the worker's: steps, checks and the request mapping of a route, run in order.

Written as a generator so that it stays pure: it yields each question that must be put to the worker, is sent the
answer, and returns the bodies to send. The server answers the questions over the network, the tests inside rule files
from their own text.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from proxy.errors import Fault, GatewayError, Kind, model_missing
from proxy.limits import ELEMENTS_MAX, MODEL_NAME_MAX
from proxy.translate.answer import call_result, refuse_failure
from proxy.translate.mapping import OMIT, RULE_FAILURES, FieldProblem, Read, Scope, Value, shown, truthy
from proxy.translate.plan import Asking, CallPlan, Operation, Route, UpstreamPlan
from proxy.translate.steps import Call, Computed, Steps
from proxy.types import Json, JsonObject

Half = TypeVar("Half")


class Question(NamedTuple):
    """Something to ask the chosen worker before the request: POST `path` with `body`. The answer is its JSON, or None
    if it failed. headers: beside those of every request; scope: what they read.
    """

    step: str
    path: str
    body: Json
    method: str = "POST"
    headers: Mapping[str, Read] = MappingProxyType({})
    scope: Scope | None = None


class Built(NamedTuple):
    """A request for one worker. route: the variant for its backend; scope: what everything that is said to and read
    from that worker sees, which is the client's own where the route has no call; bodies: to send, several where the
    rule asks in parts; elements: how many such requests the client's one makes.
    """

    route: Route
    scope: Scope
    bodies: list[Json]
    elements: int = 1


StepValues = dict[tuple[Json, Json], Json]
"""The values of a route's steps, by address and model of the worker that they were made for."""


def build_request(
    route: Route, scope: Scope, index: int = 0, known: StepValues | None = None
) -> Generator[Question, Json, Built]:
    """Run the route's steps and checks and map the request.

    scope must hold `body`, `query`, `headers`, `path`, `worker` and `gateway`; `steps` is filled here, and for a route
    with a call `call`, its arguments, and `asked`, what the worker's side sees. Where the call is made for each element
    of an array, this is the one at `index`, and `item` and `index` are filled too; known: what steps gave for other
    elements, which is added to. GatewayError where the caller's request is refused.
    """
    route = _way_of(route, scope)
    half = _client_half(route, scope, index, {} if known is None else known)
    variant, inner, elements = yield from _followed(half, route.name, Fault("request", route.pack, route.name))
    asking = variant.asking or route
    worker_half = _worker_half(variant, inner, elements)
    return (yield from _followed(worker_half, route.name, Fault("call", asking.pack, asking.name)))


def _client_half(
    route: Route, scope: Scope, index: int, known: StepValues
) -> Generator[Question, Json, tuple[Route, Scope, int]]:
    """The variant for the worker, what its side sees, and how often the call is made."""
    yield from _own_steps(route, scope, known)
    if route.call is None:
        return route, scope, 1
    elements = _elements(route.call, route.name, scope, index)
    scope["call"] = arguments = _value(route.call.arguments, scope)
    variant, inner = chosen_variant(route, scope, arguments)
    scope["asked"] = inner
    return variant, inner, elements


def _worker_half(variant: Route, scope: Scope, elements: int) -> Generator[Question, Json, Built]:
    if variant.asking is not None:
        yield from _steps(variant, variant.asking.steps, scope)
    return Built(variant, scope, _bodies(variant.upstream, variant.name, scope), elements)


def _followed(half: Generator[Question, Json, Half], name: str, fault: Fault) -> Generator[Question, Json, Half]:
    """What a half gives. GatewayError where it refuses the request, with `fault` where it fails itself."""
    try:
        return (yield from half)
    except FieldProblem as problem:
        kind: Kind = "out_of_range" if problem.out_of_range else "invalid_request"
        raise GatewayError(kind, str(problem), field=problem.field) from None
    except RULE_FAILURES as problem:
        raise _unfit(name, problem, fault) from None


def _unfit(name: str, problem: Exception, fault: Fault) -> GatewayError:
    return GatewayError("invalid_request", f"the request does not fit the rule '{name}': {problem}", fault=fault)


def _way_of(route: Route, scope: Scope) -> Route:
    """The route itself, or the one beside it where the worker is of another backend."""
    is_own = route.others is None or _backend(scope) in ("", route.backend)
    return route if is_own or route.others is None else route.others


def chosen_variant(route: Route, scope: Scope, arguments: Json) -> tuple[Route, Scope]:
    """The variant of a route with a call for the worker in `scope`, and what the worker's side of it sees."""
    backend, inner = _worker_side(route, scope, arguments)
    variants = route.variants.get(backend, ())
    for variant in variants:
        if variant.asking is None or _holds(variant.asking, inner):
            return variant, inner
    what = "ask its worker this" if variants else f"be answered by a worker of the kind '{backend}'"
    raise GatewayError("unsupported", f"this request cannot {what}")


def resumed_request(built: Built, body: Json, text: str, tokens: int) -> Json:
    """`body`, the request for another worker, changed so that it goes on behind `text`; None where nothing is left to
    ask for, which a field of the rule says by being out of its range. GatewayError where it cannot be asked for.
    """
    route = built.route
    overrides = route.upstream.resume if route.upstream is not None else None
    if overrides is None or not isinstance(body, dict):
        raise GatewayError("internal", f"the rule '{route.name}' does not say how a lost stream goes on")
    seen = {**built.scope, "request": body, "text": text, "tokens": tokens}
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
        raise _unfit(route.name, problem, Fault("call")) from None
    return changed


def _own_steps(route: Route, scope: Scope, known: StepValues) -> Generator[Question, Json, None]:
    """Steps depend on the worker, and on nothing else that differs between the elements of a call."""
    worker = scope.get("worker")
    key = (worker.get("address"), worker.get("model")) if isinstance(worker, dict) else (None, None)
    if key not in known:
        yield from _steps(route, route.steps, scope)
        known[key] = scope["steps"]
    scope["steps"] = known[key]


def _elements(call: CallPlan, name: str, scope: Scope, index: int) -> int:
    """How often the call is made; the element at `index` is put into the scope."""
    if call.each is None:
        return 1
    items = call.each(scope)
    if not isinstance(items, list) or not 0 < len(items) <= ELEMENTS_MAX:
        found = len(items) if isinstance(items, list) else shown(items)
        message = f"the request does not fit the rule '{name}': expected 1 to {ELEMENTS_MAX} parts to answer, got"
        raise GatewayError("invalid_request", f"{message} {found}")
    scope["item"], scope["index"] = items[index], index
    return len(items)


def _steps(route: Route, steps: Steps, scope: Scope) -> Generator[Question, Json, None]:
    values: dict[str, Json] = {}
    scope["steps"] = values
    for part in steps.parts:
        if isinstance(part, Computed):
            part(scope)
        elif part.condition is not None and not truthy(part.condition(scope)):
            values[part.name] = None
        elif part.call.operation is not None:
            values[part.name] = yield from _operation(route, part.name, part.call, scope)
        else:
            values[part.name] = yield from _asked(route, part.name, part.call, scope)


def _asked(route: Route, step: str, call: Call, scope: Scope) -> Generator[Question, Json, Json]:
    headers = route.upstream.headers if route.upstream is not None else {}
    answer = yield Question(step, call.path, _value(call.body, scope), headers=headers, scope=scope)
    if answer is None:
        return None
    try:
        return call.result({**scope, "upstream": answer})
    except RULE_FAILURES:
        return None


def _operation(route: Route, step: str, call: Call, scope: Scope) -> Generator[Question, Json, Json]:
    """The result of an operation that a step asks; null where this worker's backend has none, or it fails."""
    backend, inner = _worker_side(route, scope, _value(call.body, scope))
    known = route.questions.get(str(call.operation), {}).get(backend, ())
    asking = next((each for each in known if _holds(each, inner)), None)
    if asking is None or asking.source is not None:
        return None
    try:
        yield from _steps(route, asking.steps, inner)
        plan = asking.upstream
        bodies = _bodies(plan, asking.name, inner)
        answers: list[Json] = []
        for body in bodies:
            answer = yield Question(step, plan.path, body, plan.method, plan.headers, inner)
            if answer is None:
                return None
            refuse_failure(plan, inner, answer)
            answers.append(answer)
        return call.result({**scope, **call_result(asking, inner, answers)})
    except (GatewayError, *RULE_FAILURES):
        return None


def _worker_side(route: Route, scope: Scope, arguments: Json) -> tuple[str, Scope]:
    """The backend of the worker in `scope`, its pack's own where it says none, and what the worker's side sees."""
    seen: Scope = {"call": arguments, "worker": scope.get("worker"), "gateway": scope.get("gateway"), "steps": {}}
    return _backend(scope) or str(route.backend), seen


def _holds(asking: Asking, scope: Scope) -> bool:
    try:
        return asking.condition is None or truthy(asking.condition(scope))
    except RULE_FAILURES:
        return False


def _backend(scope: Scope) -> str:
    worker = scope.get("worker")
    found = worker.get("backend") if isinstance(worker, dict) else None
    return found if isinstance(found, str) else ""


def _value(value: Value | None, scope: Scope) -> Json:
    found = value(scope) if value is not None else None
    return None if found is OMIT else found


def _bodies(plan: UpstreamPlan | None, name: str, scope: Scope) -> list[Json]:
    if plan is None:
        return []
    if plan.batch is None:
        return [_value(plan.body, scope)]
    items = plan.batch.items(scope)
    if not isinstance(items, list):
        message = f"the request does not fit the rule '{name}': expected an array to ask for in parts, got"
        raise GatewayError("invalid_request", f"{message} {shown(items)}", fault=Fault("call"))
    slices = [items[start : start + plan.batch.size] for start in range(0, len(items), plan.batch.size)]
    return [_value(plan.body, {**scope, "batch": part}) for part in slices]


def operated_on(operation: Operation, scope: Scope) -> tuple[str, str | None]:
    """The model about which something is to be done, and the client's word for what it is asked for, None for all.
    GatewayError where the request does not say so.
    """
    try:
        model = operation.model(scope)
        kind = operation.kind(scope) if operation.kind is not None else None
    except RULE_FAILURES as problem:
        text = f"the request does not fit the rule: {problem}"
        raise GatewayError("invalid_request", text, fault=Fault("request")) from None
    if not isinstance(model, str) or not 0 < len(model) <= MODEL_NAME_MAX:
        raise model_missing()
    if kind is not None and not isinstance(kind, str):
        raise GatewayError("invalid_request", "the kind of the model is not a string")
    return model, kind


def whole_result(built: Built, answers: list[Json]) -> JsonObject:
    """What the client's side sees of a worker's whole answers."""
    if built.route.asking is not None:
        return call_result(built.route.asking, built.scope, answers)
    return {"answers": answers, "upstream": answers[0] if answers else None}
