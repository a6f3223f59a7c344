"""`compat`: what becomes of each field on its way between a client and a worker.

The names of each side come from the pack: from the requests, frames and answers of a route's tests, and from its
`fields`. Whether a field is used is read off the rule's expressions; whether it arrives unchanged, from running the
tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from pydantic import BaseModel

from proxy.errors import GatewayError
from proxy.ruleset.documents import SpecDoc
from proxy.ruleset.lint import paths_read
from proxy.ruleset.loader import PackSource, RouteSource
from proxy.ruleset.playing import run_request
from proxy.ruleset.selftest_documents import TestDoc
from proxy.ruleset.walking import reads_of, written
from proxy.tools.translating import scope_for
from proxy.translate.mapping import RULE_FAILURES
from proxy.types import Json

Fate = Literal["carried", "changed", "used", "dropped", "invented"]
Side = Literal["request", "answer"]


class Field(NamedTuple):
    """One field of one side. into: the names that it has on the other side; accepted: why its loss is accepted."""

    route: str
    side: Side
    name: str
    fate: Fate
    into: tuple[str, ...] = ()
    accepted: str | None = None

    @property
    def lost(self) -> bool:
        """Whether it is dropped and nobody accepted that."""
        return self.fate == "dropped" and self.accepted is None


class Compatibility(NamedTuple):
    """A pack's fields; stale: accepted losses of fields that are not lost, or that no side has."""

    fields: tuple[Field, ...]
    stale: tuple[str, ...]


def compatibility(pack: PackSource) -> Compatibility:
    """What becomes of the fields of every route of a pack."""
    accepted = pack.doc.accepted_losses
    fields: list[Field] = []
    used: set[str] = set()
    for source in pack.routes:
        for field in [*_request_fields(pack, source), *_answer_fields(source)]:
            keys = [f"{field.route}.{field.side}.{field.name}", f"{field.side}.{field.name}"]
            key = next((key for key in keys if key in accepted), None)
            if field.fate == "dropped" and key is not None:
                used.add(key)
                field = field._replace(accepted=accepted[key])
            fields.append(field)
    return Compatibility(tuple(fields), tuple(key for key in accepted if key not in used))


def _request_fields(pack: PackSource, source: RouteSource) -> Iterator[Field]:
    asking = source.asking
    request = asking.doc.request
    if request is None:
        return
    seen = _Seen(source)
    made = _made_fields(request.body, ("body",), _known_to_request(asking))
    reads = reads_of((pack.doc, source.doc, asking.doc))
    whole = bool(reads & {(), ("body",)})
    read = {path[1] for path in reads if _is_field(path, ("body",))}
    origins: set[str] = set()
    for name in _names({*seen.given, *read}, asking.doc.fields.request if asking.doc.fields else []):
        into = tuple(name if target == "*" else target for target, names in made.items() if name in names)
        if (seen.arrived(name) and (whole or into)) or (into == (name,) and not seen.tried(name)):
            field = Field(source.doc.route, "request", name, "carried", (name,))
        elif into or (whole and name in seen.sent):
            field = Field(source.doc.route, "request", name, "changed", into or (name,))
        else:
            used = name in read or (whole and not seen.tried(name))
            field = Field(source.doc.route, "request", name, "used" if used else "dropped")
        origins.update(field.into)
        yield field
    for name in _names({*seen.sent, *(made if "*" not in made else ())}, []):
        if name not in origins:
            yield Field(source.doc.route, "request", name, "invented")


class _Seen:
    """What the tests of a route show: the client's fields, and with which values they came to the worker."""

    def __init__(self, source: RouteSource) -> None:
        self.given: set[str] = set()
        self.sent: set[str] = set()
        self._pairs: dict[str, list[bool]] = {}
        for test in _tests(source):
            request = test.given.request
            if not isinstance(request, dict):
                continue
            self.given |= request.keys()
            for body in _bodies(source, test.given.request, dict(test.given.worker), dict(test.given.asked)):
                self._compare(request, body)

    def _compare(self, request: dict[str, Json], body: Json) -> None:
        if not isinstance(body, dict):
            return
        self.sent |= body.keys()
        for name, value in request.items():
            if value is not None:
                self._pairs.setdefault(name, []).append(name in body and body[name] == value)

    def arrived(self, name: str) -> bool:
        """Whether it always came to the worker as it was."""
        return self.tried(name) and all(self._pairs[name])

    def tried(self, name: str) -> bool:
        """Whether a request that was taken had a value there."""
        return name in self._pairs


def _bodies(source: RouteSource, request: Json, worker: dict[str, Json], asked: dict[str, Json]) -> list[Json]:
    """What the route sends; nothing where it refuses the request."""
    try:
        scope = scope_for(source.route, request, worker)
        return run_request(source.route, scope, lambda question: asked.get(question.step)).bodies
    except (GatewayError, *RULE_FAILURES):
        return []


