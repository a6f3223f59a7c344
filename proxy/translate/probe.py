"""How the workers of a backend are looked at: what to ask them, and what their answers mean. Pure; whoever probes has
the sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, get_args

from proxy.translate.changes import header_values
from proxy.translate.mapping import OMIT, RULE_FAILURES, Read, Scope, Value, shown, truthy
from proxy.types import Json

ModelKind = Literal["llm", "text2vec"]
MODEL_KINDS: Final[tuple[ModelKind, ...]] = get_args(ModelKind)


class ProbeProblem(Exception):
    """An answer that does not have what the probe reads in it; one sentence."""


class Said(NamedTuple):
    """What was said of one model; None where nothing was.

    context_length: tokens; embedding_size: numbers of a vector, where the model gives any.
    """

    kinds: frozenset[ModelKind] | None = None
    context_length: int | None = None
    embedding_size: int | None = None

    def over(self, other: Said) -> Said:
        """This, and what `other` says where this is silent."""
        return Said(
            other.kinds if self.kinds is None else self.kinds,
            other.context_length if self.context_length is None else self.context_length,
            other.embedding_size if self.embedding_size is None else self.embedding_size,
        )


class Status(NamedTuple):
    """models: each model that the worker serves, in its own order; None where the probe does not read that.

    queue_length: requests that it holds, 0 where it does not say.
    """

    models: dict[str, Said] | None
    queue_length: int


class Asked(NamedTuple):
    """What is sent: the query behind the path, and the body, which is JSON; null: no body."""

    query: dict[str, str]
    body: Json


class ProbeCall(NamedTuple):
    """One question over HTTP. query: an expression for each parameter, null leaves it out; body: None for none."""

    method: str
    path: str
    query: Mapping[str, Read]
    body: Value | None

    def asked(self, scope: Scope) -> Asked:
        """What to send. ProbeProblem where the rule cannot make it."""
        try:
            query = header_values(self.query, scope)
        except RULE_FAILURES as error:
            raise ProbeProblem(f"the query: {error}") from None
        return Asked(query, None if self.body is None else _tried("the body", self.body, scope))


# The models of a worker as whoever names it knows them: each with what it is for, as far as that is known.
Known = Mapping[str, "frozenset[ModelKind] | None"]


class StatusProbe(NamedTuple):
    """Whether a worker is there. models: an expression for the names of its models, or objects of name, kinds,
    context_length and embedding_size, all but the name optional; None where the worker does not tell its models.
    """

    call: ProbeCall
    models: Read | None
    queue_length: Read | None

    def asked(self, known: Known) -> Asked:
        """What to send to a worker of which these models are known."""
        return self.call.asked({"models": _objects(known)})

    def read(self, answer: Json, known: Known) -> Status:
        """What the answer means. ProbeProblem where it does not have what is read."""
        scope: Scope = {"answer": answer, "models": _objects(known)}
        listed = None if self.models is None else _models(_tried("models", self.models, scope))
        queue = None if self.queue_length is None else _tried("queue_length", self.queue_length, scope)
        return Status(listed, _whole("queue_length", queue, least=0) or 0)


class ModelProbe(NamedTuple):
    """What a worker tells of one of its models; each an expression, None where it does not tell. when: on the model and
    its kinds, as far as they are known without asking; None: every model is asked about.
    """

    call: ProbeCall
    when: Read | None
    kinds: Read | None
    context_length: Read | None
    embedding_size: Read | None

    def is_for(self, model: str, kinds: frozenset[ModelKind] | None) -> bool:
        """Whether the worker is asked about this model. ProbeProblem where the rule cannot tell."""
        scope: Scope = {"model": model, "kinds": _array(kinds)}
        return self.when is None or truthy(_tried("when", self.when, scope))

    def asked(self, model: str) -> Asked:
        """What to send for this model."""
        return self.call.asked({"model": model})

    def read(self, model: str, answer: Json) -> Said:
        """What the answer means; null is nothing said. ProbeProblem for what cannot be meant."""
        scope: Scope = {"answer": answer, "model": model}

        def found(name: str, read: Read | None) -> Json:
            return None if read is None else _tried(name, read, scope)

        return Said(
            _kinds(found("kinds", self.kinds)),
            _whole("context_length", found("context_length", self.context_length), least=1),
            _whole("embedding_size", found("embedding_size", self.embedding_size), least=1),
        )


class ProbePlan(NamedTuple):
    """How the workers of one backend are looked at.

    model: asked once in a worker's life for each model, and now and then; None: nothing more can be asked. usual_kinds:
    an expression over the model's name, for models of which nobody says; context_length: tokens, in the same way;
    limit: requests at once where nobody says.
    """

    status: StatusProbe
    model: ModelProbe | None
    usual_kinds: Read
    context_length: int | None
    limit: int | None

    def usual(self, model: str) -> Said:
        """What holds of a model where neither the settings nor the worker say anything."""
        return Said(_kinds(_tried("kinds", self.usual_kinds, {"model": model})), self.context_length)


def _tried(name: str, value: Value, scope: Scope) -> Json:
    try:
        found = value(scope)
    except RULE_FAILURES as error:
        raise ProbeProblem(f"{name}: {error}") from None
    return None if found is OMIT else found


def _objects(known: Known) -> list[Json]:
    return [{"name": name, "kinds": _array(kinds)} for name, kinds in known.items()]


def _array(kinds: frozenset[ModelKind] | None) -> Json:
    return None if kinds is None else [*sorted(kinds)]


def _models(found: Json) -> dict[str, Said]:
    if not isinstance(found, list):
        raise ProbeProblem(f"models: expected an array, got {shown(found)}")
    models: dict[str, Said] = {}
    for each in found:
        name = each.get("name") if isinstance(each, dict) else each
        if not isinstance(name, str) or not name:
            raise ProbeProblem(f"models: expected names, or objects with a name, got {shown(each)}")
        said = _said(each) if isinstance(each, dict) else Said()
        models.setdefault(name, said)
    return models


def _said(model: dict[str, Json]) -> Said:
    return Said(
        _kinds(model.get("kinds")),
        _whole("context_length", model.get("context_length"), least=1),
        _whole("embedding_size", model.get("embedding_size"), least=1),
    )


def _kinds(found: Json) -> frozenset[ModelKind] | None:
    if found is None:
        return None
    names = found if isinstance(found, list) else [found]
    kinds = frozenset(kind for kind in MODEL_KINDS if kind in names)
    if len(kinds) != len(names):
        raise ProbeProblem(f"kinds: expected some of {', '.join(MODEL_KINDS)}, got {shown(found)}")
    return kinds


def _whole(name: str, found: Json, *, least: int) -> int | None:
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found < least or not float(found).is_integer():
        raise ProbeProblem(f"{name}: expected a whole number from {least}, got {shown(found)}")
    return int(found)
