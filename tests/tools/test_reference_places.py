"""What the reference says of the names that expressions can read is what the compiler allows."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from pathlib import Path

import pytest

from proxy.backends.functions import rule_functions
from proxy.documents import DocumentError
from proxy.documents.yaml import Path as DocumentPath
from proxy.expr import Expression
from proxy.ruleset import load_rules, shipped_rules
from proxy.ruleset.expressions import Workshop
from proxy.ruleset.vocabulary import NAMES
from proxy.tools.reference.rules import PLACES
from proxy.translate.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
PACKS = [
    shipped_rules(),
    *sorted((GOLDEN / "review" / "packs").iterdir()),
    *(GOLDEN / "diagnostics" / "packs" / name for name in ("calls", "resuming", "expressions", "error-table", "trace")),
    GOLDEN / "failing" / "packs" / "differences",
]
RESULTS = [frozenset(operation.results) for operation in OPERATIONS.values()]

Allowed = dict[str, set[frozenset[str]]]


def names_of(label: str) -> list[str]:
    """`probe.status: query, body with x` stands for probe.status.query and probe.status.body."""
    inside, _, rest = label.partition(" with ")[0].rpartition(": ")
    return [f"{inside}.{name}" if inside else name for name in rest.split(", ")]


def said(pack: str) -> Allowed:
    """Each place of the table with the sets of names that may be read there."""
    found: Allowed = defaultdict(set)
    for label, names in PLACES[pack].items():
        plain = frozenset(names & NAMES.keys())
        for place in names_of(label.replace("[]", "")):
            found[place] |= {plain} if plain == names else {plain | results for results in RESULTS}
    return found


def place_of(path: DocumentPath, document: object, table: Allowed) -> str:
    """The longest place of the table that the path begins with."""
    parts = [part for part in path if isinstance(part, str)]
    if isinstance(document, dict) and "kinds" in document:
        return "errors.yaml"
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in table:
            return ".".join(parts[:length])
    return ".".join(parts)


@pytest.fixture(scope="module")
def compiled() -> list[tuple[str, str, frozenset[str]]]:
    """Pack, place and names of every expression that the compiler looked at."""
    found: list[tuple[str, str, frozenset[str]]] = []
    original = Workshop.expression
    tables = {pack: said(pack) for pack in PLACES}

    def noting(shop: Workshop, source: str, path: DocumentPath, roots: frozenset[str]) -> Expression | None:
        document = shop.document.value
        is_backend = isinstance(document, dict) and not {"probe", "headers", "operation"}.isdisjoint(document)
        is_backend = is_backend and isinstance(document, dict) and "route" not in document
        pack = "A backend pack" if is_backend or path[:1] == ("refusal",) else "A dialect pack"
        found.append((pack, place_of(path, document, tables[pack]), roots - {"item", "index"}))
        return original(shop, source, path, roots)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workshop, "expression", noting)
        for folder in PACKS:
            with contextlib.suppress(DocumentError):
                load_rules([folder], rule_functions())
    return found


def test_what_is_said_is_so(compiled: list[tuple[str, str, frozenset[str]]]) -> None:
    """At each place just the names that the table has for it."""
    tables = {pack: said(pack) for pack in PLACES}
    wrong = {
        f"{pack}: {place}: {sorted(roots)}"
        for pack, place, roots in compiled
        if roots not in tables[pack].get(place, set())
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_nothing_else_is_said(compiled: list[tuple[str, str, frozenset[str]]]) -> None:
    """Each place is one at which some pack has an expression."""
    seen = {(pack, place) for pack, place, _ in compiled}
    places = {
        (pack, name) for pack, table in PLACES.items() for label in table for name in names_of(label.replace("[]", ""))
    }
    assert places - seen == set()


def test_every_name_is_explained() -> None:
    """A name that can be read is one that a person can look up."""
    names = {name for table in PLACES.values() for found in table.values() for name in found}
    assert names - NAMES.keys() == {"results of the operation"}
    assert {name for results in RESULTS for name in results} <= NAMES.keys()
