"""The reference pages are those that the program would write now, and say something of every key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from proxy.backends.functions import rule_functions
from proxy.ruleset.backend_documents import AskingDoc, BackendDoc
from proxy.ruleset.documents import RouteDoc
from proxy.ruleset.mapping_documents import SpecDoc
from proxy.ruleset.pack_documents import ErrorsDoc, PackDoc
from proxy.settings import Settings
from proxy.tools.described import descriptions
from proxy.tools.reference.pages import pages
from proxy.tools.reference.sections import sections
from proxy.tools.schemas import plain_schema, schemas

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def test_no_page_is_stale() -> None:
    """After a change: make docs."""
    written = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()}
    assert written == pages(), "run: make docs"


@pytest.mark.parametrize(
    "model", [Settings, SpecDoc, RouteDoc, PackDoc, ErrorsDoc, BackendDoc, AskingDoc], ids=lambda model: model.__name__
)
def test_every_key_has_a_meaning(model: type[BaseModel]) -> None:
    """It is said where the key is declared, or by the section that it holds."""
    found = [(f"{each.path}.{key.name}", key.meaning) for each in sections(plain_schema(model)) for key in each.keys]
    assert found
    assert [name for name, meaning in found if not meaning.endswith((".", ":"))] == []


def test_every_function_has_an_example() -> None:
    """One that nobody can see at work is one that nobody uses rightly."""
    assert [each.name for each in rule_functions() if not each.examples] == []


class Base(BaseModel):
    """A model."""

    a: int = 1
    """Said of a,
    on two lines.
    """
    b: int = 2


class Inner(Base):
    """A model that inherits."""

    b: int = 3
    """Said of b."""


@pytest.mark.parametrize(
    ("model", "said"),
    [(Base, {"a": "Said of a, on two lines."}), (Inner, {"a": "Said of a, on two lines.", "b": "Said of b."})],
)
def test_what_stands_below_a_field_is_said_of_it(model: type[BaseModel], said: dict[str, str]) -> None:
    """Also of one that is inherited; the lines of a text are joined."""
    assert descriptions(model) == said


def test_what_a_person_may_write_at_a_key() -> None:
    """Choices, bounds, lists and other sections are told in words; what must be given is told from what need not."""
    found = {each.path: {key.name: key for key in each.keys} for each in sections(schemas()["settings"])}
    assert found[""]["listen"].expected == "HOST:PORT"
    assert found[""]["models"].expected == "mapping to [models.NAME](#modelsname)"
    assert found["log"]["format"].expected == "`text`, `json`"
    assert found["fastchat"]["workers"].expected == "list of URL"
    assert found["balance.retries"]["attempts"].expected == "whole number, at least 1, at most 10"
    assert (found["model_ports"]["first"].default, found["log"]["format"].default) == (None, '`"text"`')
