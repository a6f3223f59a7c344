"""A document as a tree in which every value carries its place, so that parts of several files can be put together."""

from __future__ import annotations

from typing import NamedTuple

from proxy.documents import Diagnostic, Document
from proxy.documents.yaml import Path, Place
from proxy.types import Json


class Tree(NamedTuple):
    """One value. value: a scalar, or what is inside; place: with its file; key: the place of its key, if it has one."""

    value: bool | int | float | str | list[Tree] | dict[str, Tree] | None
    place: Place
    key: Place | None = None

    def plain(self) -> Json:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def at(self, message: str) -> Diagnostic:
        """A diagnostic at the key of this value, or at the value where it has none."""
        place = self.key or self.place
        return Diagnostic(place.file, place.line, place.column, message)


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
        key = document.keys.get(path)
        return Tree(inner, _in_file(document, document.places.get(path, Place(1, 1))), key and _in_file(document, key))

    return grow(document.value, ())


def document_of(tree: Tree, file: str) -> Document:
    """The document that this tree is; its places keep their files."""
    places: dict[Path, Place] = {}
    keys: dict[Path, Place] = {}

    def note(node: Tree, path: Path) -> None:
        places[path] = node.place
        if node.key is not None and path:
            keys[path] = node.key
        if isinstance(node.value, dict):
            for name, child in node.value.items():
                note(child, (*path, name))
        elif isinstance(node.value, list):
            for index, child in enumerate(node.value):
                note(child, (*path, index))

    note(tree, ())
    return Document(file, tree.plain(), places, keys)


def _in_file(document: Document, place: Place) -> Place:
    return place if place.file else place._replace(file=document.file)
