from __future__ import annotations

from pathlib import Path

import pytest

from proxy.backends.functions import rule_functions
from proxy.documents.yaml import Path as DocumentPath
from proxy.expr import Expression
from proxy.ruleset import load_rules, shipped_rules
from proxy.ruleset.expressions import Workshop
from proxy.ruleset.pack_documents import ErrorsDoc
from proxy.ruleset.walking import written

ROOT = Path(__file__).parents[2]
PACKS = [
    shipped_rules(),
    *sorted((ROOT / "tests/golden/review/packs").iterdir()),
]


@pytest.mark.parametrize("folder", PACKS, ids=lambda folder: folder.name)
def test_every_expression_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiler compiles, and nothing else, is what a closer look at the rules sees."""
    compiled: list[str] = []
    original = Workshop.expression

    def noting(shop: Workshop, source: str, path: DocumentPath, roots: frozenset[str]) -> Expression | None:
        if not shop.absent:  # a shorter form of one that is compiled as it stands
            compiled.append(source)
        return original(shop, source, path, roots)

    monkeypatch.setattr(Workshop, "expression", noting)
    rules = load_rules([folder], rule_functions())
    found = []
    for pack in rules.sources:
        docs = [pack.doc, ErrorsDoc.model_validate(pack.errors.value), *(source.doc for source in pack.routes)]
        found += [each.source for doc in docs for each in written(doc)]
    for backend in rules.backends.values():
        docs = [backend.doc, *(source.doc for source in backend.operations)]
        found += [each.source for doc in docs for each in written(doc)]
    assert sorted(found) == sorted(compiled)
    assert found
