"""Which fields a rule reads, and which of a request's or an answer's are therefore dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.backends.functions import rule_functions
from proxy.ruleset import load_rules
from proxy.translate.fields import Named, NamedFields
from proxy.types import Json
from tests.tools.packs import write_pack


def named(folder: Path, route: str, **changes: str) -> NamedFields:
    """Of a route of the small pack, with changes."""
    rules = load_rules([write_pack(folder, **changes)], rule_functions())
    return next(found.named for found in rules.table.routes if found.name == route)


def request(folder: Path, size: str) -> Named | None:
    """Of a request with one field that is made in this way."""
    return named(folder, "chat", chat=f"size: {{value: 5}} -> size: {size}").request


def dropped(found: Named | None, value: Json) -> set[str]:
    assert found is not None
    return set(found.dropped(value))


def test_each_part_of_a_rule_reads(tmp_path: Path) -> None:
    """Condition, model, steps, checks, questions and request; a question's answer is no answer to the request."""
    found = named(tmp_path, "chat")
    assert found.request is not None
    assert found.request.fields == {"stream", "model", "text", "heat"}
    assert found.answer is not None
    assert found.answer.fields == {"token", "done_reason"}


def test_a_route_like_another_reads_what_that_one_reads(tmp_path: Path) -> None:
    """What it says itself comes to it."""
    found = named(tmp_path, "whole", whole="body: {fields: {said: text}} -> body: {fields: {said: body.name}}")
    assert found.request is not None
    assert found.request.fields == {"stream", "model", "text", "heat", "name"}


def test_whole_answers_are_read_as_a_list_or_as_the_first(tmp_path: Path) -> None:
    """`answers` and `upstream` are the same; a failure is read from them too."""
    found = named(tmp_path, "embed")
    assert found.answer is not None
    assert found.answer.fields == {"v", "code", "why"}
    assert dropped(found.answer, {"v": 1, "n": 2, "why": None, "more": None}) == {"n"}


@pytest.mark.parametrize("size", ["body", "to_json(body)", "'merge(body, {a: `1`})'", "'@'"])
def test_a_body_that_is_passed_on_loses_nothing(tmp_path: Path, size: str) -> None:
    assert request(tmp_path, size) is None


@pytest.mark.parametrize(
    ("size", "value", "lost"),
    [
        ("body.a.b", {"a": {"b": 1, "c": 2}}, {"a.c"}),
        ("body.a.b", {"a": 5}, set()),
        ("body.a[0].b", {"a": [{"b": 1, "c": 2}, {"d": 3, "b": None}]}, {"a.c", "a.d"}),
        ("body.a[].b | join(',', @)", {"a": [{"c": {}}]}, {"a.c"}),
        ("not_null(body.a, body.a.b)", {"a": {"c": 2}}, set()),
        ("{each: body.a, from: item.b}", {"a": [{"b": 1, "c": 2}]}, {"a.c"}),
        ("{each: body.a, from: item}", {"a": [{"b": 1, "c": 2}]}, set()),
        ("{each: body.a, where: item.c, from: item.b}", {"a": [{"b": 1, "c": 2, "d": 3}]}, {"a.d"}),
        ("{each: body.a, fields: {x: {each: item.b, from: item.c}}}", {"a": [{"b": [{"c": 1}], "d": 2}]}, {"a.d"}),
        ("{from: body.a.b, when: body.a}", {"a": {"b": 1, "c": 2}}, {"a.c"}),
        ("{from: body.b, when: body.a}", {"a": {"c": 2}, "b": 1}, set()),
        ("{value: 1, when: body.a.b}", {"a": {"c": None, "b": 1}}, set()),
    ],
)
def test_one_level_below(tmp_path: Path, size: str, value: Json, lost: set[str]) -> None:
    """Looked at where the rule reads only what is below; whether something is there at all does not read it all."""
    assert dropped(request(tmp_path, size), value) == lost


def test_losses_are_accepted_for_all_routes_or_for_one(tmp_path: Path) -> None:
    """As `compat` takes them, and one level below too."""
    losses = "request.user: x, chat.request.a.b: x, whole.request.c: x, answer.id: x, request: x"
    pack = f"description: For tests. -> description: For tests.\naccepted_losses: {{{losses}}}"
    found = named(tmp_path, "chat", pack=pack)
    assert found.request is not None
    assert found.answer is not None
    assert found.request.accepted == {"user", "a.b"}
    assert found.answer.accepted == {"id"}
