"""`compat`: what becomes of each field on its way between a client and a worker.

The names of each side come from the pack: from the requests, frames and answers of its tests, and from `fields` of a
route; those of a call from its operation. A route with a call has two halves, of which the second is the backend's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple, get_args

from proxy.errors import GatewayError
from proxy.ruleset.answer_documents import FromDoc
from proxy.ruleset.backends import AskingSource, BackendSource, tests_of
from proxy.ruleset.loader import PackSource, RouteSource
from proxy.ruleset.mapping_documents import SpecDoc
from proxy.ruleset.playing import run_request, variant_for
from proxy.ruleset.selftest_documents import GivenDoc, TestDoc
from proxy.ruleset.walking import written
from proxy.tools.halves import Fate, Half, Origins, Seen, fields_read, made_fields, origins, step_origins, values_of
from proxy.tools.translating import scope_for
from proxy.translate.fields import Named
from proxy.translate.mapping import RULE_FAILURES, Scope
from proxy.translate.operations import OPERATIONS
from proxy.translate.plan import Route
from proxy.translate.request import Built
from proxy.types import Json

Side = Literal["request", "call", "result", "answer"]
# In the order of a request and its answer.
_SIDES: Final = get_args(Side)


class Field(NamedTuple):
    """One name of one side. route: or the backend's way of asking, as `backend/name`, for the sides call and result.

    side: request, of the client; call, an argument; result, of the worker's frames or answers, or a result that it does
    not tell; answer, of what the client gets: a result, or without a call the worker's. into: the names that it has on
    the other side; accepted: why its loss is accepted.
    """

    route: str
    side: Side
    name: str
    fate: Fate
    into: tuple[str, ...] = ()
    accepted: str | None = None

    @property
    def lost(self) -> bool:
        """Whether it gets nowhere and nobody accepted that."""
        return self.fate in {"dropped", "absent"} and self.accepted is None


class Compatibility(NamedTuple):
    """The fields of each route of a pack, or of each way of asking a backend; stale: accepted losses of fields that are
    not lost, or that no side has.
    """

    parts: dict[str, tuple[Field, ...]]
    stale: tuple[str, ...]

    @property
    def fields(self) -> list[Field]:
        """All of them."""
        return [field for part in self.parts.values() for field in part]


def compatibility(pack: PackSource, backends: Mapping[str, BackendSource], wanted: str | None) -> Compatibility:
    """What becomes of the fields of every route of a pack, with workers of the backend `wanted` (None: the pack's own).
    ValueError where there is no such backend.
    """
    name = wanted or pack.doc.backend
    backend = None if name is None else backends.get(name)
    if wanted is not None and backend is None:
        raise ValueError(f"there is no backend '{wanted}'; known: {', '.join(sorted(backends))}")
    own = _Accepting(pack.doc.accepted_losses)
    parts: dict[str, tuple[Field, ...]] = {}
    for source in pack.routes:
        call = source.asking.doc.call
        fields = [own.judged(field) for field in (_inline(pack, source) if call is None else _calling(pack, source))]
        others_only = source.beside is not None and name == pack.doc.backend
        if call is not None and backend is not None and not others_only:
            arguments = set(call.with_)
            for way in backend.operations:
                if way.asking.operation == call.operation and (way.doc.stream or source.doc.answer):
                    fields += _judged_way(way, arguments, _Accepting(backend.doc.accepted_losses))
        own.look_below(source.doc.route, "request", source.route.named.request)
        own.look_below(source.doc.route, "answer", source.route.named.answer or source.route.named.result)
        parts[source.doc.route] = tuple(sorted(fields, key=lambda field: _SIDES.index(field.side)))
    return Compatibility(parts, own.stale)


def backend_compatibility(backend: BackendSource) -> Compatibility:
    """What becomes of every argument of every operation, and of everything that workers of this backend tell."""
    own = _Accepting(backend.doc.accepted_losses)
    parts = {
        way.asking.name: tuple(_judged_way(way, set(OPERATIONS[way.asking.operation].arguments), own))
        for way in backend.operations
    }
    for way in backend.operations:
        own.look_below(way.asking.name, "call", way.asking.named.call)
        own.look_below(way.asking.name, "answer", way.asking.named.answer)
    return Compatibility(parts, own.stale)


class _Accepting:
    """The losses that a pack accepts, and which of them there are."""

    def __init__(self, accepted: Mapping[str, str]) -> None:
        self._accepted = accepted
        self._used: set[str] = set()

    def judged(self, field: Field) -> Field:
        side = "answer" if field.side == "result" and field.fate != "absent" else field.side
        name = field.route.rpartition("/")[2]
        key = next((k for k in (f"{name}.{side}.{field.name}", f"{side}.{field.name}") if k in self._accepted), None)
        if key is None or field.fate not in {"dropped", "absent"}:
            return field
        self._used.add(key)
        return field._replace(accepted=self._accepted[key])

    def look_below(self, rule: str, side: Side, named: Named | None) -> None:
        """Take note of losses one level below a field, `messages.name`, which tests and `fields` do not tell of."""
        for outer, known in ({} if named is None else named.inner).items():
            for key in (key for key in self._accepted if key.partition(".")[0] in {rule, side}):
                field = key.removeprefix(f"{rule}.").removeprefix(f"{side}.{outer}.")
                if key.endswith(f"{side}.{outer}.{field}") and field not in known:
                    self._used.add(key)

    @property
    def stale(self) -> tuple[str, ...]:
        return tuple(key for key in self._accepted if key not in self._used)


def _fields(route: str, side: Side, half: Half) -> Iterator[Field]:
    return (Field(route, side, name, fate, into) for name, fate, into in half.fates())


# --- a route that asks its worker itself


def _inline(pack: PackSource, source: RouteSource) -> Iterator[Field]:
    asking = source.asking
    request, name = asking.doc.request, source.doc.route
    if request is None:
        return
    seen = _seen(source, lambda scope, built: built.bodies)
    reads, whole = fields_read((pack.doc, source.doc, asking.doc), ("body",))
    known = _client_origins(asking)
    if request.batch is not None:
        known["batch"] = origins([request.batch.of], ("body",), known)
    made = made_fields(request.body, ("body",), known)
    names = {*seen.given, *reads, *(asking.doc.fields.request if asking.doc.fields else [])}
    yield from _fields(name, "request", Half(names, made, reads, whole, seen))
    stream = asking.doc.stream
    read = None if stream is None else stream.from_
    roots = ("chunk",) if read is not None else ("upstream", "answers")
    reads, whole = fields_read((source.doc, asking.doc), roots)
    given = _told(_tests(source), streamed=read is not None)
    names = {*given, *reads, *(asking.doc.fields.answer if asking.doc.fields else [])}
    made = _answer_made(source, roots, {} if read is None else _with_new(_read_origins(read)))
    yield from _fields(name, "answer", Half(names, made, reads, whole=False, seen=Seen()))


# --- the client's half of a call


def _calling(pack: PackSource, source: RouteSource) -> Iterator[Field]:
    asking, call, name = source.asking, source.asking.doc.call, source.doc.route
    if call is None:
        return
    seen = _seen(source, lambda scope, built: [scope.get("call")])
    shared = source.beside.asking.doc.worker if source.beside is not None else None
    docs = (pack.doc, source.doc, asking.doc, *([shared] if shared is not None else []))
    reads, whole = fields_read(docs, ("body",))
    known = _client_origins(asking)
    if call.each is not None:
        known["item"] = origins([call.each], ("body",), known)
    made = {argument: origins(values_of(spec), ("body",), known) for argument, spec in call.with_.items()}
    names = {*seen.given, *reads, *(asking.doc.fields.request if asking.doc.fields else [])}
    yield from _fields(name, "request", Half(names, made, reads, whole, seen))
    results = {result: {result} for result in OPERATIONS[call.operation].results}
    # An answer has them in `results`, of which each is an `item`.
    of_several = {f"{root}.{result}": {result} for root in ("results", "item") for result in results}
    known = {**_with_new(results), **of_several}
    answering = [each for each in (source.doc.stream, source.doc.answer) if each is not None]
    used = origins((each.source for doc in answering for each in written(doc)), (), known)
    yield from _fields(name, "answer", Half(results, _answer_made(source, (), known), used, whole=False, seen=Seen()))


# --- the backend's half


def _judged_way(way: AskingSource, arguments: set[str], accepting: _Accepting) -> list[Field]:
    return [accepting.judged(field) for field in _way(way, arguments)]


def _way(way: AskingSource, arguments: set[str]) -> Iterator[Field]:
    """arguments: those that are looked at."""
    doc, name = way.doc, f"{way.asking.backend}/{way.asking.name}"
    known = step_origins(doc.steps, ("call",), {})
    if doc.request.batch is not None:
        known["batch"] = origins([doc.request.batch.of], ("call",), known)
    reads, whole = fields_read([doc], ("call",))
    seen = Seen()
    for route, test in tests_of(way):
        seen.note(test.given.request, _bodies(route, test.given))
    made = made_fields(doc.request.body, ("call",), known)
    yield from _fields(name, "call", Half(arguments, made, reads, whole, seen))
    roots = ("upstream", "answers") if doc.stream is None else ("chunk",)
    reads, whole = fields_read([doc], roots)
    told = _told((test for _, test in tests_of(way)), streamed=doc.stream is not None)
    if doc.stream is not None:
        made = _read_origins(doc.stream.from_)
    elif doc.result is not None:
        made = made_fields(doc.result, roots, known)
    yield from _fields(name, "result", Half({*told, *reads}, made, reads, whole, seen=Seen()))
    for result in OPERATIONS[way.asking.operation].results:
        if result not in made and "*" not in made:
            yield Field(name, "result", result, "absent")


# --- what both have in common


def _client_origins(source: RouteSource) -> Origins:
    """Which fields of the client's body `steps.NAME` and `worker.model` depend on."""
    worker = source.doc.worker
    model = [worker.model] if worker is not None and worker.model is not None else []
    return step_origins(source.doc.steps, ("body",), {"worker.model": origins(model, ("body",), {})})


def _seen(source: RouteSource, made: Callable[[Scope, Built], list[Json]]) -> Seen:
    """What the tests of a route show of its request."""
    seen = Seen()
    for test in _tests(source):
        scope = _scope(source.route, test.given)
        built = _built(source.route, scope, test.given)
        seen.note(test.given.request, [] if built is None else made(scope, built))
    return seen


def _bodies(route: Route, given: GivenDoc) -> list[Json]:
    built = _built(route, _scope(route, given), given)
    return [] if built is None else built.bodies


def _scope(route: Route, given: GivenDoc) -> Scope:
    return scope_for(variant_for(route, given.backend), given.request, dict(given.worker))


def _built(route: Route, scope: Scope, given: GivenDoc) -> Built | None:
    """What the route sends; None where it refuses the request."""
    try:
        return run_request(variant_for(route, given.backend), scope, lambda question: given.asked.get(question.step))
    except (GatewayError, *RULE_FAILURES):
        return None


def _tests(source: RouteSource) -> list[TestDoc]:
    return [*source.doc.tests, *(source.base.doc.tests if source.base is not None else [])]


def _told(tests: Iterable[TestDoc], *, streamed: bool) -> set[str]:
    """The names in what workers say in the tests."""
    said = [frame for test in tests for frame in (test.given.chunks if streamed else test.given.answers) or []]
    # Where a call is made for each element of an array, what is said to each is a list of its own.
    flat = [frame for each in said for frame in (each if isinstance(each, list) else [each])]
    return {name for each in flat if isinstance(each, dict) for name in each}


def _read_origins(read: FromDoc) -> Origins:
    """Which fields of the worker's frames each meaning is read from."""
    meanings = {name: getattr(read.read, name) for name in ("text", "finish", "usage", "reasoning", "logprobs")}
    return {
        name: origins([each] if isinstance(each, str) else values_of(each), ("chunk",), {})
        for name, each in meanings.items()
        if each is not None
    }


def _with_new(known: Origins) -> Origins:
    more = {f"new_{name}": known[name] for name in ("text", "reasoning") if name in known}
    return {**known, **more}


def _answer_made(source: RouteSource, roots: tuple[str, ...], known: Origins) -> Origins:
    """What the client gets, and what it is made of."""
    made: Origins = {}
    for spec in _answering(source):
        for name, names in made_fields(spec, roots, known).items():
            made.setdefault(name, set()).update(names)
    return made


def _answering(source: RouteSource) -> list[SpecDoc]:
    """The mappings that make what the client gets."""
    doc = source.doc
    if doc.answer is not None:
        return [doc.answer.body]
    if doc.stream is None or doc.stream.to is None:
        return []
    to = doc.stream.to
    return [spec for spec in (to.first, to.chunk, to.last, to.final) if spec is not None]
