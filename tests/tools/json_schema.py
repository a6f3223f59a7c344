"""As much of JSON Schema as the program's schemas use, so that they can be tried on documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from proxy.types import Json, JsonObject

_TYPES: dict[str, Callable[[Json], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}
_NOTES = {"$schema", "$defs", "description", "default", "title"}


def problems(schema: JsonObject, value: Json) -> list[str]:
    """Where the value is not as the schema wants it; AssertionError for a keyword that is not known here."""
    return list(_Validator(schema).problems(schema, value, ""))


class _Validator:
    def __init__(self, root: JsonObject) -> None:
        self._root = root

    def problems(self, schema: Json, value: Json, at: str) -> Iterator[str]:
        if not isinstance(schema, dict):
            if schema is False:
                yield f"{at}: nothing may stand here"
            return
        for keyword, wanted in schema.items():
            if keyword not in _NOTES:
                check = getattr(self, f"_{keyword.lstrip('$').lower()}", None)
                assert check is not None, keyword
                yield from check(wanted, value, at, schema)

    def _ref(self, wanted: str, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        definitions = self._root["$defs"]
        assert isinstance(definitions, dict)
        yield from self.problems(definitions[wanted.removeprefix("#/$defs/")], value, at)

    def _type(self, wanted: str, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if not _TYPES[wanted](value):
            yield f"{at}: not {wanted}"

    def _properties(self, wanted: JsonObject, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        for name, schema in wanted.items():
            if isinstance(value, dict) and name in value:
                yield from self.problems(schema, value[name], f"{at}.{name}")

    def _additionalproperties(self, wanted: Json, value: Json, at: str, schema: JsonObject) -> Iterator[str]:
        known = schema.get("properties", {})
        for name, child in value.items() if isinstance(value, dict) else ():
            if isinstance(known, dict) and name not in known:
                yield from self.problems(wanted, child, f"{at}.{name}")

    def _propertynames(self, wanted: Json, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        for name in value if isinstance(value, dict) else ():
            yield from self.problems(wanted, name, f"{at}.{name}")

    def _patternproperties(self, wanted: JsonObject, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        for pattern, schema in wanted.items():
            for name, child in value.items() if isinstance(value, dict) else ():
                if re.search(pattern, name):
                    yield from self.problems(schema, child, f"{at}.{name}")

    def _required(self, wanted: list[str], value: Json, at: str, _: JsonObject) -> Iterator[str]:
        yield from (f"{at}.{name}: missing" for name in wanted if isinstance(value, dict) and name not in value)

    def _items(self, wanted: Json, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        for index, child in enumerate(value) if isinstance(value, list) else ():
            yield from self.problems(wanted, child, f"{at}[{index}]")

    def _anyof(self, wanted: list[Json], value: Json, at: str, _: JsonObject) -> Iterator[str]:
        tried = [list(self.problems(each, value, at)) for each in wanted]
        if all(tried):
            yield from max(tried, key=lambda found: max(len(line.partition(":")[0]) for line in found))

    def _oneof(self, wanted: list[Json], value: Json, at: str, _: JsonObject) -> Iterator[str]:
        fitting = sum(not list(self.problems(each, value, at)) for each in wanted)
        if fitting != 1:
            yield f"{at}: {fitting} of {len(wanted)} fit"

    def _if(self, wanted: Json, value: Json, at: str, schema: JsonObject) -> Iterator[str]:
        holds = not list(self.problems(wanted, value, at))
        yield from self.problems(schema["then" if holds else "else"], value, at)

    def _then(self, *_: object) -> Iterator[str]:
        yield from ()

    _else = _then

    def _enum(self, wanted: list[Json], value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if value not in wanted:
            yield f"{at}: not one of {wanted}"

    def _const(self, wanted: Json, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if value != wanted:
            yield f"{at}: not {wanted}"

    def _pattern(self, wanted: str, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if isinstance(value, str) and not re.search(wanted, value):
            yield f"{at}: not like {wanted}"

    def _bound(self, value: Json, at: str, holds: Callable[[float], bool], words: str) -> Iterator[str]:
        size = len(value) if isinstance(value, (str, list, dict)) else value
        if isinstance(size, (int, float)) and not isinstance(size, bool) and not holds(size):
            yield f"{at}: {words}"

    def _minimum(self, wanted: float, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if not isinstance(value, (str, list, dict)):
            yield from self._bound(value, at, lambda size: size >= wanted, f"below {wanted}")

    def _maximum(self, wanted: float, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if not isinstance(value, (str, list, dict)):
            yield from self._bound(value, at, lambda size: size <= wanted, f"above {wanted}")

    def _exclusiveminimum(self, wanted: float, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if not isinstance(value, (str, list, dict)):
            yield from self._bound(value, at, lambda size: size > wanted, f"not above {wanted}")

    def _minlength(self, wanted: int, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if isinstance(value, str):
            yield from self._bound(value, at, lambda size: size >= wanted, "too short")

    def _maxlength(self, wanted: int, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if isinstance(value, str):
            yield from self._bound(value, at, lambda size: size <= wanted, "too long")

    def _minitems(self, wanted: int, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if isinstance(value, list):
            yield from self._bound(value, at, lambda size: size >= wanted, "too short")

    def _maxitems(self, wanted: int, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if isinstance(value, list):
            yield from self._bound(value, at, lambda size: size <= wanted, "too long")

    def _minproperties(self, wanted: int, value: Json, at: str, _: JsonObject) -> Iterator[str]:
        if isinstance(value, dict):
            yield from self._bound(value, at, lambda size: size >= wanted, "too small")
