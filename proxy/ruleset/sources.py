"""The files of rule packs: the one place that opens them, and puts a pack that extends another one over it."""

from __future__ import annotations

import errno
import fnmatch
import itertools
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from proxy.documents import Diagnostic, Document, DocumentError, read_text, read_yaml, suggestion
from proxy.limits import (
    EXTENDS_MAX,
    PACK_MAX_DEPTH,
    PACK_MAX_ENTRIES,
    PACK_MAX_FILES,
    RULES_MAX_BYTES,
    YAML_MAX_BYTES,
)
from proxy.ruleset.backend_documents import AskingDoc, BackendDoc
from proxy.ruleset.documents import RouteDoc
from proxy.ruleset.extending import EXTENDS, Change, Extension
from proxy.ruleset.pack_documents import ErrorsDoc, PackDoc
from proxy.ruleset.tree import Tree, document_of, tree_of
from proxy.types import Json

PACK_FILE = "pack.yaml"
ERRORS_FILE = "errors.yaml"
BACKEND_FILE = "backend.yaml"
BACKENDS = "backends"
REMOVE_ROUTES = "remove_routes"
LOSSES = "accepted_losses"


class Layout(NamedTuple):
    """The files of one kind of pack. head: the one that all of it shares; errors: whether there is an error table; key:
    what names each further file; what: that, for people; home: where those that come with the program are.
    """

    head: str
    head_model: type[BaseModel]
    part_model: type[BaseModel]
    key: str
    what: str
    home: str
    errors: bool = False


DIALECT = Layout(PACK_FILE, PackDoc, RouteDoc, "route", "route", "", errors=True)
BACKEND = Layout(BACKEND_FILE, BackendDoc, AskingDoc, "name", "operation", BACKENDS)


class FileChanges(NamedTuple):
    """What one file changes in a pack that it extends. part: a route's name, or `pack.yaml` or `errors.yaml`; base: the
    file that is changed; changes is empty where the file says nothing new, None where it takes the route away.
    """

    part: str
    file: str
    base: str
    changes: tuple[Change, ...] | None


class PackFiles(NamedTuple):
    """A pack's files as they are after `extends`. complete: each was readable, so that an absence means something.
    base: the folder of the pack that this one extends.
    """

    folder: Path
    pack: Document | None
    errors: Document | None
    routes: tuple[Document, ...]
    complete: bool
    base: Path | None = None
    changes: tuple[FileChanges, ...] = ()


