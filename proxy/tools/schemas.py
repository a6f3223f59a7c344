"""`schema`: JSON Schema of settings and rule files, for editors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from proxy.ruleset.backend_documents import AskingDoc, BackendDoc
from proxy.ruleset.documents import RouteDoc
from proxy.ruleset.extending import EXTENDS, REMOVE
from proxy.ruleset.pack_documents import ErrorsDoc, PackDoc
from proxy.ruleset.sources import REMOVE_ROUTES
from proxy.settings import Settings
from proxy.tools.described import descriptions
from proxy.types import Json, JsonObject

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_TEXT: Final[JsonObject] = {"type": "string", "minLength": 1}
_TEXTS: Final[JsonObject] = {"type": "array", "items": {"type": "string"}}
# What stands in a list that is replaced element by element is written whole.
_WHOLE: Final = frozenset({"TestDoc", "CallTestDoc", "StepDoc"})
_PART: Final = "Part"


class _Described(GenerateJsonSchema):
    """With what the sources say of each key, and without the titles that only repeat the names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        found = super().dict_schema(schema)
        title = self.generate_inner(schema["values_schema"]).get("title") if "values_schema" in schema else None
        if title is not None:
            found["additionalProperties"]["title"] = title
        return found

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        found.pop("title", None)
        model: type[BaseModel] = schema["cls"]
        if found.get("description"):
            found["description"] = " ".join(found["description"].split())
        for name, text in descriptions(model).items():
            found["properties"][model.model_fields[name].alias or name]["description"] = text
        for name, field in model.model_fields.items():
            if field.default_factory is not None:
                default = field.get_default(call_default_factory=True)
                found["properties"][field.alias or name].setdefault("default", default)
        return found


def schemas() -> dict[str, JsonObject]:
    """File name to schema: `settings`, `rule` (a route), `pack` (pack.yaml), `errors` (errors.yaml), `backend`
    (backend.yaml), `operation` (how a backend is asked for one).
    """
    return {
        "settings": plain_schema(Settings),
        "rule": _with_extension(_requested(plain_schema(RouteDoc)), {REMOVE: _TEXTS}),
        "pack": _with_extension(plain_schema(PackDoc), {REMOVE: _TEXTS, REMOVE_ROUTES: _TEXTS}),
        "errors": _mergeable(plain_schema(ErrorsDoc)),
        "backend": _with_extension(plain_schema(BackendDoc), {REMOVE: _TEXTS, REMOVE_ROUTES: _TEXTS}),
        "operation": _with_extension(plain_schema(AskingDoc), {REMOVE: _TEXTS}),
    }


def plain_schema(model: type[BaseModel]) -> JsonObject:
    """A model's own schema; a mapping may be a bare expression, and has one source."""
    schema = cast("JsonObject", model.model_json_schema(by_alias=True, schema_generator=_Described))
    definitions = _definitions(schema)
    spec = definitions.get("SpecDoc")
    if isinstance(spec, dict):
        spec["oneOf"] = [{"required": [name]} for name in ("from", "value", "fields", "items")]
        _replace(schema, "#/$defs/SpecDoc", lambda ref: {"anyOf": [_TEXT, ref]})
    return {"$schema": _DRAFT, **schema}


def _requested(schema: JsonObject) -> JsonObject:
    """A route says which requests it takes, or beside which other one it stands."""
    needed = cast("list[Json]", schema["required"])
    ways = ("match", "beside")
    return {
        **schema,
        "required": [name for name in needed if name not in ways],
        "oneOf": [{"required": [name]} for name in ways],
    }


def _with_extension(schema: JsonObject, more: JsonObject) -> JsonObject:
    """The whole document, or with `extends` a part of it and the keys in `more`."""
    definitions = _definitions(schema)
    head: JsonObject = {name: schema[name] for name in ("$schema", "description") if name in schema}
    whole: JsonObject = {name: value for name, value in schema.items() if name not in {"$schema", "$defs"}}
    part = copy.deepcopy(whole)
    parts = {f"{name}{_PART}": copy.deepcopy(value) for name, value in definitions.items() if name not in _WHOLE}
    for each in (part, *parts.values()):
        _loosen(each)
        for name in definitions:
            if name not in _WHOLE:
                _replace(each, f"#/$defs/{name}", lambda ref: {"$ref": f"{ref['$ref']}{_PART}"})
    step = definitions.get("StepDoc")
    if isinstance(step, dict) and isinstance(step["properties"], dict):
        added = copy.deepcopy(step)
        cast("JsonObject", added["properties"]).update({"before": _TEXT, "after": _TEXT})
        parts[f"StepDoc{_PART}"] = added
        _replace(part, "#/$defs/StepDoc", lambda ref: {"$ref": f"{ref['$ref']}{_PART}"})
    cast("JsonObject", part["properties"]).update({EXTENDS: _TEXT, **more})
    return {
        **head,
        "$defs": {**definitions, **parts},
        "if": {"required": [EXTENDS]},
        "then": part,
        "else": whole,
    }


def _mergeable(schema: JsonObject) -> JsonObject:
    """errors.yaml does not say itself whether it is a part; `check` tells what is missing."""
    schema.pop("required", None)
    for definition in _definitions(schema).values():
        _loosen(definition)
    cast("JsonObject", schema["properties"])[REMOVE] = _TEXTS
    return schema


def _definitions(schema: JsonObject) -> JsonObject:
    definitions = schema.get("$defs")
    return definitions if isinstance(definitions, dict) else {}


def _loosen(value: Json) -> None:
    """Take away what a part need not have."""
    if isinstance(value, dict):
        value.pop("required", None)
        value.pop("oneOf", None)


def _replace(value: Json, reference: str, change: Callable[[dict[str, Json]], JsonObject]) -> None:
    """Change each reference inside the value in place."""
    if isinstance(value, dict):
        for name, child in value.items():
            if isinstance(child, dict) and child.get("$ref") == reference:
                value[name] = {**change({"$ref": reference}), **{k: v for k, v in child.items() if k != "$ref"}}
            else:
                _replace(child, reference, change)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            if isinstance(child, dict) and child.get("$ref") == reference:
                value[index] = change({"$ref": reference})
            else:
                _replace(child, reference, change)
