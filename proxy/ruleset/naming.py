"""Which fields the expressions of a rule read: of the client's body, of a call, of a worker's answer, of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel

from proxy.documents.yaml import Path
from proxy.ruleset.backend_documents import AskingDoc, BackendDoc
from proxy.ruleset.documents import RouteDoc, StepDoc
from proxy.ruleset.lint import paths_read
from proxy.ruleset.pack_documents import PackDoc
from proxy.ruleset.walking import Written, written
from proxy.translate.fields import Named, NamedFields
from proxy.translate.operations import OPERATIONS

Names = tuple[str, ...]
_CALL: Path = ("call",)


class Reading(NamedTuple):
    """One thing that an expression reads. place: of the expression in its document; whole: not only whether it is there
    and what is below it.
    """

    place: Path
    path: Names
    whole: bool


def named_by_route(name: str, pack: PackDoc, docs: Sequence[RouteDoc], shared: RouteDoc | None = None) -> NamedFields:
    """What the route of this name reads. docs: what its file says, and the one of the route that it is like; shared:
    of the one beside which it stands, which says what it takes.
    """
    readings = _readings([pack, *docs], [step for doc in docs for step in doc.steps])
    if shared is not None:
        readings += [each for each in readings_of(shared) if each.place[:1] in {("match",), ("worker",)}]
    losses = pack.accepted_losses
    request = named(readings, ("body",), _accepted(name, losses, "request"))
    answer = _accepted(name, losses, "answer")
    call = next((doc.call for doc in docs if doc.call is not None), None)
    if call is not None:
        return NamedFields(request, result=_results(readings, call.operation, answer))
    if not any(doc.request is not None for doc in docs):
        return NamedFields(request)
    streamed = any(doc.stream is not None for doc in docs)
    return NamedFields(request, answer=_answers(readings, answer, streamed=streamed))


def named_by_asking(doc: AskingDoc, backend: BackendDoc) -> NamedFields:
    """What one way of asking a backend's workers reads."""
    readings = _readings([backend, doc], doc.steps)
    losses = backend.accepted_losses
    answer = _answers(readings, _accepted(doc.name, losses, "answer"), streamed=doc.stream is not None)
    return NamedFields(call=named(readings, ("call",), _accepted(doc.name, losses, "call")), answer=answer)


def _readings(docs: Sequence[BaseModel], steps: Sequence[StepDoc]) -> list[Reading]:
    """What documents read that belong together. A step of which only conditions ask whether it is there needs no more
    of what it reads itself.
    """
    readings = [each for doc in docs for each in readings_of(doc)]
    needed = {each.path[1:2] for each in readings if each.path[:1] == ("steps",) and (each.whole or each.path[2:])}
    if () in needed or any(not each.path for each in readings):
        return readings
    asked = {("steps", index) for index, step in enumerate(steps) if (step.set,) not in needed}
    return [each._replace(whole=False) if each.place[:2] in asked else each for each in readings]


def _answers(readings: Iterable[Reading], accepted: frozenset[str], *, streamed: bool) -> Named | None:
    if streamed:
        return named(readings, ("chunk",), accepted)
    # What a step reads of `upstream` is the answer to its question.
    return named((each for each in readings if each.place[:1] != ("steps",)), ("upstream", "answers"), accepted)


def _results(readings: Iterable[Reading], operation: str, accepted: frozenset[str]) -> Named | None:
    """Results are names of the scope, in what is written for the client."""
    known = {name: name for name in OPERATIONS[operation].results} | {
        f"new_{name}": name for name in OPERATIONS[operation].results
    }
    told = [each for each in readings if each.place[:1] in {("stream",), ("answer",)} and each.path]
    found = [each._replace(path=(known[each.path[0]], *each.path[1:])) for each in told if each.path[0] in known]
    found += [each._replace(path=each.path[1:]) for each in told if each.path[0] == "results"]  # of several calls
    return named([each._replace(path=("result", *each.path)) for each in found], ("result",), accepted)


def named(readings: Iterable[Reading], roots: Names, accepted: frozenset[str]) -> Named | None:
    """The fields of these names of the scope; None where one of them, or the scope itself, is read as a whole."""
    fields: set[str] = set()
    whole: set[str] = set()
    inner: dict[str, set[str]] = {}
    for _, path, is_whole in readings:
        if path and path[0] not in roots:
            continue
        if len(path) < 2:
            if is_whole:
                return None
            continue
        fields.add(path[1])
        if len(path) > 2:
            inner.setdefault(path[1], set()).add(path[2])
        elif is_whole:
            whole.add(path[1])
    below = {name: frozenset(names) for name, names in inner.items() if name not in whole}
    return Named(frozenset(fields), below, accepted)


def readings_of(doc: BaseModel) -> Iterator[Reading]:
    """What the expressions of a document read. `item` is what `each` gives: with `each: body.messages`, `item.role`
    reads `body.messages.role`, and `each` itself only that there are some.
    """
    expressions = list(written(doc))
    sources = {each.path[:-1]: each for each in expressions if each.path[-1:] == ("each",)}

    def paths(expression: Written) -> Iterator[Names]:
        for path in paths_read(expression.source):
            if path[:1] != ("item",):
                yield path
                continue
            around = _enclosing(expression, sources)
            if around is not None:
                yield from ((*outer, *path[1:]) for outer in paths(around))

    for expression in expressions:
        whole = not expression.condition and expression.path[-1:] != ("each",)
        yield from (Reading(expression.path, path, whole) for path in paths(expression))


def _enclosing(expression: Written, sources: Mapping[Path, Written]) -> Written | None:
    """The `each` whose elements the expression sees as `item`: the one around it, or that of the call."""
    end = len(expression.path) - (2 if expression.path[-1:] == ("each",) else 1)
    for length in range(end, -1, -1):
        if expression.path[:length] in sources:
            return sources[expression.path[:length]]
    return sources.get(_CALL)


def _accepted(rule: str, losses: Mapping[str, str], side: str) -> frozenset[str]:
    found = (key.removeprefix(f"{rule}.") for key in losses)
    return frozenset(key.removeprefix(f"{side}.") for key in found if key.startswith(f"{side}."))
