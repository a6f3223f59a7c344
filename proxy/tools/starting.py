"""`init`: a rule pack and settings to begin with. What they are about comes from the pack that they extend."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from proxy.backends.flags import FLAGS, PROGRAM
from proxy.ruleset import RuleSet
from proxy.ruleset.loader import RouteSource
from proxy.ruleset.selftest_documents import TestDoc
from proxy.ruleset.walking import written
from proxy.types import Json

# Fields that servers of models often know; the first one that the route does not have yet is the example.
_EXAMPLES: Final = ("seed", "min_p", "best_of", "priority")
# Arguments of a call that few dialects pass on.
_ARGUMENTS: Final = ("best_of", "logprobs")
_EXAMPLE_VALUE: Final = 7


class Start(NamedTuple):
    """The files to write, by their paths; field: the one that the example adds, in which route."""

    files: dict[Path, str]
    pack: str
    route: str
    field: str


def start(rules: RuleSet, folder: Path, wanted: str | None) -> Start:
    """The files of a pack in `folder` that extends the shipped pack `wanted`, or the first that says how it is tried.

    ValueError where the folder's name is not UTF-8, and where there is no such pack, or none whose requests could get a
    further field.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{str(folder)!a}: expected a name in UTF-8") from None
    names = [pack.name for pack in rules.sources]
    chosen = [pack for pack in rules.sources if pack.name == wanted or (wanted is None and pack.doc.examples)]
    if not chosen:
        raise ValueError(f"no pack '{wanted}' comes with the program; known: {', '.join(names)}")
    pack = chosen[0]
    routes = sorted(pack.routes, key=lambda source: source.doc.stream is None)
    found = next(((source, test) for source in routes if (test := _example_test(source)) is not None), None)
    if found is None:
        raise ValueError(f"no route of '{pack.name}' has a test from which an example could be made")
    source, test = found
    field = _new_field(source)
    rules_folder = folder / "rules"
    own = rules_folder / pack.name
    files = {
        own / "pack.yaml": _pack_text(pack.name, rules_folder),
        own / f"{source.doc.route}.yaml": _route_text(source, test, field),
        folder / "settings.yaml": _settings_text(rules_folder, [name for name in names if name != pack.name]),
    }
    return Start(files, pack.name, source.doc.route, field)


def _example_test(source: RouteSource) -> TestDoc | None:
    """A test of a request that is taken, where the request is a mapping to which a field can be added."""
    request = source.doc.request
    if source.beside is not None:
        return None  # it is for workers of other backends than the pack's
    if source.doc.call is None and (request is None or request.body.fields is None or source.doc.worker is None):
        return None
    taken = (test for test in source.doc.tests if test.expect.error is None and isinstance(test.given.request, dict))
    return min(taken, key=lambda test: len(test.model_dump_json()), default=None)


def _new_field(source: RouteSource) -> str:
    text = " ".join(each.source for each in written(source.doc))
    if source.doc.call is not None:
        return next((name for name in _ARGUMENTS if name not in source.doc.call.with_), "example")
    return next((name for name in _EXAMPLES if name not in text), "example")


def _pack_text(base: str, rules: Path) -> str:
    return f"""\
# A rule pack that changes another one. Only what differs stands here; the rest is that pack's, its tests too.
#   {PROGRAM} check {rules}   says what is changed, and every mistake
#   {PROGRAM} test {rules}    runs the tests of both packs
extends: {base}

# A name of its own, for metrics; without it the pack has the other one's.
# pack: my-{base}

# Routes that are not served, by name.
# remove_routes: []

# Tables and the sample worker of the tests are put over the other pack's, key by key.
# sample: {{context_length: 4096}}
"""


def _route_text(source: RouteSource, test: TestDoc, field: str) -> str:
    given = test.given.model_dump(
        mode="json", by_alias=True, exclude_unset=True, include={"request", "worker", "asked"}
    )
    request = dict(given["request"]) if isinstance(given.get("request"), dict) else {}
    request[field] = _EXAMPLE_VALUE
    given["request"] = request
    return f"""\
# What differs in the route {source.doc.route}, which is for this:
#   {_one_line(source.doc.description)}
extends: {source.doc.route}

# What goes away, by its path:
# remove: [request.body.fields.NAME, steps.NAME, 'tests."its name"']

# A step takes the place of the one with its name; with before or after it is a new one.
# steps:
#   - {{set: NAME, value: {{from: body.NAME, type: string}}, after: OTHER}}

{_added(source, field)}

tests:
  - name: {field} goes along
    given: {_flow(given)}
    expect: {{upstream: {{{field}: {_EXAMPLE_VALUE}}}}}
  - name: {field} is a whole number
    given: {_flow({**given, "request": {**request, field: "many"}})}
    expect: {{error: {{kind: invalid_request, field: {field}}}}}
"""


def _added(source: RouteSource, field: str) -> str:
    comment = "# The worker gets this too, where the caller gives it, and it is a whole number."
    mapping = f"{field}: {{from: body.{field}, type: integer}}"
    if source.doc.call is not None:
        return f"call:\n  with:\n    {comment}\n    {mapping}"
    return f"request:\n  body:\n    fields:\n      {comment}\n      {mapping}"


def _settings_text(rules: Path, others: Iterable[str]) -> str:
    sections: dict[str, list[str]] = {}
    for flag in FLAGS:
        if not flag.key:
            sections[f"{flag.section}: {flag.example}"] = [f"#   # {flag.help}"]
            continue
        *outer, key = flag.key.split(".")
        value = f"{key}: {flag.example}"
        for name in reversed(outer):
            value = f"{name}: {{{value}}}"
        sections.setdefault(f"{flag.section}:", []).extend([f"#   # {flag.help}", f"#   {value}"])
    backends = "\n".join(line for name, lines in sections.items() for line in (f"# {name}", *lines))
    return f"""\
# Settings of {PROGRAM}: {PROGRAM} serve --config FILE

# Where clients call the gateway, and where operators find metrics, health and state.
listen: 127.0.0.1:8090
admin: 127.0.0.1:8091

# The rule packs that are served: a folder of them. A further folder in it whose pack.yaml says only `extends: NAME`
# serves a pack that comes with the program as it is: {", ".join(others) or "there is no other"}.
rules: [{_flow(str(rules.absolute()))}]

# An embedded demonstration fleet, to try it. For your own workers, take it out and say here where they are.
demo: {{models: [demo-chat]}}

{backends}
"""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _flow(value: Json) -> str:
    """A value as YAML on one line, which JSON is."""
    return orjson.dumps(value).decode()
