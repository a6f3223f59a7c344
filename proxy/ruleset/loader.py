"""Rule packs from folders: read, checked and compiled as one set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from proxy.documents import Diagnostic, Document, DocumentError, suggestion
from proxy.documents.yaml import Path as DocumentPath
from proxy.expr import FunctionRegistry
from proxy.ruleset.backends import BackendSource, askings_of, backend_folders, load_backends, tests_of
from proxy.ruleset.compiler import Pack, compile_errors, compile_pack, compile_route
from proxy.ruleset.documents import RouteDoc
from proxy.ruleset.naming import named_by_route
from proxy.ruleset.pack_documents import ErrorsDoc, PackDoc
from proxy.ruleset.reading import ReadDocument, read_as
from proxy.ruleset.selftest_documents import TestDoc
from proxy.ruleset.sources import (
    DIALECT,
    PACK_FILE,
    FileChanges,
    PackFiles,
    Reading,
    found_pack,
    read_pack,
    shipped_packs,
    shipped_rules,
)
from proxy.ruleset.spreading import spread_mistakes
from proxy.ruleset.writing import Askings
from proxy.translate.mapping import Constant
from proxy.translate.plan import Asking, ErrorEntry, ErrorTable, Route
from proxy.translate.routes import RouteTable, path_shape

__all__ = ["PackSource", "RouteSource", "RouteTest", "RuleSet", "load_rules", "shipped_rules"]


class RouteTest(NamedTuple):
    """A test of a rule file, with the route it is for and where it stands."""

    route: Route
    file: str
    line: int
    test: TestDoc

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"


class RouteSource(NamedTuple):
    """A route with what its rule file says, and the places of every value of it; base: the route that it is like;
    beside: the one whose requests it shares.
    """

    route: Route
    document: Document
    doc: RouteDoc
    base: RouteSource | None = None
    beside: RouteSource | None = None

    @property
    def asking(self) -> RouteSource:
        """The route whose file says what the worker is asked: the one that it is like, or itself."""
        return self.base or self

    def place(self, path: DocumentPath) -> str:
        """`file:line` of the value at this path."""
        found = self.document.at(path, "", key=True)
        return f"{found.file}:{found.line}"


class PackSource(NamedTuple):
    """A pack with what its files say. errors: how `errors.yaml` begins each mistake; base: the pack that it extends."""

    name: str
    folder: Path
    document: Document
    doc: PackDoc
    errors: Document
    routes: tuple[RouteSource, ...]
    base: Path | None
    changes: tuple[FileChanges, ...]


class RuleSet(NamedTuple):
    """Everything that was loaded: immutable, replaced as a whole. sources: for tools that explain it; backends: by
    name.
    """

    packs: tuple[str, ...]
    table: RouteTable
    tests: tuple[RouteTest, ...]
    examples: tuple[str, ...]
    sources: tuple[PackSource, ...] = ()
    backends: Mapping[str, BackendSource] = {}

    @property
    def askings(self) -> list[Asking]:
        """How the workers of each backend are asked."""
        return [source.asking for backend in self.backends.values() for source in backend.operations]

    @property
    def beside(self) -> list[Route]:
        """The routes that stand beside another one, for workers of other backends."""
        return [each.others for each in self.table.routes if each.others is not None]

    @property
    def names(self) -> list[tuple[str, str]]:
        """Each rule, as its pack and its name: those of clients first."""
        return [
            *((each.pack, each.name) for each in self.table.routes),
            *((each.pack, each.name) for each in self.beside),
            *((way.pack, way.name) for way in self.askings),
        ]


def load_rules(paths: Iterable[Path], functions: FunctionRegistry, *, with_tests: bool = True) -> RuleSet:
    """The rule set of these folders, each a pack or a folder of packs, or the name of a pack that comes with the
    program. A pack that another one of them extends is left out: the other stands in its place. Where they hold nothing
    but backends, the dialects that come with the program are served. with_tests: read the tests inside the files too,
    which have to stand at their ends to be left out.

    DocumentError with every mistake of all of them.
    """
    mistakes: list[Diagnostic] = []
    routes: list[Route] = []
    tests: list[RouteTest] = []
    packs: list[str] = []
    examples: list[str] = []
    sources: list[PackSource] = []
    paths = [found_pack(path) for path in paths]
    reading = Reading(mistakes, tests=with_tests)
    backends = load_backends(paths, functions, reading)
    askings = askings_of(backends.values())
    folders = [*{folder.resolve(): folder for folder in _pack_folders(paths, mistakes)}.values()]
    if not folders and not mistakes:
        folders = shipped_packs(DIALECT)
    read = [read_pack(folder, reading) for folder in folders]
    extended = {files.base.resolve() for files in read if files.base is not None}
    for files in read:
        folder = files.folder
        if folder.resolve() in extended:
            continue
        loaded = _load_pack(files, functions, askings, mistakes)
        if loaded.name in packs:
            mistakes.append(Diagnostic(str(folder / PACK_FILE), 1, 1, f"a second pack is named '{loaded.name}'"))
        packs.append(loaded.name)
        routes += loaded.routes
        tests += loaded.tests
        examples += loaded.examples
        sources += loaded.source
    mistakes += _collisions(routes)
    if mistakes:
        raise DocumentError(mistakes)
    tests += [
        _test(route, operation.document, index, test)
        for backend in backends.values()
        if backend.named
        for operation in backend.operations
        for index, (route, test) in enumerate(tests_of(operation))
    ]
    return RuleSet(tuple(packs), RouteTable(routes), tuple(tests), tuple(examples), tuple(sources), backends)


def _test(route: Route, document: Document, index: int, test: TestDoc) -> RouteTest:
    place = document.at(("tests", index), "")
    return RouteTest(route, place.file, place.line, test)


def _pack_folders(paths: Iterable[Path], mistakes: list[Diagnostic]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            mistakes.append(
                Diagnostic(
                    str(path),
                    1,
                    1,
                    "there is no such folder; expected a rule pack, a folder of packs, or one that comes with the "
                    f"program: {', '.join(folder.name for folder in shipped_packs(DIALECT))}",
                )
            )
        elif (path / PACK_FILE).is_file():
            yield path
        else:
            inner = sorted(child for child in path.iterdir() if (child / PACK_FILE).is_file())
            if not inner and not [*backend_folders(path)]:
                mistakes.append(Diagnostic(str(path), 1, 1, f"no {PACK_FILE} here or one level below"))
            yield from inner


class _Loaded(NamedTuple):
    name: str
    routes: list[Route]
    tests: list[RouteTest]
    examples: list[str]
    source: list[PackSource]


def _load_pack(files: PackFiles, functions: FunctionRegistry, askings: Askings, mistakes: list[Diagnostic]) -> _Loaded:
    read_pack = read_as(files.pack, PackDoc, mistakes)
    pack = Pack(files.folder.name, None, {}, {}, complete=False)
    if read_pack is not None:
        pack, found = compile_pack(read_pack.document, read_pack.doc, functions, complete=read_pack.complete)
        mistakes += found
    errors = _compiled_errors(files.errors, functions, mistakes)
    if pack.keys and errors is not None and "unauthorized" not in errors.entries and read_pack is not None:
        text = "keys: errors.yaml says nothing of the kind unauthorized, which is told to those without a key"
        mistakes.append(read_pack.document.at(("keys",), text))
    if errors is None:
        pack = pack._replace(complete=False)
        errors = ErrorTable({}, ErrorEntry(500, None), Constant(None), None, None)
    reads = [read for document in files.routes if (read := read_as(document, RouteDoc, mistakes)) is not None]
    complete = files.complete and len(reads) == len(files.routes)
    routes = _compiled_routes(reads, pack, errors, functions, askings, mistakes, complete=complete)
    if read_pack is not None and not mistakes:  # what is no expression cannot be read
        routes = [_named(source, read_pack.doc) for source in routes]
    routes = _joined(routes, mistakes)
    if complete:
        for each in routes:
            mistakes += spread_mistakes(each.document, each.doc.worker, each.route)
    tests = [
        _test(source.route, source.document, index, test)
        for source in routes
        for index, test in enumerate(source.doc.tests)
    ]
    sources = []
    if read_pack is not None and files.errors is not None:
        sources.append(
            PackSource(
                pack.name,
                files.folder,
                read_pack.document,
                read_pack.doc,
                files.errors,
                tuple(routes),
                files.base,
                files.changes,
            )
        )
    examples = read_pack.doc.examples if read_pack else []
    served = [source.route for source in routes if source.doc.beside is None]
    return _Loaded(pack.name, served, tests, examples, sources)


def _compiled_routes(
    reads: list[ReadDocument[RouteDoc]],
    pack: Pack,
    errors: ErrorTable,
    functions: FunctionRegistry,
    askings: Askings,
    mistakes: list[Diagnostic],
    *,
    complete: bool,
) -> list[RouteSource]:
    # A route may be like one that stands in a later file, and one that failed may be the one that is missed.
    reads = sorted(reads, key=lambda read: (read.doc.beside is not None, read.doc.like is not None))
    sources: list[RouteSource] = []
    plain: dict[str, RouteSource] = {}
    for read in reads:
        document, doc = read.document, read.doc
        base = plain.get(doc.like) if doc.like else None
        if doc.like and base is None:
            if complete:
                message = "in this pack that is not itself like another"
                mistakes.append(document.at(("like",), f"no route '{doc.like}' {message}{suggestion(doc.like, plain)}"))
            continue
        beside = next((each for each in sources if each.doc.route == doc.beside), None)
        if doc.beside and beside is None:
            if complete:
                hint = suggestion(doc.beside, [each.doc.route for each in sources])
                mistakes.append(document.at(("beside",), f"no route '{doc.beside}' in this pack{hint}"))
            continue
        compiled = compile_route(
            document,
            doc,
            pack,
            errors,
            functions,
            base and base.route,
            askings,
            beside=beside and beside.route,
            complete=read.complete,
        )
        source = RouteSource(compiled.route, document, doc, base, beside)
        if base is None:
            plain[doc.route] = source
        mistakes += compiled.mistakes
        sources.append(source)
    return sources


def _joined(sources: list[RouteSource], mistakes: list[Diagnostic]) -> list[RouteSource]:
    """The routes, each with the one that stands beside it."""
    beside: dict[str, RouteSource] = {}
    for source in sources:
        if source.doc.beside is None:
            continue
        own = next(each for each in sources if each.doc.route == source.doc.beside)
        first = beside.setdefault(source.doc.beside, source)
        problem = _unjoinable(own, source)
        if first is not source:
            problem = f"the route '{first.doc.route}' stands beside '{source.doc.beside}' already"
        if problem:
            mistakes.append(source.document.at(("beside",), problem))
    return [
        source._replace(route=replace(source.route, others=beside[source.doc.route].route))
        if source.doc.route in beside
        else source
        for source in sources
    ]


def _unjoinable(own: RouteSource, other: RouteSource) -> str:
    """Why one route cannot stand beside another; "" where it can."""
    route, name = own.route, own.doc.route
    if own.doc.beside is not None:
        return f"the route '{name}' stands beside another one itself"
    if route.backend is None or route.backends != frozenset({route.backend}):
        return f"the route '{name}' is not for the workers of one backend alone"
    kept = None if route.target is None else route.target.framing
    if kept is not (None if other.route.target is None else other.route.target.framing) or other.route.also:
        return f"it must answer as '{name}' does: with a stream of the same framing, or with one answer"
    return ""


def _named(source: RouteSource, pack: PackDoc) -> RouteSource:
    docs = [source.doc, *([source.base.doc] if source.base is not None else [])]
    shared = None if source.beside is None else source.beside.asking.doc
    named, route = named_by_route(source.route.name, pack, docs, shared), source.route
    also = tuple(replace(each, named=named) for each in route.also)
    return source._replace(route=replace(route, named=named, also=also))


def _compiled_errors(
    document: Document | None, functions: FunctionRegistry, mistakes: list[Diagnostic]
) -> ErrorTable | None:
    read = read_as(document, ErrorsDoc, mistakes)
    if read is None:
        return None
    table, found = compile_errors(read.document, read.doc, functions, complete=read.complete)
    mistakes += found
    return table


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
