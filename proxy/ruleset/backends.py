"""Backend packs: those that come with the program, and the user's in front of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from proxy.documents import Diagnostic, Document
from proxy.expr import FunctionRegistry
from proxy.framing import FRAMINGS
from proxy.ruleset.askings import Backend, compile_asking, compile_backend
from proxy.ruleset.backend_documents import AskingDoc, BackendDoc, CallTestDoc
from proxy.ruleset.naming import named_by_asking
from proxy.ruleset.reading import ReadDocument, read_as
from proxy.ruleset.selftest_documents import ExpectDoc, GivenDoc, TestDoc
from proxy.ruleset.sources import BACKEND, BACKENDS, FileChanges, PackFiles, Reading, read_pack, shipped_packs
from proxy.translate.mapping import Fields, Read, RootRead
from proxy.translate.operations import OPERATIONS
from proxy.translate.plan import Answer, Asking, CallPlan, ErrorEntry, ErrorTable, Route, StreamTarget
from proxy.translate.probe import ProbePlan
from proxy.translate.steps import Steps


class AskingSource(NamedTuple):
    """One way of asking for an operation, with what its file says, and the places of every value of it."""

    asking: Asking
    document: Document
    doc: AskingDoc


class BackendSource(NamedTuple):
    """A backend pack with what its files say. headers: of everything that is sent to its workers; probe: how they are
    looked at, None where the program knows without rules; base: the pack that it extends; named: it is in one of the
    folders that were asked for.
    """

    name: str
    folder: Path
    document: Document
    doc: BackendDoc
    operations: tuple[AskingSource, ...]
    headers: Mapping[str, Read]
    probe: ProbePlan | None
    base: Path | None
    changes: tuple[FileChanges, ...]
    named: bool


def backend_folders(path: Path) -> Iterator[Path]:
    """The backend packs at this path: itself, one level below, or in its folder `backends`."""
    if (path / BACKEND.head).is_file():
        yield path
    elif path.is_dir():
        for home in (path, path / BACKENDS):
            if home.is_dir():
                yield from sorted(child for child in home.iterdir() if (child / BACKEND.head).is_file())


def load_backends(paths: Iterable[Path], functions: FunctionRegistry, reading: Reading) -> dict[str, BackendSource]:
    """Every backend by its name: those that come with the program, and those at `paths`, which take the place of a
    shipped one of the same name.
    """
    shipped = {folder.resolve(): folder for folder in shipped_packs(BACKEND)}
    own = {folder.resolve(): folder for path in paths for folder in backend_folders(path)}
    mistakes = reading.mistakes
    read = [read_pack(folder, reading, BACKEND) for folder in {**shipped, **own}.values()]
    extended = {files.base.resolve() for files in read if files.base is not None}
    backends: dict[str, BackendSource] = {}
    for files in read:
        if files.folder.resolve() in extended:
            continue
        source = _load(files, functions, mistakes, named=files.folder.resolve() in own)
        if source is None:
            continue
        before = backends.get(source.name)
        if before is not None and before.folder.resolve() not in shipped:
            mistakes.append(source.document.at(("backend",), f"a second backend is named '{source.name}'"))
        backends[source.name] = source
    return backends


def askings_of(backends: Iterable[BackendSource]) -> dict[str, dict[str, tuple[Asking, ...]]]:
    """How each operation is asked, by its name and that of the backend; ways with a condition first."""
    found: dict[str, dict[str, tuple[Asking, ...]]] = {}
    for backend in backends:
        ways = sorted((source.asking for source in backend.operations), key=lambda way: way.condition is None)
        for way in ways:
            of_operation = found.setdefault(way.operation, {})
            of_operation[backend.name] = (*of_operation.get(backend.name, ()), way)
    return found


def _load(
    files: PackFiles, functions: FunctionRegistry, mistakes: list[Diagnostic], *, named: bool
) -> BackendSource | None:
    head = read_as(files.pack, BackendDoc, mistakes)
    parts = [part for document in files.routes if (part := read_as(document, AskingDoc, mistakes)) is not None]
    if head is None:
        return None
    backend, probe, found = compile_backend(head.document, head.doc, functions, complete=head.complete)
    mistakes += found
    sources = [_compiled(part, head.doc, backend, functions, mistakes) for part in parts]
    mistakes += _repeated(sources)
    return BackendSource(
        backend.name,
        files.folder,
        head.document,
        head.doc,
        tuple(sources),
        backend.headers,
        probe,
        files.base,
        files.changes,
        named,
    )


def _compiled(
    part: ReadDocument[AskingDoc],
    head: BackendDoc,
    backend: Backend,
    functions: FunctionRegistry,
    mistakes: list[Diagnostic],
) -> AskingSource:
    asking, found = compile_asking(part.document, part.doc, backend, functions, complete=part.complete)
    mistakes += found
    if not mistakes:  # what is no expression cannot be read
        asking = replace(asking, named=named_by_asking(part.doc, head))
    return AskingSource(asking, part.document, part.doc)


def _repeated(sources: list[AskingSource]) -> Iterator[Diagnostic]:
    """Two files of one name, and two that are always meant for one operation."""
    names: dict[str, Asking] = {}
    always: dict[str, Asking] = {}
    for source in sources:
        asking = source.asking
        first = names.setdefault(asking.name, asking)
        if first is not asking:
            yield source.document.at(("name",), f"a second operation is named '{asking.name}'; first at {first.place}")
        if asking.condition is None:
            first = always.setdefault(asking.operation, asking)
            if first is not asking:
                message = f"'{first.name}' at {first.place} is asked for every {asking.operation} already; give when"
                yield source.document.at(("operation",), message)


# --- the tests inside the files


def tests_of(source: AskingSource) -> Iterator[tuple[Route, TestDoc]]:
    """Each test of an operation as a test of a route whose client says the call, and gets the results as they are."""
    route = _plain_route(source.asking)
    for test in source.doc.tests:
        yield route, _as_route_test(test)


def _plain_route(asking: Asking) -> Route:
    results = Fields([(name, RootRead(name)) for name in OPERATIONS[asking.operation].results])
    refused = ErrorTable({}, ErrorEntry(500, None), RootRead("error"), RootRead("error"), 200)
    plain = Route(
        name=asking.name,
        pack=asking.backend,
        place=asking.place,
        methods=("POST",),
        path="/",
        headers={},
        condition=None,
        selection="lease",
        kind=None,
        model=None,
        steps=Steps(),
        errors=refused,
        upstream=asking.upstream,
        source=asking.source,
        target=None if asking.source is None else StreamTarget(FRAMINGS["ndjson"], "cumulative", 0, results),
        answer=Answer(200, {}, results) if asking.source is None else None,
        sample=asking.sample,
        backend=asking.backend,
        call=CallPlan(asking.operation, RootRead("body")),
        asking=asking,
    )
    return Route(**{**vars(plain), "variants": {asking.backend: (plain,)}})


def _as_route_test(test: CallTestDoc) -> TestDoc:
    # What was checked as the one is not checked again as the other.
    given = {name: getattr(test.given, name) for name in test.given.model_fields_set}
    expect = {name: getattr(test.expect, name) for name in test.expect.model_fields_set}
    given["request"] = given.pop("call")
    if "result" in expect:
        expect["answer"] = expect.pop("result")
    return TestDoc.model_construct(
        name=test.name, given=GivenDoc.model_construct(**given), expect=ExpectDoc.model_construct(**expect)
    )
