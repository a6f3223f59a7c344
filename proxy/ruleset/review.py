"""What is wrong with a rule set although it compiles: found for whoever writes it, not at the start of a gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from proxy.documents import Diagnostic, clipped, suggestion
from proxy.expr import FunctionRegistry, compile_expression
from proxy.framing import FRAMINGS
from proxy.ruleset.documents import RouteDoc, SpecDoc
from proxy.ruleset.lint import paths_read
from proxy.ruleset.loader import PackSource, RouteSource, RuleSet
from proxy.ruleset.pack_documents import ErrorsDoc
from proxy.ruleset.walking import Written, reads_of, written
from proxy.translate.mapping import RULE_FAILURES, truthy
from proxy.translate.routes import path_pattern, path_shape

# What these hold is fixed, so another name in them is a slip; docs/rules.md says what each is.
_KNOWN: Final[dict[str, frozenset[str]]] = {
    "gateway": frozenset({"host", "port", "version", "default_model"}),
    "listener": frozenset({"port", "model"}),
    "error": frozenset({"kind", "message", "field", "code", "status", "upstream_code"}),
}
_WORKER: Final = frozenset(
    {
        "model",
        "public_name",
        "address",
        "context_length",
        "conversation",
        "kinds",
        "embedding_size",
        "images",
        "defaults",
        "reasoning",
    }
)


def review(rules: RuleSet, functions: FunctionRegistry) -> list[Diagnostic]:
    """Every finding, in no order."""
    found = list(_shadowed([source for pack in rules.sources for source in pack.routes]))
    for pack in rules.sources:
        errors = ErrorsDoc.model_validate(pack.errors.value)
        for each in written(errors):
            found += [pack.errors.at(each.path, problem) for problem in _unknown_names(each.source, _KNOWN)]
        found += _odd_losses(pack)
        for source in pack.routes:
            found += _route_findings(pack, source, functions)
        found += _unread_questions(pack)
    return found


def _odd_losses(pack: PackSource) -> Iterator[Diagnostic]:
    names = {source.doc.route for source in pack.routes}
    for key in pack.doc.accepted_losses:
        route, _, rest = key.partition(".")
        side, _, field = (key if route in {"request", "answer"} else rest).partition(".")
        if side not in {"request", "answer"} or not field:
            message = f"'{key}': expected request.NAME or answer.NAME, perhaps with a route's name and a dot before it"
            yield pack.document.at(("accepted_losses", key), message, key=True)
        elif route not in {"request", "answer", *names}:
            message = f"'{key}': no route '{route}' in this pack{suggestion(route, names)}"
            yield pack.document.at(("accepted_losses", key), message, key=True)


def _route_findings(pack: PackSource, source: RouteSource, functions: FunctionRegistry) -> Iterator[Diagnostic]:
    known = {
        **_KNOWN,
        "worker": _WORKER | pack.doc.sample.keys(),
        "path": frozenset(path_pattern(source.doc.match.path).groupindex),
    }
    shapes = _step_fields(source.asking.doc)
    for each in written(source.doc):
        for problem in [*_unknown_names(each.source, known), *_unknown_step_fields(each.source, shapes)]:
            yield source.document.at(each.path, problem)
        if each.condition and not paths_read(each.source):
            yield source.document.at(each.path, _constant(each, functions))
    yield from _endless(source)


def _unknown_names(source: str, known: dict[str, frozenset[str]]) -> Iterator[str]:
    for path in sorted(paths_read(source)):
        if len(path) > 1 and path[0] in known and path[1] not in known[path[0]]:
            there = suggestion(path[1], known[path[0]])
            yield f"expression '{clipped(source)}' reads '{path[0]}.{path[1]}', which there never is{there}"


def _unknown_step_fields(source: str, shapes: dict[str, frozenset[str]]) -> Iterator[str]:
    for path in sorted(paths_read(source)):
        if len(path) > 2 and path[0] == "steps" and path[2] not in shapes.get(path[1], {path[2]}):
            there = suggestion(path[2], shapes[path[1]])
            yield f"expression '{clipped(source)}' reads '{'.'.join(path[:3])}', which that step does not make{there}"


def _step_fields(doc: RouteDoc) -> dict[str, frozenset[str]]:
    """The keys of each step that is an object with known ones."""
    specs: dict[str, SpecDoc] = {str(step.set): step.value for step in doc.steps if step.value is not None}
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
        for index, step in enumerate(source.doc.steps):
            if step.ask is not None and not reads & {(), ("steps",)} and not _reads_step(reads, str(step.set)):
                message = f"the step '{step.set}' asks the worker, and nothing reads 'steps.{step.set}'"
                yield source.document.at(("steps", index), message)


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
