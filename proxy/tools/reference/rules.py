"""The page of rule files: each key of each kind of file, the operations, and what expressions can read where."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, get_args

from pydantic import BaseModel

from proxy.errors import Kind
from proxy.ruleset.askings import CALLED, REFUSED, WORKER
from proxy.ruleset.backend_documents import AskingDoc, BackendDoc
from proxy.ruleset.compiler import ANSWER, CHUNK, COLLECTED, ERROR, MATCH, REQUEST
from proxy.ruleset.documents import RouteDoc
from proxy.ruleset.mapping_documents import SpecDoc
from proxy.ruleset.pack_documents import ErrorsDoc, PackDoc
from proxy.ruleset.vocabulary import NAMES
from proxy.tools.reference.sections import anchor, sections, table
from proxy.tools.schemas import plain_schema
from proxy.translate.operations import OPERATIONS

# What is described once, and linked to from where else it stands.
_FILES: Final[dict[str, type[BaseModel]]] = {
    "A mapping": SpecDoc,
    "A route": RouteDoc,
    "pack.yaml": PackDoc,
    "errors.yaml": ErrorsDoc,
    "backend.yaml": BackendDoc,
    "An operation": AskingDoc,
}

_RESULTS: Final = frozenset({"results of the operation"})
_SHOWN: Final = REQUEST | _RESULTS | {"new_text", "new_reasoning"}
# The compiler's sets by the places where it uses them; a test holds this table to it.
PLACES: Final[dict[str, dict[str, frozenset[str]]]] = {
    "A dialect pack": {
        "match.when, trace": MATCH,
        "worker": MATCH | {"gateway"},
        "steps, request, call.each, call.with, operation, stream.from": REQUEST,
        "request with batch": REQUEST | {"batch"},
        "steps[].ask.result with path": REQUEST | {"upstream"},
        "steps[].ask.result with operation": REQUEST | _RESULTS,
        "request.failure": REQUEST | {"upstream"},
        "request.resume": REQUEST | {"request", "text", "tokens"},
        "stream.from.echoed": REQUEST | {"text"},
        "stream.from.read": REQUEST | {"chunk"},
        "stream.to": CHUNK,
        "stream.to with call": _SHOWN,
        "stream.to: last, final": CHUNK | {"elapsed"},
        "stream.to: last, final with call": _SHOWN | {"elapsed"},
        "answer with stream.from": COLLECTED | {"elapsed"},
        "answer with request": ANSWER | {"elapsed"},
        "answer with call": REQUEST | _RESULTS | {"elapsed"},
        "answer with call.each": REQUEST | {"results", "usage", "elapsed"},
        "answer": REQUEST,
        "errors.yaml": ERROR,
    },
    "A backend pack": {
        "headers": WORKER,
        "refusal": REFUSED,
        "when": frozenset({"call", "worker"}),
        "steps, request, stream.from": CALLED,
        "request with batch": CALLED | {"batch"},
        "steps[].ask.result": CALLED | {"upstream"},
        "request.failure": CALLED | {"upstream"},
        "request.resume": CALLED | {"request", "text", "tokens"},
        "stream.from.echoed": CALLED | {"text"},
        "stream.from.read": CALLED | {"chunk"},
        "result, checks": CALLED | {"upstream", "answers"},
        "probe.status: query, body": frozenset({"models"}),
        "probe.status: models, queue_length": frozenset({"answer", "models"}),
        "probe.model: query, body": frozenset({"model"}),
        "probe.model.when": frozenset({"kinds", "model"}),
        "probe.model: kinds, context_length, embedding_size": frozenset({"answer", "model"}),
        "probe.kinds": frozenset({"model"}),
    },
}


def rules_page() -> Iterator[str]:
    """The lines of the page."""
    yield "# Rule files"
    yield ""
    yield "Every key, with what may stand there. How they work together is in [rules.md](../rules.md), the functions of"
    yield "expressions are in [functions.md](functions.md)."
    yield ""
    headings = ["What expressions can read", "Operations", *_FILES]
    yield ", ".join(f"[{heading}](#{anchor(heading)})" for heading in headings)
    yield from _places()
    yield from _operations()
    links = {
        "JsonValue": "anything",
        "SpecDoc": f"[mapping](#{anchor('A mapping')})",
        json.dumps([*get_args(Kind)]): "[kind of error](../rules.md#errors)",
    }
    for heading, model in _FILES.items():
        yield from _file(heading, model, links)


def _file(heading: str, model: type[BaseModel], links: dict[str, str]) -> Iterator[str]:
    """One kind of file; links: what was described before, to which this adds its own."""
    first, *rest = sections(plain_schema(model), links, heading)
    yield from ("", f"## {heading}", "", first.text, "")
    yield from table(first.keys)
    for section in rest:
        yield from ("", f"### {section.heading}", "", section.text, "")
        yield from table(section.keys)


def _places() -> Iterator[str]:
    yield from ("", "## What expressions can read", "")
    yield "Inside `each` there are `item` and `index` too; with `call.each` they are in `call.with` and in `stream.to`."
    for pack, places in PLACES.items():
        yield from ("", f"| {pack[2:]} | names |", "|---|---|")
        for place, names in places.items():
            yield f"| {_coded(place)} | {', '.join(_name(name) for name in _ordered(names))} |"
    yield from ("", "| name | what it is |", "|---|---|")
    for name, seen in NAMES.items():
        members = f": {', '.join(f'`{each}`' for each in sorted(seen.members))}" if seen.members else ""
        yield f"| `{name}` | {seen.meaning}{members} |"


def _ordered(names: Iterable[str]) -> list[str]:
    known = list(NAMES)
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def _name(name: str) -> str:
    return f"`{name}`" if name in NAMES else f"the {name}"


def _coded(place: str) -> str:
    """`a, b` with `c`: the names as code, the words between them not."""
    words = {"with"}
    parts = place.replace(":", " :").split(" ")
    shown = [part if part in {*words, ":"} else f"`{part.rstrip(',')}`{',' * part.endswith(',')}" for part in parts]
    return " ".join(shown).replace(" :", ":")


def _operations() -> Iterator[str]:
    yield from ("", "## Operations", "")
    yield "What is null was not said."
    for name, operation in OPERATIONS.items():
        yield from _vocabulary(name, "argument", operation.arguments)
        yield from _vocabulary(name, "result", operation.results)


def _vocabulary(operation: str, what: str, names: Mapping[str, str]) -> Iterator[str]:
    yield from ("", f"| {what} of `{operation}` | what it is |", "|---|---|")
    for name, meaning in names.items():
        yield f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |"
