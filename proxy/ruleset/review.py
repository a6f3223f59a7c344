"""What is wrong with a rule set although it compiles: found for whoever writes it, not at the start of a gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pydantic import BaseModel

from proxy.documents import Diagnostic, Document, clipped, suggestion
from proxy.expr import FunctionRegistry, compile_expression
from proxy.framing import FRAMINGS
from proxy.ruleset.answer_documents import FromDoc
from proxy.ruleset.backends import AskingSource, BackendSource
from proxy.ruleset.documents import RouteDoc, StepDoc
from proxy.ruleset.lint import paths_read
from proxy.ruleset.loader import PackSource, RouteSource, RuleSet
from proxy.ruleset.mapping_documents import SpecDoc
from proxy.ruleset.pack_documents import ErrorsDoc
from proxy.ruleset.vocabulary import NAMES
from proxy.ruleset.walking import Written, reads_of, written
from proxy.translate.mapping import RULE_FAILURES, truthy
from proxy.translate.operations import OPERATIONS
from proxy.translate.routes import path_pattern, path_shape

# What these hold is fixed, so another name in them is a slip.
_KNOWN: Final = {name: seen.members for name, seen in NAMES.items() if seen.members}
_SIDES: Final = ("request", "answer")
_BACKEND_SIDES: Final = ("call", "result", "answer")


def review(rules: RuleSet, functions: FunctionRegistry) -> list[Diagnostic]:
    """Every finding, in no order."""
    found = list(_shadowed([source for pack in rules.sources for source in pack.routes if not source.doc.beside]))
    for pack in rules.sources:
        errors = ErrorsDoc.model_validate(pack.errors.value)
        for each in written(errors):
            found += [pack.errors.at(each.path, problem) for problem in _unknown_names(each.source, _KNOWN)]
        names = {source.doc.route for source in pack.routes}
        found += _odd_losses(pack.document, pack.doc.accepted_losses, _SIDES, names, "route")
        for source in pack.routes:
            found += _route_findings(pack, source, functions)
        found += _unread_questions(pack)
    for backend in rules.backends.values():
        found += _backend_findings(backend, functions) if backend.named else []
    return found


def _odd_losses(
    document: Document, losses: Mapping[str, str], sides: tuple[str, ...], names: set[str], what: str
) -> Iterator[Diagnostic]:
    for key in losses:
        first, _, rest = key.partition(".")
        side, _, field = (key if first in sides else rest).partition(".")
        if side not in sides or not field:
            expected = " or ".join(f"{side}.NAME" for side in sides)
            article = "an" if what[0] in "aeiou" else "a"
            message = f"'{key}': expected {expected}, perhaps with the name of {article} {what} and a dot before it"
            yield document.at(("accepted_losses", key), message, key=True)
        elif first not in {*sides, *names}:
            message = f"'{key}': no {what} '{first}' in this pack{suggestion(first, names)}"
            yield document.at(("accepted_losses", key), message, key=True)


def _route_findings(pack: PackSource, source: RouteSource, functions: FunctionRegistry) -> Iterator[Diagnostic]:
    known = {
        **_KNOWN,
        "worker": _KNOWN["worker"] | pack.doc.sample.keys(),
        "path": frozenset(path_pattern(source.route.path).groupindex),
    }
    yield from _expression_findings(source.document, source.doc, known, source.asking.doc.steps, functions)
    yield from _endless(source)
    if source.doc.stream is not None and source.doc.stream.from_ is not None:
        yield from _finishless(source.document, source.doc.stream.from_)


def _expression_findings(
    document: Document,
    doc: BaseModel,
    known: Mapping[str, frozenset[str]],
    steps: Iterable[StepDoc],
    functions: FunctionRegistry,
) -> Iterator[Diagnostic]:
    """Names that never are, in what is known and in the steps; conditions that never change."""
    shapes = _step_fields(steps)
    for each in written(doc):
        for problem in [*_unknown_names(each.source, known), *_unknown_step_fields(each.source, shapes)]:
            yield document.at(each.path, problem)
        if each.condition and not paths_read(each.source):
            yield document.at(each.path, _constant(each, functions))


def _backend_findings(backend: BackendSource, functions: FunctionRegistry) -> Iterator[Diagnostic]:
    known = {**_KNOWN, "worker": _KNOWN["worker"] | backend.doc.sample.keys()}
    yield from _expression_findings(backend.document, backend.doc, known, (), functions)
    names = {way.doc.name for way in backend.operations}
    yield from _odd_losses(backend.document, backend.doc.accepted_losses, _BACKEND_SIDES, names, "operation")
    conditions: dict[tuple[str, str], AskingSource] = {}
    for way in backend.operations:
        arguments = frozenset(OPERATIONS[way.doc.operation].arguments)
        seen = {**known, "call": arguments}
        yield from _expression_findings(way.document, way.doc, seen, way.doc.steps, functions)
        yield from _unread(way.document, way.doc.steps, reads_of([way.doc]))
        if way.doc.stream is not None:
            yield from _finishless(way.document, way.doc.stream.from_)
        if way.doc.when is not None:
            first = conditions.setdefault((way.doc.operation, way.doc.when), way)
            if first is not way:
                message = f"never used: '{first.doc.name}' at {first.asking.place} has the same condition"
                yield way.document.at(("when",), message)


def _finishless(document: Document, read: FromDoc) -> Iterator[Diagnostic]:
    """A stream that no frame of the worker can end well."""
    if read.read.finish is None and read.missing_finish is None:
        message = "nothing says that an answer is complete: give finish in read, or missing_finish"
        yield document.at(("stream", "from"), message, key=True)


def _unknown_names(source: str, known: Mapping[str, frozenset[str]]) -> Iterator[str]:
    for path in sorted(paths_read(source)):
        if len(path) > 1 and path[0] in known and path[1] not in known[path[0]]:
            there = suggestion(path[1], known[path[0]])
            yield f"expression '{clipped(source)}' reads '{path[0]}.{path[1]}', which there never is{there}"


def _unknown_step_fields(source: str, shapes: dict[str, frozenset[str]]) -> Iterator[str]:
    for path in sorted(paths_read(source)):
        if len(path) > 2 and path[0] == "steps" and path[2] not in shapes.get(path[1], {path[2]}):
            there = suggestion(path[2], shapes[path[1]])
            yield f"expression '{clipped(source)}' reads '{'.'.join(path[:3])}', which that step does not make{there}"


def _step_fields(steps: Iterable[StepDoc]) -> dict[str, frozenset[str]]:
    """The keys of each step that is an object with known ones."""
    specs: dict[str, SpecDoc] = {str(step.set): step.value for step in steps if step.value is not None}
    return {name: frozenset(spec.fields) for name, spec in specs.items() if spec.fields and spec.each is None}


def _constant(each: Written, functions: FunctionRegistry) -> str:
    try:
        outcome = "holds always" if truthy(compile_expression(each.source, functions)({})) else "never holds"
    except RULE_FAILURES as error:
        outcome = f"always fails: {error}"
    return f"condition '{clipped(each.source)}' reads nothing, so it {outcome}"


def _endless(source: RouteSource) -> Iterator[Diagnostic]:
    """A stream of which no frame tells its client that it is the last."""
    target = source.doc.stream.to if source.doc.stream is not None else None
    if target is None or target.last is not None or (target.final is not None and target.final.when is None):
        return
    mute = [name for name in (target.framing, *target.also) if not FRAMINGS[name].terminator]
    reads = {path[0] if path else "" for path in reads_of([target.chunk])}
    if mute and not reads & {"finish", "chunk", ""}:
        message = "no frame says that it is the last: read finish in chunk, or give last, the mapping of the last frame"
        where = "" if mute[0] == target.framing else f" (in the framing {mute[0]})"
        yield source.document.at(("stream", "to"), message + where, key=True)


def _unread_questions(pack: PackSource) -> Iterator[Diagnostic]:
    """Questions to the worker whose answers nothing uses: each costs a call."""
    for source in pack.routes:
        reads = reads_of(each.doc for each in pack.routes if each is source or each.base is source)
        yield from _unread(source.document, source.doc.steps, reads)


def _unread(document: Document, steps: Iterable[StepDoc], reads: set[tuple[str, ...]]) -> Iterator[Diagnostic]:
    for index, step in enumerate(steps):
        if step.ask is not None and not reads & {(), ("steps",)} and not _reads_step(reads, str(step.set)):
            message = f"the step '{step.set}' asks the worker, and nothing reads 'steps.{step.set}'"
            yield document.at(("steps", index), message)


def _reads_step(reads: set[tuple[str, ...]], name: str) -> bool:
    return any(path[:2] == ("steps", name) for path in reads)


def _shadowed(sources: Iterable[RouteSource]) -> Iterator[Diagnostic]:
    """Routes all of whose requests go to routes that are looked at before. Those without any condition and with the
    same path are found when the rules are loaded.
    """
    # The order in which a request is compared with the routes.
    ordered = sorted(sources, key=lambda source: ("{" in source.route.path, not _is_particular(source)))
    for position, later in enumerate(ordered):
        for method in later.route.methods:
            first = next((each for each in ordered[:position] if _takes_all(each, later, method)), None)
            if first is not None:
                message = f"{method} {later.route.path} never comes here: the route '{first.route.name}' at"
                yield later.document.at(("match",), f"{message} {first.route.place} takes all of it", key=True)


def _is_particular(source: RouteSource) -> bool:
    return bool(source.doc.match.headers or source.doc.match.when)


def _takes_all(first: RouteSource, later: RouteSource, method: str) -> bool:
    if method not in first.route.methods or not _covers(first.route.path, later.route.path):
        return False
    if not _is_particular(first) and not _is_particular(later):
        return path_shape(first.route.path) != path_shape(later.route.path)
    wanted, given = _headers(first.doc), _headers(later.doc)
    if any(value not in {"*", given.get(name)} or name not in given for name, value in wanted.items()):
        return False
    return first.doc.match.when in {None, later.doc.match.when}


def _headers(doc: RouteDoc) -> dict[str, str]:
    return {name.lower(): value for name, value in doc.match.headers.items()}


def _covers(first: str, later: str) -> bool:
    """Whether each path that `later` takes is one that `first` takes; a parameter stands for any segment."""
    if "{" not in first:
        return first == later
    if "{" not in later:
        return False  # a path without parameters is looked at before
    wide, narrow = path_shape(first).split("/"), path_shape(later).split("/")
    return len(wide) == len(narrow) and all(map(_covers_segment, wide, narrow))


def _covers_segment(wide: str, narrow: str) -> bool:
    """As `_covers`, for one segment, in which there is one parameter at most."""
    if "{}" not in wide:
        return wide == narrow
    before, _, after = wide.partition("{}")
    start, parameter, end = narrow.partition("{}")
    if parameter:
        return start.startswith(before) and end.endswith(after)
    return narrow.startswith(before) and narrow.endswith(after) and len(narrow) > len(before) + len(after)
