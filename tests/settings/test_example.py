"""settings.example.yaml is the settings' documentation: whole, right, and with the defaults that are in force."""

from __future__ import annotations

import json
import re
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from proxy.documents import parse_yaml, validate
from proxy.settings import Settings, load_settings
from proxy.types import Json
from tests.cli.process import ROOT

EXAMPLE = ROOT / "settings.example.yaml"
TEXT = EXAMPLE.read_text(encoding="utf-8")

# `# key: value`, and whatever stands deeper below it; a sentence begins with a capital letter.
_COMMENTED = re.compile(r"^(\s*)#(\s*)((?:- )?[a-z][a-z_-]*[a-z0-9-]*:( .*)?)$")
_COMMENT = re.compile(r"^\s*#\s*#")


def _uncommented() -> dict[str, Json]:
    """The example with every commented key in force."""
    lines: list[str] = []
    for line in TEXT.splitlines()[1:]:  # the first one is for editors
        found = _COMMENTED.match(line)
        if found is None:
            lines.append(line)
            continue
        indent = found[1] + ("" if found[2] == " " else found[2])
        while lines and (lines[-1].lstrip().startswith("#") or not lines[-1].strip()):
            lines.pop()
        if lines and lines[-1].endswith((": {}", ": []")) and len(indent) > len(lines[-1]) - len(lines[-1].lstrip()):
            lines[-1] = lines[-1][: -len(" {}")]
        lines.append(indent + found[3])
    value = parse_yaml("\n".join(lines) + "\n", "settings.example.yaml").value
    assert isinstance(value, dict)
    return value


def _in_force() -> dict[str, Json]:
    value = parse_yaml(TEXT, "settings.example.yaml").value
    assert isinstance(value, dict)
    return value


class Key(NamedTuple):
    """One setting: its path (NAME stands for the name of a model, ITEM for one of a list), and its field."""

    path: tuple[str, ...]
    field: FieldInfo


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section that a field holds, if any, and whether it holds one for each NAME, or for each ITEM of a list."""
    if get_origin(annotation) in {Annotated, Union, UnionType}:
        found = [_model_in(each) for each in get_args(annotation)]
        return next((each for each in found if each[0] is not None), (None, ""))
    if get_origin(annotation) in {dict, list}:
        return _model_in(get_args(annotation)[-1])[0], "NAME" if get_origin(annotation) is dict else "ITEM"
    return (annotation, "") if isinstance(annotation, type) and issubclass(annotation, BaseModel) else (None, "")


def _keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> list[Key]:
    found = []
    for name, field in model.model_fields.items():
        name = field.alias or name
        found.append(Key((*path, name), field))
        inner, several = _model_in(field.annotation)
        if inner is not None:
            found += _keys(inner, (*path, name, *([several] if several else [])))
    return found


KEYS = _keys(Settings)


def _at(value: Json, path: tuple[str, ...]) -> Json:
    """The value at a path; KeyError where there is none."""
    for part in path:
        if part == "ITEM" and isinstance(value, list):
            value = next(iter(value))
            continue
        if not isinstance(value, dict):
            raise KeyError(part)
        value = next(iter(value.values())) if part == "NAME" else value[part]
    return value


def _has(value: Json, path: tuple[str, ...]) -> bool:
    try:
        _at(value, path)
    except (KeyError, StopIteration):
        return False
    return True


def test_the_walk_finds_all_kinds_of_keys() -> None:
    """Plain keys, sections, optional sections and sections for each model are all looked at."""
    paths = {".".join(key.path) for key in KEYS}
    assert {
        "listen",
        "fastchat.workers",
        "model_ports.first",
        "models.NAME.stop",
        "demo.models",
        "log.level",
        "backends.ITEM.models.NAME.kinds",
    } <= paths


def test_the_example_can_be_used_as_it_is() -> None:
    """Copied and started with a fleet, it gives just what is in force without a file."""
    flags = {"fastchat": {"workers": ["http://127.0.0.1:21002"]}}
    assert load_settings(EXAMPLE, flags) == load_settings(None, flags)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ".".join(key.path))
def test_every_key_is_in_the_example(key: Key) -> None:
    """A setting that is not in the example, in force or as a comment, is one that nobody finds."""
    # A model's `defaults` have the keys of the common ones, which are said once.
    path = key.path[2:] if key.path[:3] == ("models", "NAME", "defaults") else key.path
    assert _has(_uncommented(), path)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ".".join(key.path))
def test_what_is_in_force_is_the_default(key: Key) -> None:
    """A key that is in force stands there with its default; what is a comment is off by default."""
    default = key.field.get_default(call_default_factory=True)
    try:
        written = _at(_in_force(), key.path)
    except (KeyError, StopIteration):
        above = [other.field for other in KEYS if key.path[: len(other.path)] == other.path]
        assert any(field.get_default(call_default_factory=True) in (None, {}, []) for field in above)
    else:
        if isinstance(default, BaseModel):  # each of its keys is looked at by itself
            assert isinstance(written, dict)
        else:
            assert (written, type(written)) == (default, type(default))


def test_the_example_has_no_other_keys() -> None:
    """No key in the example, in force or as a comment, is one that the gateway would refuse; every value is allowed."""
    value = _uncommented()
    models, backends = value.pop("models"), value.pop("backends")
    assert isinstance(models, dict)
    assert isinstance(backends, list)
    validate(parse_yaml(_as_yaml(value), "example"), Settings)
    (worker,) = backends
    assert isinstance(worker, dict)
    keys = {name: worker.pop(name) for name in ("key", "key_file", "key_env")}  # only one can be in force
    validate(parse_yaml(_as_yaml({"backends": [{**worker, "key": keys["key"]}]}), "example"), Settings)
    (model,) = models.values()
    assert isinstance(model, dict)
    for name, setting in model.items():  # one by one: of three kinds of templates only one can be in force
        if name != "chat_template_file":
            validate(parse_yaml(_as_yaml({"models": {"m": {name: setting}}}), "example"), Settings)


def test_what_the_example_says_of_defaults_is_so() -> None:
    """The commented sections whose defaults are in force once they are there show these defaults."""
    demo = Settings.model_validate({"demo": _uncommented()["demo"]}).demo
    assert demo == Settings.model_validate({"demo": {}}).demo


def _as_yaml(value: Json) -> str:
    """JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)
