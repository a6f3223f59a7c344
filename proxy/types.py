"""Types that every part shares."""

from __future__ import annotations

from typing import TypeAlias, Union

# A value of a JSON document, as orjson reads and writes it.
Json: TypeAlias = Union[bool, int, float, str, "list[Json]", "dict[str, Json]", None]
JsonObject: TypeAlias = "dict[str, Json]"
