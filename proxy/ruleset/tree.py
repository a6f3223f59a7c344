"""A document as a tree in which every value carries its place, so that parts of several files can be put together."""

from __future__ import annotations

from typing import NamedTuple

from proxy.documents import Diagnostic, Document
from proxy.documents.nodes import Place
from proxy.documents.yaml import Path
from proxy.types import Json


class Spot(NamedTuple):
    """A place in a file."""

    file: str
    line: int
    column: int


class Tree(NamedTuple):
    """One value. value: a scalar, or what is inside; key: the place of its key, if it has one, in the same file."""

    value: bool | int | float | str | list[Tree] | dict[str, Tree] | None
    place: Spot
    key: Spot | None = None

    def plain(self) -> Json:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def at(self, message: str) -> Diagnostic:
        """A diagnostic at the key of this value, or at the value where it has none."""
        return Diagnostic(*(self.key or self.place), message)


def tree_of(document: Document) -> Tree:
    """The whole document."""

    def grow(value: Json, path: Path) -> Tree:
        inner: bool | int | float | str | list[Tree] | dict[str, Tree] | None
        if isinstance(value, dict):
            inner = {name: grow(child, (*path, name)) for name, child in value.items()}
        elif isinstance(value, list):
            inner = [grow(child, (*path, index)) for index, child in enumerate(value)]
        else:
            inner = value
        file = document.files.get(path, document.file)
        key = document.keys.get(path)
        place = document.places.get(path, Place(1, 1))
        return Tree(inner, Spot(file, *place), None if key is None else Spot(file, *key))

    return grow(document.value, ())


def document_of(tree: Tree, file: str) -> Document:
    """The document that this tree is, as if it stood in `file`; its values keep their own files."""
    places: dict[Path, Place] = {}
    keys: dict[Path, Place] = {}
    files: dict[Path, str] = {}

    def note(node: Tree, path: Path) -> None:
        places[path] = Place(node.place.line, node.place.column)
        files[path] = node.place.file
        if node.key is not None and path:
            keys[path] = Place(node.key.line, node.key.column)
        if isinstance(node.value, dict):
            for name, child in node.value.items():
                note(child, (*path, name))
        elif isinstance(node.value, list):
            for index, child in enumerate(node.value):
                note(child, (*path, index))

    note(tree, ())
    return Document(file, tree.plain(), places, keys, files=files)
