from __future__ import annotations

import pytest

from proxy.backends.functions import rule_functions
from proxy.documents import DocumentError, validate
from proxy.documents.yaml import parse_yaml
from proxy.fleet.facts import KINDS
from proxy.ruleset.expressions import Workshop
from proxy.ruleset.probe_documents import ProbeDoc
from proxy.ruleset.probes import compile_probe
from proxy.translate.probe import MODEL_KINDS, ModelKind, ProbePlan, ProbeProblem, Said, Status
from proxy.types import Json

FUNCTIONS = rule_functions()
LLM: frozenset[ModelKind] = frozenset({"llm"})
VECTORS: frozenset[ModelKind] = frozenset({"text2vec"})


def compiled(text: str) -> tuple[ProbePlan, list[str]]:
    document = parse_yaml(text, "backend.yaml")
    doc = validate(document, ProbeDoc)
    shop = Workshop(document, FUNCTIONS)
    plan = compile_probe(shop, doc, ())
    return plan, [f"{found.line}:{found.column}: {found.message}" for found in shop.mistakes]


def probe(text: str) -> ProbePlan:
    plan, mistakes = compiled(text)
    assert mistakes == []
    return plan


def test_a_list_of_models_with_what_it_says_of_them() -> None:
    """Names alone, or objects with what else the list tells; each name once, in the worker's order."""
    plan = probe("status: {path: /v1/models, models: 'answer.data[].{name: id, context_length: max_model_len}'}")
    answer: Json = {"data": [{"id": "b", "max_model_len": 4096}, {"id": "a"}, {"id": "b"}]}
    assert plan.status.asked({}) == ({}, None)
    assert plan.status.read(answer, {}) == Status({"b": Said(None, 4096), "a": Said()}, 0)
    names = probe("status: {path: /tags, models: 'answer.models[].name', queue_length: answer.waiting}").status
    assert names.read({"models": [{"name": "x"}], "waiting": 3}, {}) == Status({"x": Said()}, 3)


def test_a_status_that_names_no_models() -> None:
    """What only the settings know may be asked about."""
    plan = probe("status: {method: POST, path: /metadata, body: {fields: {model: 'models[0].name'}}}")
    assert plan.status.asked({"m": None, "n": None}) == ({}, {"model": "m"})
    assert plan.status.read({"any": "thing"}, {"m": None}) == Status(None, 0)
    plan = probe("status: {path: /about, query: {model: 'models[0].name', kind: 'models[0].kinds[0]', n: '`1`'}}")
    assert plan.status.asked({"m": VECTORS}) == ({"model": "m", "kind": "text2vec", "n": "1"}, None)
    assert plan.status.asked({"m": None}) == ({"model": "m", "n": "1"}, None)


def test_what_a_worker_says_of_one_model() -> None:
    """Null means that nothing is said; a kind may stand alone."""
    plan = probe(
        "status: {path: /tags}\n"
        "model:\n"
        "  method: POST\n"
        "  path: /show\n"
        "  body: {fields: {name: model}}\n"
        "  kinds: answer.can\n"
        "  context_length: answer.length\n"
        "  embedding_size: answer.size\n"
    ).model
    assert plan is not None
    assert plan.asked("m") == ({}, {"name": "m"})
    assert plan.is_for("m", VECTORS)
    assert plan.read("m", {"can": "llm", "length": 8192.0}) == Said(LLM, 8192)
    assert plan.read("m", {"can": ["text2vec", "llm"], "size": 3}) == Said(LLM | VECTORS, None, 3)
    assert plan.read("m", {}) == Said()


def test_a_question_about_some_models_only() -> None:
    """Where a worker can tell of one kind and not of another."""
    plan = probe(
        "status: {path: /x}\nmodel: {path: /show, when: \"contains(kinds, 'llm')\", kinds: answer.kinds}"
    ).model
    assert plan is not None
    assert (plan.is_for("m", LLM), plan.is_for("m", VECTORS)) == (True, False)
    with pytest.raises(ProbeProblem, match="when: "):
        plan.is_for("m", None)


