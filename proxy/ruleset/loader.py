"""Rule packs read from folders: the one place that opens rule files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pydantic import BaseModel

from proxy.documents import Diagnostic, Document, DocumentError, examine, read_yaml, suggestion
from proxy.expr import FunctionRegistry
from proxy.limits import PACK_MAX_FILES, YAML_MAX_BYTES
from proxy.ruleset.compiler import Pack, compile_errors, compile_pack, compile_route
from proxy.ruleset.documents import ErrorsDoc, PackDoc, RouteDoc, TestDoc
from proxy.translate.mapping import Constant
from proxy.translate.plan import ErrorEntry, ErrorTable, Route
from proxy.translate.routes import RouteTable, path_shape

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
    """The folder of the rule packs that come with the program: inside an installed package or beside it."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "rule_packs"
    return installed if installed.is_dir() else package.parent / "rules"


def load_rules(paths: Iterable[Path], functions: FunctionRegistry) -> RuleSet:
    """The rule set of these folders, each a pack or a folder of packs.

    DocumentError with every mistake of all of them.
    """
    mistakes: list[Diagnostic] = []
    routes: list[Route] = []
    tests: list[RouteTest] = []
    packs: list[str] = []
    examples: list[str] = []
    for folder in _pack_folders(paths, mistakes):
        loaded = _load_pack(folder, functions, mistakes)
        if loaded.name in packs:
            mistakes.append(Diagnostic(str(folder / PACK_FILE), 1, 1, f"a second pack is named '{loaded.name}'"))
        packs.append(loaded.name)
        routes += loaded.routes
        tests += loaded.tests
        examples += loaded.examples
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


class _Loaded(NamedTuple):
    name: str
    routes: list[Route]
    tests: list[RouteTest]
    examples: list[str]


@dataclass(frozen=True)
class _Read(Generic[_Model]):
    """complete: False where `doc` was made without keys that nobody knows."""

    document: Document
    doc: _Model
    complete: bool


def _load_pack(folder: Path, functions: FunctionRegistry, mistakes: list[Diagnostic]) -> _Loaded:
    read_pack = _read_as(folder / PACK_FILE, PackDoc, mistakes)
    pack = Pack(folder.name, None, {}, {}, complete=False)
    if read_pack is not None:
        pack, found = compile_pack(read_pack.document, read_pack.doc, functions, complete=read_pack.complete)
        mistakes += found
    errors = _load_errors(folder / ERRORS_FILE, functions, mistakes)
    if errors is None:
        pack = pack._replace(complete=False)
        errors = ErrorTable({}, ErrorEntry(500, None), Constant(None), None, None)
    files = _rule_files(folder, mistakes)
    reads = [read for file in files if (read := _read_as(file, RouteDoc, mistakes)) is not None]
    # A route may be like one that stands in a later file, and one that failed may be the one that is missed.
    reads.sort(key=lambda read: read.doc.like is not None)
    routes: list[Route] = []
    tests: list[RouteTest] = []
    plain: dict[str, Route] = {}
    for read in reads:
        document, doc = read.document, read.doc
        base = plain.get(doc.like) if doc.like else None
        if doc.like and base is None:
            if len(reads) == len(files):
                message = "in this pack that is not itself like another"
                mistakes.append(document.at(("like",), f"no route '{doc.like}' {message}{suggestion(doc.like, plain)}"))
            continue
        compiled = compile_route(document, doc, pack, errors, functions, base, complete=read.complete)
        if base is None:
            plain[doc.route] = compiled.route
        mistakes += compiled.mistakes
        routes.append(compiled.route)
        tests += [RouteTest(compiled.route, document.file, test) for test in doc.tests]
    return _Loaded(pack.name, routes, tests, read_pack.doc.examples if read_pack else [])


def _rule_files(folder: Path, mistakes: list[Diagnostic]) -> list[Path]:
    """The route files of a pack; hidden ones are editors' own."""
    found = sorted(path for path in folder.rglob("*.y*ml") if not path.name.startswith("."))
    mistakes += [
        Diagnostic(str(path), 1, 1, "the name of a rule file ends with .yaml")
        for path in found
        if path.suffix == ".yml"
    ]
    files = [path for path in found if path.suffix == ".yaml" and path.name not in {PACK_FILE, ERRORS_FILE}]
    if len(files) > PACK_MAX_FILES:
        mistakes.append(Diagnostic(str(folder), 1, 1, f"{len(files)} files in one pack; the limit is {PACK_MAX_FILES}"))
        return []
    if not files:
        mistakes.append(Diagnostic(str(folder), 1, 1, "the pack has no routes"))
    return files


def _load_errors(file: Path, functions: FunctionRegistry, mistakes: list[Diagnostic]) -> ErrorTable | None:
    read = _read_as(file, ErrorsDoc, mistakes)
    if read is None:
        return None
    table, found = compile_errors(read.document, read.doc, functions, complete=read.complete)
    mistakes += found
    return table


def _read_as(file: Path, model: type[_Model], mistakes: list[Diagnostic]) -> _Read[_Model] | None:
    try:
        if file.stat().st_size > YAML_MAX_BYTES:
            mistakes.append(Diagnostic(str(file), 1, 1, f"the file is over the limit of {YAML_MAX_BYTES} bytes"))
            return None
        document = read_yaml(file.read_text(encoding="utf-8"), str(file))
    except DocumentError as error:
        mistakes += error.diagnostics
    except UnicodeDecodeError as error:
        mistakes.append(Diagnostic(str(file), 1, 1, f"not UTF-8 text: {error.reason} at byte {error.start}"))
    except OSError as error:
        mistakes.append(Diagnostic(str(file), 1, 1, f"cannot be read: {error.strerror}"))
    else:
        doc, found = examine(document, model)
        mistakes += found
        return None if doc is None else _Read(document, doc, not found)
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
            first = taken.setdefault((method, path_shape(route.path)), route)
            if first is not route:
                yield Diagnostic(
                    file,
                    int(line),
                    1,
                    f"{method} {route.path} is taken by the route '{first.name}' at {first.place} already",
                )
