"""`probe` of a backend pack to the plan of `proxy.translate.probe`."""

from __future__ import annotations

from typing import Final

from proxy.documents.yaml import Path
from proxy.ruleset.expressions import Workshop
from proxy.ruleset.probe_documents import ModelProbeDoc, ProbeCallDoc, ProbeDoc, StatusProbeDoc
from proxy.translate.mapping import Constant
from proxy.translate.probe import ModelProbe, ProbeCall, ProbePlan, ProbeProblem, StatusProbe

# What expressions may read, by where they stand.
_STATUS_SENT: Final = frozenset({"models"})
_STATUS: Final = frozenset({"answer", "models"})
_MODEL_SENT: Final = frozenset({"model"})
_MODEL: Final = frozenset({"answer", "model"})
_WHEN: Final = frozenset({"kinds", "model"})


def compile_probe(shop: Workshop, doc: ProbeDoc, path: Path) -> ProbePlan:
    """The probe that stands at `path` of the shop's document; mistakes are noted there."""
    kinds = doc.kinds
    usual = Constant([*kinds]) if isinstance(kinds, list) else shop.read(kinds, (*path, "kinds"), _MODEL_SENT)
    plan = ProbePlan(
        status=_status(shop, doc.status, (*path, "status")),
        model=None if doc.model is None else _model(shop, doc.model, (*path, "model")),
        usual_kinds=usual,
        context_length=doc.context_length,
        limit=doc.limit,
    )
    try:
        plan.usual("a model")
    except ProbeProblem as problem:
        shop.mistake((*path, "kinds"), f"for a model named 'a model': {problem}")
    return plan


def _status(shop: Workshop, doc: StatusProbeDoc, path: Path) -> StatusProbe:
    return StatusProbe(
        call=_call(shop, doc, path, _STATUS_SENT),
        models=shop.optional(doc.models, (*path, "models"), _STATUS),
        queue_length=shop.optional(doc.queue_length, (*path, "queue_length"), _STATUS),
    )


def _model(shop: Workshop, doc: ModelProbeDoc, path: Path) -> ModelProbe:
    return ModelProbe(
        call=_call(shop, doc, path, _MODEL_SENT),
        when=shop.optional(doc.when, (*path, "when"), _WHEN),
        kinds=shop.optional(doc.kinds, (*path, "kinds"), _MODEL),
        context_length=shop.optional(doc.context_length, (*path, "context_length"), _MODEL),
        embedding_size=shop.optional(doc.embedding_size, (*path, "embedding_size"), _MODEL),
    )


def _call(shop: Workshop, doc: ProbeCallDoc, path: Path, roots: frozenset[str]) -> ProbeCall:
    if not doc.path.startswith("/"):
        shop.mistake((*path, "path"), f"a path starts with '/', got '{doc.path}'")
    body = None if doc.body is None else shop.value(doc.body, (*path, "body"), roots)
    query = {name: shop.read(source, (*path, "query", name), roots) for name, source in doc.query.items()}
    return ProbeCall(doc.method, doc.path, query, body)
