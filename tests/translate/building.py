"""Routes and mappings made from YAML text, as a rule file has them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from proxy.backends.functions import rule_functions
from proxy.documents import parse_yaml
from proxy.ruleset import load_rules, shipped_rules
from proxy.ruleset.documents import AskDoc
from proxy.ruleset.expressions import Workshop
from proxy.translate.mapping import Omit, Value
from proxy.translate.plan import Route
from proxy.translate.request import Built, build_request
from proxy.translate.stream import StreamTranslator, translator_of
from proxy.types import Json, JsonObject

FUNCTIONS = rule_functions()
ROOTS = frozenset({"body", "worker", "steps"})
TABLES: dict[str, dict[str, Json]] = {"roles": {"human": "user", "ai": "assistant", "1": "one", "gone": None}}
ERRORS = """
kinds:
  upstream_error: {status: 502, code: 50001}
  invalid_request: {status: 400, code: 40302}
  default: {status: 500, code: 1}
body: {fields: {detail: error.message, code: error.upstream_code || error.code, field: error.field}}
stream_status: 200
frame: {fields: {error: error.message, code: error.upstream_code || error.code, so_far: text}}
"""


def mapping(text: str, name: str = "field") -> Value:
    """The mapping in `text`, compiled; `name` is the field that it stands in."""
    document = parse_yaml(f"path: /\nresult: x\nbody: {text}", "rule")
    spec = AskDoc.model_validate(document.value).body
    assert spec is not None
    shop = Workshop(document, FUNCTIONS, TABLES)
    value = shop.value(spec, ("body",), ROOTS, name)
    assert not shop.mistakes, shop.mistakes
    return value


def mapped(text: str, body: Json, **scope: Json) -> Json | Omit:
    """What the mapping in `text` makes of a request."""
    return mapping(text)({"body": body, **scope})


def load_route(folder: Path, text: str, errors: str = ERRORS) -> Route:
    """The route in `text`, loaded from a pack of its own."""
    (folder / "pack.yaml").write_text("pack: sample\ndescription: For tests.\n", encoding="utf-8")
    (folder / "errors.yaml").write_text(errors, encoding="utf-8")
    (folder / "route.yaml").write_text(text, encoding="utf-8")
    return load_rules([folder], FUNCTIONS).table.routes[0]


def shipped_route(name: str) -> Route:
    """A route of the packs that come with the program."""
    routes = load_rules([shipped_rules()], FUNCTIONS).table.routes
    return next(route for route in routes if route.name == name)


class Prepared(NamedTuple):
    """A request for a worker, and what its client's side sees."""

    built: Built
    client: JsonObject

    def translator(self, *, resumable: bool = False) -> StreamTranslator:
        """What rewrites the worker's stream."""
        return translator_of(self.built, self.client, resumable=resumable)


def prepared(route: Route, body: Json) -> Prepared:
    """The request after the route's steps, of whose questions the worker answers none."""
    scope = scope_of(route, body)
    run = build_request(route, scope)
    try:
        while True:
            run.send(None)
    except StopIteration as done:
        return Prepared(done.value, scope)


def scope_of(route: Route, body: Json) -> JsonObject:
    """What the route's expressions see for a request to the pack's sample worker."""
    return {
        "body": body,
        "query": {},
        "headers": {},
        "path": {},
        "listener": {},
        "gateway": {"host": "127.0.0.1", "port": 1, "version": "0", "default_model": None},
        "models": [],
        "worker": dict(route.sample),
    }