def _answer_fields(source: RouteSource) -> Iterator[Field]:
    asking, doc = source.asking, source.doc
    if asking.doc.request is None:
        return
    streamed = asking.doc.stream is not None and asking.doc.stream.from_ is not None
    given: set[str] = set()
    for test in _tests(source):
        frames = (test.given.chunks if streamed else test.given.answers) or []
        given |= {name for frame in frames if isinstance(frame, dict) for name in frame}
    roots = ("chunk",) if streamed else ("upstream", "answers")
    made: dict[str, set[str]] = {}
    for spec in _answering(source):
        for name, names in _made_fields(spec, roots, _meanings(asking)).items():
            made.setdefault(name, set()).update(names)
    used = {path[1] for path in reads_of((doc, asking.doc)) if _is_field(path, roots)}
    for name in _names({*given, *used}, asking.doc.fields.answer if asking.doc.fields else []):
        into = tuple(target for target, names in made.items() if name in names)
        if "*" in made or into == (name,):
            yield Field(doc.route, "answer", name, "carried", (name,))
        elif into:
            yield Field(doc.route, "answer", name, "changed", into)
        else:
            yield Field(doc.route, "answer", name, "used" if name in used else "dropped")
    for name, names in made.items():
        if not names:
            yield Field(doc.route, "answer", name, "invented")


def _tests(source: RouteSource) -> list[TestDoc]:
    return [*source.doc.tests, *(source.base.doc.tests if source.base is not None else [])]


def _answering(source: RouteSource) -> list[SpecDoc]:
    """The mappings that make what the client gets."""
    doc = source.doc
    if doc.answer is not None:
        return [doc.answer.body]
    if doc.stream is None or doc.stream.to is None:
        return []
    return [doc.stream.to.chunk, *([doc.stream.to.last] if doc.stream.to.last is not None else [])]


def _meanings(source: RouteSource) -> dict[str, set[str]]:
    """Which fields of the worker's frames text, finish and usage are read from."""
    stream = source.doc.stream
    if stream is None or stream.from_ is None:
        return {}
    read = stream.from_.read
    meanings: dict[str, set[str]] = {}
    for name, value in (("text", read.text), ("finish", read.finish), ("usage", read.usage)):
        sources = [value] if isinstance(value, str) else _values(value) if value else []
        meanings[name] = {path[1] for each in sources for path in paths_read(each) if _is_field(path, ("chunk",))}
    meanings["new_text"] = meanings["text"]
    return meanings


def _known_to_request(source: RouteSource) -> dict[str, set[str]]:
    """Which fields of the client's body `steps.NAME`, `worker.model` and `batch` depend on."""
    doc = source.doc
    known: dict[str, set[str]] = {}
    if doc.worker is not None and doc.worker.model is not None:
        known["worker.model"] = _origins([doc.worker.model], ("body",), {})
    for step in doc.steps:
        if step.set is not None:
            known[f"steps.{step.set}"] = _origins(_values(step), ("body",), known)
    if doc.request is not None and doc.request.batch is not None:
        known["batch"] = _origins([doc.request.batch.of], ("body",), known)
    return known


def _values(doc: BaseModel) -> list[str]:
    """The expressions that values are made of, without conditions and bounds."""
    return [each.source for each in written(doc) if not each.condition and "clamp" not in each.path]


def _made_fields(spec: SpecDoc, roots: tuple[str, ...], known: dict[str, set[str]]) -> dict[str, set[str]]:
    """The fields that a mapping makes, each with the fields of the other side that it is made of. "*": what is there is
    passed on as a whole; "(body)": the whole is made of something.
    """
    if spec.fields is not None and spec.each is None:
        return {name: _origins(_values(child), roots, known) for name, child in spec.fields.items()}
    names = _origins(_values(spec), roots, known)
    return {"*": names} if "*" in names else {"(body)": names}


def _origins(sources: Iterable[str], roots: tuple[str, ...], known: dict[str, set[str]]) -> set[str]:
    """The fields of `roots` that expressions depend on; `known` has what other names depend on."""
    found: set[str] = set()
    for source in sources:
        for path in paths_read(source):
            if _is_field(path, roots):
                found.add(path[1])
            elif path[:1] and path[0] in roots:
                found.add("*")
            else:
                found |= known.get(".".join(path[:2]), known.get(path[0], set()) if path else set())
    return found


def _is_field(path: tuple[str, ...], roots: tuple[str, ...]) -> bool:
    return len(path) > 1 and path[0] in roots


def _names(given: Iterable[str], declared: Iterable[str]) -> list[str]:
    return sorted({*given, *declared} - {"*", "(body)"})
