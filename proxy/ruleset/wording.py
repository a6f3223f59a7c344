"""Words and header names that a rule set knows: what can be told of a request without telling what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel

from proxy.documents import Document
from proxy.expr.nodes import Node
from proxy.expr.parse import parse
from proxy.ruleset.lint import paths_read
from proxy.ruleset.loader import RuleSet
from proxy.ruleset.walking import written
from proxy.translate.operations import OPERATIONS
from proxy.types import Json

# Longer ones are sentences and expressions.
_WORD_MAX: Final = 64
# What people wrote for people, or as an example.
_NOT_RULES: Final = frozenset({"description", "tests", "examples", "accepted_losses", "message"})


def words_of(rules: RuleSet) -> set[str]:
    """Every short text that stands in the rules or in their expressions, such as roles, reasons and names of fields."""
    found = {word for operation in OPERATIONS.values() for word in (*operation.arguments, *operation.results)}
    for document, doc in _files(rules):
        sources = {each.source for each in written(doc)}
        found.update(set(_texts(document.value)) - sources)
        for source in sources:
            found.update(_literals(parse(source, max_length=len(source), max_depth=64)))
    return {word for word in found if 0 < len(word) <= _WORD_MAX}


def headers_of(rules: RuleSet) -> set[str]:
    """The headers that rules look at, in lower case."""
    found = {name.lower() for route in rules.table.routes for name in route.headers}
    for _, doc in _files(rules):
        paths = [path for each in written(doc) for path in paths_read(each.source)]
        found.update(path[1].lower() for path in paths if path[:1] == ("headers",) and len(path) > 1)
    return found


def _files(rules: RuleSet) -> Iterator[tuple[Document, BaseModel]]:
    for pack in rules.sources:
        yield pack.document, pack.doc
        yield from ((source.document, source.doc) for source in pack.routes)
    for backend in rules.backends.values():
        yield backend.document, backend.doc
        yield from ((source.document, source.doc) for source in backend.operations)


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in _NOT_RULES:
                yield name
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _literals(node: Node) -> Iterator[str]:
    if node.kind == "literal":
        yield from _texts(node.value)
    for child in node.children:
        yield from _literals(child)
