from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastchat.conversation import SeparatorStyle, conv_templates

from proxy.backends.fastchat.styles import STYLES, resolve_style, style_name
from proxy.types import JsonObject

RECORDED = json.loads((Path(__file__).parents[2] / "recordings/fastchat_main_conversations.json").read_text("utf-8"))
IN_036 = {style.name: style.value for style in SeparatorStyle}
NUMBERINGS: dict[str, tuple[dict[str, int], JsonObject]] = {
    "0.2.24": ({name: number for name, number in IN_036.items() if number <= 14}, {}),
    "0.2.30": ({name: number for name, number in IN_036.items() if number <= 15}, {}),
    "0.2.36": (IN_036, {}),
    "main": (RECORDED["numbers"], {"system_message_vision": "", "max_image_size_mb": None}),
    "main before it had fields of its own": (RECORDED["numbers"], {}),
}
STYLE_OF: dict[str, str] = {
    **RECORDED["styles"],
    **{name: template.sep_style.name for name, template in conv_templates.items() if template.sep_style is not None},
}


@pytest.mark.parametrize("version", NUMBERINGS)
def test_every_template_has_one_style_in_every_version(version: str) -> None:
    """The number that a version gives a template's style is read as that style."""
    numbers, extra = NUMBERINGS[version]
    seen = 0
    for template, style in STYLE_OF.items():
        if style in numbers:
            seen += 1
            assert resolve_style({"name": template, "sep_style": numbers[style], **extra}) == style, template
    assert seen > 40


@pytest.mark.parametrize("version", ["0.2.24", "0.2.30", "0.2.36", "main"])
def test_a_template_of_ones_own_is_read_by_the_numbering(version: str) -> None:
    """An unknown name has the style that the number means where the worker's fields say it comes from."""
    numbers, extra = NUMBERINGS[version]
    for style, number in numbers.items():
        assert resolve_style({"name": "our-model", "sep_style": number, **extra}) == style


def test_every_style_of_every_version_has_a_renderer() -> None:
    """No style of the releases or of main is missing."""
    assert {*IN_036, *RECORDED["numbers"]} == set(STYLES)


def test_a_configured_style_beats_name_and_number() -> None:
    """What the operator says is taken."""
    assert resolve_style({"name": "chatglm", "sep_style": 8}, configured="chatml") == "CHATML"
    with pytest.raises(ValueError, match="configured style: 'CHATM' is no separator style; did you mean CHATML"):
        resolve_style({"sep_style": 1}, configured="CHATM")


def test_a_template_that_changed_its_style_is_read_by_its_number() -> None:
    """xgen (0.2.24) and gemma (early 2024) had other styles, whose numbers never moved."""
    assert resolve_style({"name": "xgen", "sep_style": 4}) == "NO_COLON_SINGLE"
    assert resolve_style({"name": "xgen", "sep_style": 1}) == "ADD_COLON_SINGLE"
    assert resolve_style({"name": "gemma", "sep_style": 4}) == "NO_COLON_SINGLE"
    assert resolve_style({"name": "gemma", "sep_style": 20}) == "GEMMA"


@pytest.mark.parametrize("text", ["CHATML", "chatml", "SeparatorStyle.CHATML"])
def test_a_style_may_be_sent_by_name(text: str) -> None:
    """A name needs no numbering."""
    assert resolve_style({"name": "chatglm", "sep_style": text}) == "CHATML"
    assert style_name(text, where="style") == "CHATML"


def test_an_unknown_style_name_lists_the_known_ones() -> None:
    """An operator sees what can be set."""
    with pytest.raises(
        ValueError, match=r"style: 'zzz' is no separator style; expected one of ADD_COLON_SINGLE, .*DEFAULT"
    ):
        style_name("zzz", where="style")
