"""What `explain` found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from proxy.documents import clipped
from proxy.ruleset.loader import RouteSource
from proxy.tools.explaining import Explanation, Request, route_label
from proxy.tools.following import Called, Followed, Line
from proxy.tools.terminal import columns, near, short
from proxy.types import Json

_LABEL = 9


def explanation_lines(request: Request, found: Explanation) -> Iterator[str]:
    """For people."""
    yield click.style(f"{request.method} {request.target}", bold=True)
    for candidate in found.candidates:
        label = route_label(candidate.source.route)
        place = near(candidate.source.route.place)
        if candidate.why is None:
            yield _labelled("takes it", f"{click.style(label, fg='green')}  {place}")
            if found.route is not None and found.route.doc.beside is not None:
                route = found.route.route
                beside = click.style(f"{route.pack}/{route.name}", fg="green")
                yield _labelled("beside", f"{beside}, which is for such workers  {near(route.place)}")
        else:
            yield _labelled("not", f"{label}: {candidate.why}  {place}")
    if found.others:
        yield _labelled("not", f"{found.others} routes with other paths")
    if found.route is not None:
        yield from _followed_lines(found.followed, found.route)
    if found.refused is not None:
        refused = found.refused
        at = f"  {near(refused.place)}" if refused.place else ""
        yield _labelled("refused", f"{click.style(refused.kind, fg='red')}: {refused.message}{at}")
        yield _labelled("answer", f"{refused.status} {short(refused.body, 300)}")


def _followed_lines(found: Followed, source: RouteSource) -> Iterator[str]:
    route = source.route
    if route.model is not None:
        yield _labelled("model", f"{short(found.model)}{f', kind {route.kind}' if route.kind else ''}")
    if found.steps:
        yield _labelled("steps", "")
        yield from _table(found.steps)
    if found.call is not None:
        yield from _call_lines(found.call)
    for question in found.questions:
        asked = f"{question.method} {question.path} {short(question.body)}"
        yield _labelled("asks", f"{asked}; without an answer here steps.{question.step} is null")
    for body in found.bodies:
        yield _labelled("sends", f"{found.method} {found.path}")
        yield from _table(body)
    if found.refused is None and source.doc.operation is not None:
        place = near(source.place(("operation",)))
        yield _labelled("does", f"{source.doc.operation.does}  {place}")
    elif found.refused is None and route.upstream is None:
        yield _labelled("sends", "nothing; it is answered from what the gateway knows")
    if found.unread:
        yield _labelled("not read", ", ".join(found.unread))


def _call_lines(call: Called) -> Iterator[str]:
    more = f", {call.elements} times; the first:" if call.elements > 1 else ""
    yield _labelled("calls", f"{call.operation}{more}")
    yield from _table(call.arguments)
    if call.way is None:
        return
    way = call.way.asking
    yield _labelled("backend", f"{click.style(f'{way.backend}/{way.name}', fg='green')}  {near(way.place)}")
    yield from _table(call.steps)
    if call.not_taken:
        yield _labelled("lost", f"{', '.join(call.not_taken)}: {call.backend} does not take it")


def _labelled(label: str, text: str) -> str:
    return f"{click.style(f'{label:<{_LABEL}}' if text else label, bold=True)}{text}"


def _table(lines: Iterable[Line]) -> Iterator[str]:
    rows = [
        [
            line.path,
            short(line.value, 60) if line.present else click.style("left out", dim=True),
            click.style(clipped(" ".join(line.rule.split())), dim=True),
            near(line.place),
        ]
        for line in lines
    ]
    yield from (f"  {line}" for line in columns(rows))


def explanation_json(request: Request, found: Explanation) -> Json:
    """For programs."""
    route = found.route.route if found.route is not None else None
    refused, followed = found.refused, found.followed
    return {
        "method": request.method,
        "path": request.target,
        "route": None if route is None else {"pack": route.pack, "route": route.name, "place": route.place},
        "not": [
            {"route": each.source.route.name, "pack": each.source.route.pack, "why": each.why}
            for each in found.candidates
            if each.why is not None
        ],
        "other_routes": found.others,
        "model": followed.model,
        "steps": [_line_json(line) for line in followed.steps],
        "call": None if followed.call is None else _call_json(followed.call),
        "questions": [
            {"step": each.step, "method": each.method, "path": each.path, "body": each.body}
            for each in followed.questions
        ],
        "upstream": [
            {"method": followed.method, "path": followed.path, "fields": [_line_json(line) for line in body]}
            for body in followed.bodies
        ],
        "unread": list(followed.unread),
        "refused": None
        if refused is None
        else {
            "kind": refused.kind,
            "message": refused.message,
            "field": refused.field,
            "place": refused.place,
            "status": refused.status,
            "body": refused.body,
        },
    }


def _call_json(call: Called) -> Json:
    way = call.way
    return {
        "operation": call.operation,
        "elements": call.elements,
        "arguments": [_line_json(line) for line in call.arguments],
        "backend": call.backend,
        "way": None if way is None else {"name": way.asking.name, "place": way.asking.place},
        "steps": [_line_json(line) for line in call.steps],
        "not_taken": list(call.not_taken),
    }


def _line_json(line: Line) -> dict[str, Json]:
    return {"path": line.path, "value": line.value, "sent": line.present, "rule": line.rule, "place": line.place}
