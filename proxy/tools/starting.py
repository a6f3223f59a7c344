"""`init`: rule packs and settings to begin with: what changes a shipped pack, or packs of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from proxy.backends.flags import FIRST_PACK, FLAGS, PROGRAM
from proxy.ruleset import RuleSet
from proxy.ruleset.loader import RouteSource
from proxy.ruleset.selftest_documents import TestDoc
from proxy.ruleset.sources import BACKENDS
from proxy.ruleset.walking import written
from proxy.tools.beginnings import backend_files, dialect_files
from proxy.tools.schemas import schemas
from proxy.types import Json

# Fields that servers of models often know; the first one that the route does not have yet is the example.
_EXAMPLES: Final = ("seed", "min_p", "best_of", "priority")
# Arguments of a call that few dialects pass on.
_ARGUMENTS: Final = ("best_of", "logprobs")
_EXAMPLE_VALUE: Final = 7
_PACK_NAME: Final = re.compile("[a-z][a-z0-9-]{0,59}")


class Wanted(NamedTuple):
    """What to begin with: the shipped pack to extend, the names of a new dialect and of a new backend."""

    extends: str | None = None
    dialect: str | None = None
    backend: str | None = None


class Extension(NamedTuple):
    """What changes a shipped pack: its files by their paths within the rules; field: the one that the example adds, in
    which route.
    """

    files: dict[str, str]
    pack: str
    route: str
    field: str


class Start(NamedTuple):
    """The files to write, by their paths, and what they are about."""

    files: dict[Path, str]
    wanted: Wanted
    extension: Extension | None


def start(rules: RuleSet, folder: Path, wanted: Wanted) -> Start:
    """The files in `folder`: settings, schemas for editors, and what is wanted; without that a pack that extends the
    first shipped one.

    ValueError where the folder's name is not UTF-8, where a name is not one for a pack or is taken, and where there is
    no pack to extend, or none whose requests could get a further field.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{str(folder)!a}: expected a name in UTF-8") from None
    shipped = [pack.name for pack in rules.sources]
    _check_name("--dialect", wanted.dialect, shipped)
    _check_name("--backend", wanted.backend, rules.backends)
    files: dict[str, str] = {}
    extension = None
    if wanted.extends is not None or (wanted.dialect is None and wanted.backend is None):
        extension = _extension(rules, folder / "rules", wanted.extends or FIRST_PACK)
        files.update(extension.files)
    if wanted.dialect is not None:
        usual = next(pack.doc.backend for pack in rules.sources if pack.name == FIRST_PACK)
        own = dialect_files(wanted.dialect, wanted.backend or str(usual), own_backend=wanted.backend is not None)
        files.update({f"{wanted.dialect}/{name}": text for name, text in own.items()})
    if wanted.backend is not None:
        own = backend_files(wanted.backend)
        files.update({f"{BACKENDS}/{wanted.backend}/{name}": text for name, text in own.items()})
    made = {folder / "rules" / name: _schema_line(name) + text for name, text in files.items()}
    settings = "# yaml-language-server: $schema=schemas/settings.schema.json\n"
    made[folder / "settings.yaml"] = settings + _settings_text(folder / "rules", shipped, wanted.backend)
    for name, schema in schemas().items():
        text = orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
        made[folder / "schemas" / f"{name}.schema.json"] = text
    return Start(made, wanted, extension)


def _check_name(flag: str, name: str | None, taken: Iterable[str]) -> None:
    if name is not None and not _PACK_NAME.fullmatch(name):
        raise ValueError(f"{flag} {name}: expected lower-case letters, digits and -, beginning with a letter")
    if name is not None and name in taken:
        raise ValueError(f"{flag} {name}: one of this name comes with the program; take another, or extend it")


def _schema_line(name: str) -> str:
    """The first line of a rule file, which leads an editor to its schema; name: its path within the rules."""
    kinds = {"pack.yaml": "pack", "errors.yaml": "errors", "backend.yaml": "backend"}
    kind = kinds.get(name.rpartition("/")[2], "operation" if name.startswith(f"{BACKENDS}/") else "rule")
    return f"# yaml-language-server: $schema={'../' * (name.count('/') + 1)}schemas/{kind}.schema.json\n"


def _extension(rules: RuleSet, folder: Path, wanted: str) -> Extension:
    pack = next((pack for pack in rules.sources if pack.name == wanted), None)
    if pack is None:
        known = ", ".join(each.name for each in rules.sources)
        raise ValueError(f"no pack '{wanted}' comes with the program; known: {known}")
    routes = sorted(pack.routes, key=lambda source: source.doc.stream is None)
    found = next(((source, test) for source in routes if (test := _example_test(source)) is not None), None)
    if found is None:
        raise ValueError(f"no route of '{pack.name}' has a test from which an example could be made")
    source, test = found
    field = _new_field(source)
    files = {
        f"{pack.name}/pack.yaml": _pack_text(pack.name, folder),
        f"{pack.name}/{source.doc.route}.yaml": _route_text(source, test, field),
    }
    return Extension(files, pack.name, source.doc.route, field)


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


def _settings_text(rules: Path, shipped: Iterable[str], backend: str | None) -> str:
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

# The rule packs that are served: a folder of them. Those that come with the program can be named beside it:
# {", ".join(shipped)}.
rules: [{_flow(str(rules.absolute()))}]

{_workers_text(backend)}

{backends}
"""


def _workers_text(backend: str | None) -> str:
    if backend is None:
        return """\
# An embedded demonstration fleet, to try it. For your own workers, take it out and say here where they are.
demo: {models: [demo-chat]}"""
    return f"""\
# Where the workers are.
backends: [{{kind: {backend}, url: "http://127.0.0.1:9000"}}]"""


def start_lines(begun: Start) -> Iterator[str]:
    """For people: what was written, and what comes next."""
    made, wanted = begun.extension, begun.wanted
    if made is not None:
        yield f"It extends {made.pack}: the route {made.route} passes {made.field} on."
    if wanted.dialect is not None:
        yield f"The dialect {wanted.dialect} is served at /{wanted.dialect}/chat."
    if wanted.backend is not None:
        yield f"The backend {wanted.backend} asks its workers at /chat and looks for models at /models."
    yield "Next:"


def start_json(begun: Start) -> dict[str, Json]:
    """For programs: what was written."""
    made, wanted = begun.extension, begun.wanted
    return {
        "extends": None if made is None else made.pack,
        "route": None if made is None else made.route,
        "field": None if made is None else made.field,
        "dialect": wanted.dialect,
        "backend": wanted.backend,
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _flow(value: Json) -> str:
    """A value as YAML on one line, which JSON is."""
    return orjson.dumps(value).decode()