def test_what_holds_where_nobody_says() -> None:
    """Kinds as a list or from the name; what is said beats it, value by value."""
    plan = probe(
        "status: {path: /tags}\n"
        "kinds: \"contains(model, 'embed') && 'text2vec' || 'llm'\"\n"
        "context_length: 2048\n"
        "limit: 8\n"
    )
    assert plan.limit == 8
    assert plan.usual("nomic-embed") == Said(VECTORS, 2048)
    assert Said(None, 4096).over(plan.usual("m")) == Said(LLM, 4096)
    assert probe("status: {path: /x}").usual("m") == Said(LLM)
    assert probe("status: {path: /x}\nkinds: [llm, text2vec]").usual("m") == Said(LLM | VECTORS)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({}, "models: expected an array, got null"),
        ({"models": "m"}, "models: expected an array, got 'm'"),
        ({"models": [1]}, "models: expected names, or objects with a name, got 1"),
        ({"models": [{"name": ""}]}, "models: expected names, or objects with a name, got an object"),
        ({"models": [{"name": "m", "kinds": "image"}]}, "kinds: expected some of llm, text2vec, got 'image'"),
        ({"models": [{"name": "m", "context_length": 0}]}, "context_length: expected a whole number from 1, got 0"),
        ({"models": [], "waiting": 1.5}, "queue_length: expected a whole number from 0, got 1.5"),
        ({"models": [], "waiting": True}, "queue_length: expected a whole number from 0, got true"),
    ],
)
def test_answers_that_do_not_fit(answer: Json, sentence: str) -> None:
    """What was expected and what came, whatever a program answers."""
    plan = probe("status: {path: /tags, models: answer.models, queue_length: answer.waiting}")
    with pytest.raises(ProbeProblem) as caught:
        plan.status.read(answer, {})
    assert str(caught.value) == sentence


def test_an_expression_that_fails_is_told() -> None:
    """A function that cannot take what came is a mistake of the answer, and no fault."""
    plan = probe("status: {path: /tags, models: keys(answer.models)}")
    with pytest.raises(ProbeProblem, match="models: "):
        plan.status.read({"models": 5}, {})


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("status: {path: tags}", ["1:16: a path starts with '/', got 'tags'"]),
        (
            "status: {path: /x, models: 'body.models'}",
            ["1:28: expression 'body.models' reads 'body', which does not exist here; known: answer, models"],
        ),
        (
            "status: {method: POST, path: /x, body: {fields: {name: answer}}}",
            ["1:56: expression 'answer' reads 'answer', which does not exist here; known: models"],
        ),
        (
            "status: {path: /x}\nkinds: model",
            ["2:8: for a model named 'a model': kinds: expected some of llm, text2vec, got 'a model'"],
        ),
    ],
)
def test_mistakes_of_the_one_who_wrote_it(text: str, mistakes: list[str]) -> None:
    """Each with its place; what would only show at the first probe is found before."""
    assert compiled(text)[1] == mistakes


@pytest.mark.parametrize(
    "text",
    [
        "model: {path: /x, kinds: answer}",
        "status: {path: /x, body: models}",
        "status: {path: /x}\nmodel: {path: /show}",
        "status: {path: /x}\nkinds: [image]",
        "status: {path: /x}\nkinds: []",
        "status: {path: /x, model: answer}",
        "status: {method: PUT, path: /x}",
        "status: {path: /x}\nlimit: 0",
    ],
)
def test_shapes_that_are_refused(text: str) -> None:
    """An unknown key, a body of GET, a question that reads nothing, a kind that no model has."""
    with pytest.raises(DocumentError):
        validate(parse_yaml(text, "backend.yaml"), ProbeDoc)


def test_kinds_are_those_of_the_fleet() -> None:
    """Two parts that may not import each other speak of the same kinds."""
    assert MODEL_KINDS == KINDS