def shipped_rules() -> Path:
    """The folder of the rule packs that come with the program: inside an installed package or beside it."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "rule_packs"
    return installed if installed.is_dir() else package.parent / "rules"


def shipped_packs(layout: Layout) -> list[Path]:
    """The folders of the packs of this kind that come with the program, by name."""
    home = shipped_rules() / layout.home
    return sorted(child for child in home.iterdir() if (child / layout.head).is_file()) if home.is_dir() else []


def found_pack(path: Path) -> Path:
    """The folder that is meant: this one, or else the pack of this name that comes with the program, the name of a
    backend pack with `backends/` before it.
    """
    if path.exists():
        return path
    shipped = {Path(each.home, folder.name): folder for each in (DIALECT, BACKEND) for folder in shipped_packs(each)}
    return shipped.get(path, path)


def without_tests(text: str) -> str:
    """A rule file without the tests at its end, which are half of it."""
    place = text.find("\ntests:\n")
    return text if place < 0 else text[: place + 1]


class Reading:
    """Reading of rule files, where their mistakes are noted, as long as they are not too much together.

    tests: whether the tests inside them are wanted; without them what follows them in a file is not read either.
    """

    def __init__(self, mistakes: list[Diagnostic], *, tests: bool = True) -> None:
        self.mistakes = mistakes
        self._tests = tests
        self._left = RULES_MAX_BYTES

    def read(self, file: Path) -> Document | None:
        """The document in a file; None after noting why there is none."""
        if self._left < 0:
            return None
        try:
            text = read_text(file, YAML_MAX_BYTES)
            self._left -= len(text)
            if self._left >= 0:
                return read_yaml(text if self._tests else without_tests(text), str(file))
            self._note(file, f"the rule files up to here are over the limit of {RULES_MAX_BYTES} bytes together")
        except DocumentError as error:
            self.mistakes += error.diagnostics
        except UnicodeDecodeError as error:
            self._note(file, f"not UTF-8 text: {error.reason} at byte {error.start}")
        except OSError as error:
            self._note(file, str(error.strerror) if error.errno == errno.EFBIG else f"cannot be read: {error.strerror}")
        return None

    def _note(self, file: Path, message: str) -> None:
        self.mistakes.append(Diagnostic(str(file), 1, 1, message))


def read_pack(folder: Path, reading: Reading, layout: Layout = DIALECT, chain: tuple[Path, ...] = ()) -> PackFiles:
    """The pack in this folder. `chain` has the folders of the packs that extend it."""
    mistakes = reading.mistakes
    pack = reading.read(folder / layout.head)
    extends = _value(pack, EXTENDS) if pack is not None else None
    files = _rule_files(folder, mistakes, layout, may_be_none=extends is not None)
    routes = [document for file in files if (document := reading.read(file)) is not None]
    errors_file = folder / ERRORS_FILE
    errors = reading.read(errors_file) if layout.errors and (extends is None or errors_file.exists()) else None
    if pack is None or extends is None:
        routes = _without_stray_extensions(routes, mistakes, layout)
        return PackFiles(folder, pack, errors, tuple(routes), complete=len(routes) == len(files))
    base = _base_of(folder, pack, extends, chain, reading, layout)
    if base is None:
        return PackFiles(folder, None, errors, (), complete=False)
    own = PackFiles(folder, pack, errors, tuple(routes), complete=len(routes) == len(files))
    return _Extending(own, base, mistakes, layout).result()


def _base_of(
    folder: Path,
    pack: Document,
    extends: object,
    chain: tuple[Path, ...],
    reading: Reading,
    layout: Layout,
) -> PackFiles | None:
    shipped = [child.name for child in shipped_packs(layout)]
    problem = None
    base = folder
    if not isinstance(extends, str):
        problem = "extends: expected the name of a pack that comes with the program, or a path that begins with ."
    elif extends.startswith(("./", "../", "/")):
        base = Path(os.path.normpath(folder / extends))
        if not (base / layout.head).is_file():
            problem = f"extends: there is no {layout.head} in {base}"
    elif extends not in shipped:
        problem = f"extends: no pack '{extends}' comes with the program{suggestion(extends, shipped)}"
    else:
        base = shipped_rules() / layout.home / extends
    chain = (*chain, folder.resolve())
    own, other = folder.resolve(), base.resolve()
    if problem is None and other in chain:
        problem = "extends: this pack would extend itself"
    if problem is None and (own in other.parents or other in own.parents):
        problem = f"extends: {base} and this folder are one inside the other; put them side by side"
    if problem is None and len(chain) > EXTENDS_MAX:
        problem = f"extends: more than {EXTENDS_MAX} packs extend each other"
    if problem is not None:
        reading.mistakes.append(pack.at((EXTENDS,), problem))
        return None
    return read_pack(base, reading, layout, chain)


class _Extending:
    """One pack put over its base."""

    def __init__(self, own: PackFiles, base: PackFiles, mistakes: list[Diagnostic], layout: Layout) -> None:
        self._own, self._base, self._mistakes, self._layout = own, base, mistakes, layout
        self._there = {name: route for route in base.routes if (name := self._name(route)) is not None}
        self._changes: list[FileChanges] = []

    def result(self) -> PackFiles:
        own, base = self._own, self._base
        removed = self._removed_routes()
        head = self._layout.head
        pack = own.pack and base.pack and self._put(own.pack, base.pack, self._layout.head_model, head, removed)
        errors = base.errors
        if own.errors is not None:
            errors = own.errors if errors is None else self._put(own.errors, errors, ErrorsDoc, ERRORS_FILE)
        routes = self._routes(removed)
        complete = own.complete and base.complete
        return PackFiles(own.folder, pack, errors, routes, complete, base.folder, tuple(self._changes))

    def _name(self, document: Document) -> str | None:
        name = _value(document, self._layout.key)
        return name if isinstance(name, str) else None

    def _put(
        self, own: Document, base: Document, model: type[BaseModel], part: str, removed: Collection[str] = ()
    ) -> Document:
        extension = Extension(model)
        patch = tree_of(own)
        if part == self._layout.head and isinstance(patch.value, dict):
            patch = patch._replace(value={name: each for name, each in patch.value.items() if name != REMOVE_ROUTES})
        tree = extension.apply(_without_losses(tree_of(base), removed), patch)
        if model is self._layout.part_model:
            tree = _placed_as_extension(tree, patch, self._layout.key)
        self._mistakes += extension.mistakes
        self._changes.append(FileChanges(part, own.file, base.file, tuple(extension.changes)))
        return document_of(tree, own.file)._replace(mistakes=(*own.mistakes, *base.mistakes))

    def _routes(self, removed: set[str]) -> tuple[Document, ...]:
        there, layout, what = self._there, self._layout, self._layout.what
        changed: dict[str, Document] = {}
        new: list[Document] = []
        for document in self._own.routes:
            extends = _value(document, EXTENDS)
            if extends is None:
                new.append(document)
            elif not isinstance(extends, str):
                self._mistakes.append(document.at((EXTENDS,), f"extends: expected the name of a {what}"))
            elif extends not in there:
                message = f"no {what} '{extends}' in the pack that is extended{suggestion(extends, there)}"
                self._mistakes.append(document.at((EXTENDS,), message))
            elif extends in removed:
                message = f"the {what} '{extends}' is in {REMOVE_ROUTES} of {layout.head}"
                self._mistakes.append(document.at((EXTENDS,), message))
            elif extends in changed:
                message = f"a second file extends '{extends}'; first {changed[extends].file}"
                self._mistakes.append(document.at((EXTENDS,), message))
            elif self._name(document) not in {None, extends}:
                message = f"a {what} keeps its name when it is extended; leave {layout.key} out, or write '{extends}'"
                self._mistakes.append(document.at((layout.key,), message))
            else:
                changed[extends] = self._put(document, there[extends], layout.part_model, extends)
        kept = [route for route in self._base.routes if self._name(route) not in removed]
        return (*(changed.get(self._name(route) or "", route) for route in kept), *new)

    def _removed_routes(self) -> set[str]:
        pack, there, what = self._own.pack, self._there, self._layout.what
        if pack is None:
            return set()
        listed = _value(pack, REMOVE_ROUTES, [])
        if not isinstance(listed, list):
            self._mistakes.append(pack.at((REMOVE_ROUTES,), f"{REMOVE_ROUTES}: expected a list of {what}s' names"))
            return set()
        removed: set[str] = set()
        for index, listed_name in enumerate(listed):
            name = str(listed_name)
            if name not in there:
                message = f"no {what} '{name}' in the pack that is extended{suggestion(name, there)}"
                self._mistakes.append(pack.at((REMOVE_ROUTES, index), message))
            else:
                removed.add(name)
                self._changes.append(FileChanges(name, pack.file, there[name].file, None))
        return removed


def _without_losses(head: Tree, removed: Collection[str]) -> Tree:
    """What all routes share, without what is accepted to be lost in routes that are gone."""
    losses = head.value.get(LOSSES) if isinstance(head.value, dict) else None
    if not removed or losses is None or not isinstance(losses.value, dict) or not isinstance(head.value, dict):
        return head
    kept = {key: each for key, each in losses.value.items() if key.partition(".")[0] not in removed}
    return head._replace(value={**head.value, LOSSES: losses._replace(value=kept)})


def _placed_as_extension(tree: Tree, patch: Tree, key: str) -> Tree:
    """What concerns the rule as a whole is told at the line that says what it extends."""
    if not isinstance(tree.value, dict) or not isinstance(patch.value, dict) or key not in tree.value:
        return tree
    name = tree.value[key]._replace(key=patch.value[EXTENDS].key, place=patch.value[EXTENDS].place)
    return tree._replace(value={**tree.value, key: name})


def _value(document: Document, key: str, default: Json = None) -> Json:
    """The value of a key; `default` where there is no such key, or the document is no mapping."""
    return document.value.get(key, default) if isinstance(document.value, dict) else default


def _without_stray_extensions(routes: list[Document], mistakes: list[Diagnostic], layout: Layout) -> list[Document]:
    left: list[Document] = []
    for document in routes:
        if isinstance(document.value, dict) and EXTENDS in document.value:
            message = (
                f"extends: {layout.head} of this folder must say with its own extends which pack has the {layout.what}"
            )
            mistakes.append(document.at((EXTENDS,), message, key=True))
        else:
            left.append(document)
    return left


def _rule_files(folder: Path, mistakes: list[Diagnostic], layout: Layout, *, may_be_none: bool) -> list[Path]:
    """The further files of a pack; hidden ones are editors' own."""
    found = sorted(_named_as_rules(folder, mistakes))
    mistakes += [
        Diagnostic(str(path), 1, 1, "the name of a rule file ends with .yaml")
        for path in found
        if path.suffix == ".yml"
    ]
    files = [path for path in found if path.suffix == ".yaml" and path.name not in {layout.head, ERRORS_FILE}]
    if len(files) > PACK_MAX_FILES:
        mistakes.append(Diagnostic(str(folder), 1, 1, f"{len(files)} files in one pack; the limit is {PACK_MAX_FILES}"))
        return []
    if not files and not may_be_none:
        mistakes.append(Diagnostic(str(folder), 1, 1, f"the pack has no {layout.what}s"))
    return files


def _named_as_rules(folder: Path, mistakes: list[Diagnostic]) -> list[Path]:
    """What has the name of a rule file in this folder and those in it; links to folders are not followed."""
    found: list[Path] = []
    waiting = [(folder, 1)]
    left = PACK_MAX_ENTRIES
    while waiting:
        here, depth = waiting.pop()
        with os.scandir(here) as entries:
            for entry in itertools.islice(entries, left + 1):
                left -= 1
                if entry.name.startswith("."):
                    continue
                if fnmatch.fnmatch(entry.name, "*.y*ml"):
                    found.append(here / entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((here / entry.name, depth + 1))
        problem = f"more than {PACK_MAX_ENTRIES:,} files in one pack" if left < 0 else None
        if problem is None and depth == PACK_MAX_DEPTH and waiting and waiting[-1][1] > depth:
            problem = f"folders in a pack are nested more than {PACK_MAX_DEPTH} deep"
        if problem is not None:
            mistakes.append(Diagnostic(str(here), 1, 1, problem))
            return []
    return found
