"""Rule packs read from folders: the one place that opens rule files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel

from proxy.documents import Diagnostic, Document, DocumentError, parse_yaml, suggestion, validate
from proxy.expr import FunctionRegistry
from proxy.limits import PACK_MAX_FILES
from proxy.ruleset.compiler import compile_errors, compile_route
from proxy.ruleset.documents import ErrorsDoc, PackDoc, RouteDoc, TestDoc
from proxy.translate.plan import ErrorTable, Route
from proxy.translate.routes import RouteTable

_Model = TypeVar("_Model", bound=BaseModel)

PACK_FILE = "pack.yaml"
ERRORS_FILE = "errors.yaml"


class RouteTest(NamedTuple):
    """A test of a rule file, with the route it is for and the file it stands in."""

    route: Route
    file: str
    test: TestDoc


class RuleSet(NamedTuple):
    """Everything that was loaded: immutable, replaced as a whole."""

    packs: tuple[str, ...]
    table: RouteTable
    tests: tuple[RouteTest, ...]
    examples: tuple[str, ...]


def shipped_rules() -> Path:
    """The folder of the rule packs that come with the program: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "rule_packs"
    return installed if installed.is_dir() else package.parent / "rules"


def load_rules(paths: Iterable[Path], functions: FunctionRegistry) -> RuleSet:
    """The rule set of these folders, each a pack or a folder of packs; DocumentError with every mistake of all of them."""
    mistakes: list[Diagnostic] = []
    routes: list[Route] = []
    tests: list[RouteTest] = []
    packs: list[str] = []
    examples: list[str] = []
    for folder in _pack_folders(paths, mistakes):
        name, found, found_tests, found_examples = _load_pack(folder, functions, mistakes)
        if name in packs:
            mistakes.append(Diagnostic(str(folder / PACK_FILE), 1, 1, f"a second pack is named '{name}'"))
        packs.append(name)
        routes += found
        tests += found_tests
        examples += found_examples
    mistakes += _collisions(routes)
    if mistakes:
        raise DocumentError(mistakes)
    return RuleSet(tuple(packs), RouteTable(routes), tuple(tests), tuple(examples))


def _pack_folders(paths: Iterable[Path], mistakes: list[Diagnostic]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            mistakes.append(
                Diagnostic(str(path), 1, 1, "there is no such folder; expected a rule pack or a folder of packs")
            )
        elif (path / PACK_FILE).is_file():
            yield path
        else:
            inner = sorted(child for child in path.iterdir() if (child / PACK_FILE).is_file())
            if not inner:
                mistakes.append(Diagnostic(str(path), 1, 1, f"no {PACK_FILE} here or one level below"))
            yield from inner


def _load_pack(
    folder: Path, functions: FunctionRegistry, mistakes: list[Diagnostic]
) -> tuple[str, list[Route], list[RouteTest], list[str]]:
    pack = _read_as(folder / PACK_FILE, PackDoc, mistakes)
    errors = _load_errors(folder / ERRORS_FILE, functions, mistakes)
    routes: list[Route] = []
    tests: list[RouteTest] = []
    files = sorted(path for path in folder.rglob("*.yaml") if path.name not in {PACK_FILE, ERRORS_FILE})
    if len(files) > PACK_MAX_FILES:
        mistakes.append(Diagnostic(str(folder), 1, 1, f"{len(files)} files in one pack; the limit is {PACK_MAX_FILES}"))
        files = []
    if not files:
        mistakes.append(Diagnostic(str(folder), 1, 1, "the pack has no routes"))
    read_files = [read for file in files if (read := _read_as(file, RouteDoc, mistakes)) is not None]
    read_files.sort(key=lambda read: read[1].like is not None)
    plain: dict[str, Route] = {}
    for document, doc in read_files:
        if pack is None or errors is None:
            continue
        base = plain.get(doc.like) if doc.like else None
        if doc.like and base is None:
            if len(read_files) < len(files):
                continue  # the other route may be in the file whose own mistake is reported
            message = f"no route '{doc.like}' in this pack that is not itself like another{suggestion(doc.like, plain)}"
            mistakes.append(document.at(("like",), message))
            continue
        compiled = compile_route(document, doc, pack[1], errors, functions, base)
        if base is None:
            plain[doc.route] = compiled.route
        mistakes += compiled.mistakes
        routes.append(compiled.route)
        tests += [RouteTest(compiled.route, document.file, test) for test in doc.tests]
    return (pack[1].pack if pack else folder.name), routes, tests, (pack[1].examples if pack else [])


def _load_errors(file: Path, functions: FunctionRegistry, mistakes: list[Diagnostic]) -> ErrorTable | None:
    read = _read_as(file, ErrorsDoc, mistakes)
    if read is None:
        return None
    table, found = compile_errors(read[0], read[1], functions)
    mistakes += found
    return table


def _read_as(file: Path, model: type[_Model], mistakes: list[Diagnostic]) -> tuple[Document, _Model] | None:
    try:
        document = parse_yaml(file.read_text(encoding="utf-8"), str(file))
        return document, validate(document, model)
    except DocumentError as error:
        mistakes += error.diagnostics
    except UnicodeDecodeError as error:
        mistakes.append(Diagnostic(str(file), 1, 1, f"not UTF-8 text: {error.reason} at byte {error.start}"))
    except OSError as error:
        mistakes.append(Diagnostic(str(file), 1, 1, f"cannot be read: {error.strerror}"))
    return None


def _collisions(routes: Iterable[Route]) -> Iterator[Diagnostic]:
    """Two routes that take the very same requests: the second could never be reached. Same names in one pack."""
    taken: dict[tuple[str, str], Route] = {}
    names: dict[tuple[str, str], Route] = {}
    for route in routes:
        file, _, line = route.place.rpartition(":")
        first = names.setdefault((route.pack, route.name), route)
        if first is not route:
            yield Diagnostic(
                file, int(line), 1, f"a second route of this pack is named '{route.name}'; first at {first.place}"
            )
        if route.headers or route.condition:
            continue
        for method in route.methods:
            first = taken.setdefault((method, route.path), route)
            if first is not route:
                yield Diagnostic(
                    file,
                    int(line),
                    1,
                    f"{method} {route.path} is taken by the route '{first.name}' at {first.place} already",
                )
