"""Names that a registry key can carry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.dbgpt.names import NAME_MAX, assign_public_names, public_name


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("vicuna-7b", "vicuna-7b"),
        ("lmsys/vicuna-7b-v1.5", "lmsys/vicuna-7b-v1.5"),
        ("模型", "模型"),
        ("a@b@c", "a-b-c"),
        (" a\tb\r\n\x00 ", "ab"),
        ("a\u200bb\u2028", "ab"),
        ("\x00\x01", ""),
        ("m" * 500, "m" * NAME_MAX),
    ],
)
def test_public_name(model: str, expected: str) -> None:
    """A name is registered as it is unless the cluster would break on it."""
    assert public_name(model) == expected


@given(st.text())
def test_public_name_makes_a_key_that_splits_in_two(model: str) -> None:
    """Whatever a model is called, its key has one "@", no invisible character, and is stable."""
    name = public_name(model)
    assert len(f"{name}@llm".split("@")) == 2
    assert name == name.strip()
    assert "\x00" not in name
    assert public_name(name) == name
    name.encode()


def test_two_models_never_share_a_name() -> None:
    """The model that is really called so keeps its name; the other stays out with a reason."""
    names = assign_public_names(["a@b", "a-b", "x", "\x00"])
    assert names.models == {"a-b": "a-b", "x": "x"}
    assert names.rejected == {
        "a@b": "it would be registered as 'a-b', as the model 'a-b' is",
        "\x00": "nothing of its name can be registered",
    }


@given(st.lists(st.text("ab@- ", max_size=4), max_size=8))
def test_names_do_not_depend_on_the_order(models: list[str]) -> None:
    """Which of two models is registered does not change with who was found first."""
    assert assign_public_names(models) == assign_public_names(reversed(models))


def test_aliases_are_names_of_their_models() -> None:
    """A model has a public name for itself and one for each alias, spelt as a registry can carry it."""
    assert assign_public_names(["m", "n"], {"gpt-4": "m", "a@b": "n", " m ": "m"}) == (
        {"m": "m", "n": "n", "gpt-4": "m", "a-b": "n"},
        {},
    )


def test_an_alias_never_takes_a_models_name() -> None:
    """A model that is really called so keeps its name, whoever comes first; the alias stays out and is told."""
    for models in (["m", "gpt-4"], ["gpt-4", "m"]):
        names = assign_public_names(models, {"gpt-4": "m", "gpt@4": "m"})
        assert names.models == {"m": "m", "gpt-4": "gpt-4"}
        assert names.rejected.keys() == {"gpt-4", "gpt@4"}
        assert names.rejected["gpt@4"] == "it would be registered as 'gpt-4', as the model 'gpt-4' is"


def test_an_alias_of_a_model_that_nobody_serves() -> None:
    """It is no name of anything."""
    assert assign_public_names(["m"], {"gpt-4": "n", "": "m"}) == (
        {"m": "m"},
        {"": "nothing of its name can be registered"},
    )
