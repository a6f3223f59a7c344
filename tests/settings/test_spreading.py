"""Splits and mirrors in the settings, and the examples of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.documents import DocumentError
from proxy.reload import loaded
from proxy.settings import load_settings
from proxy.types import JsonObject
from tests.cli.process import ROOT
from tests.gateway.rig import shipped

OLD: JsonObject = {"weight": 1, "backend": "fastchat"}
SPARE: JsonObject = {"weight": 0, "backend": "openai"}


@pytest.mark.parametrize(
    ("model", "mistake"),
    [
        ("split: [{weight: 1, backend: a}]", "1:13: split: expected two sides at least"),
        ("split: [{weight: 0, backend: a}, {weight: 0, model: b}]", "1:13: split: the weights are all 0"),
        ("split: [{weight: 1, model: b}, {weight: 2, model: b}]", "1:13: split: two sides are the same workers"),
        ("split: [{weight: 1}, {weight: 2, model: b}]", "1:22: expected backend, model, or both"),
        ("split: [{backend: a}, {weight: 2, model: b}]", "1:22: the key 'weight' is missing"),
        ("mirror: {share: 0.5}", "1:22: expected backend, model, or both"),
        ("mirror: {backend: a, share: 1.5}", "1:42: share: expected less than or equal to 1, got 1.5"),
        (
            "mirror: {model: b}, split: [{weight: 1, model: b}, {weight: 0, backend: a}]",
            "1:13: mirror: it is what it mirrors, the only side of the split that has weight",
        ),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path: Path, model: str, mistake: str) -> None:
    """With its place, before anything is served."""
    file = tmp_path / "s.yaml"
    file.write_text(f"models: {{m: {{{model}}}}}", encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        load_settings(file, {"demo": {}})
    (told,) = caught.value.diagnostics
    assert str(told).removeprefix(f"{file}:").startswith(mistake)


def test_a_mirror_may_be_a_side_too() -> None:
    """A spare that is measured before it gets any requests, or one that gets some."""
    for weight in (0, 10):
        split = [OLD, {**SPARE, "weight": weight}]
        models = {"m": {"split": split, "mirror": {"backend": "openai"}}}
        assert load_settings(None, {"demo": {}, "models": models}).models["m"].mirror is not None


def test_a_backend_without_rules_is_told() -> None:
    """Only settings and rules together can tell; all of them come at once."""
    models = {"m": {"split": [OLD, {"weight": 1, "backend": "opneai"}], "mirror": {"backend": "nobody"}}}
    settings = load_settings(None, {"demo": {}, "models": models})
    with pytest.raises(ValueError, match=r"models\.m\.split\[1\]: there are no rules for a backend 'opneai'") as caught:
        loaded(settings, shipped())
    first, second = str(caught.value).splitlines()
    assert first.endswith("did you mean 'openai'?")
    assert second.startswith("models.m.mirror: there are no rules for a backend 'nobody'")


def test_the_documented_settings_are_right(tmp_path: Path) -> None:
    """Each example of the operations page that is a part of a settings file can be used as it stands."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n((?:models|api_keys|backends|fastchat):.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(examples) >= 3
    for example in examples:
        file = tmp_path / "s.yaml"
        file.write_text(example, encoding="utf-8")
        loaded(load_settings(file, {"demo": {}}), shipped())
