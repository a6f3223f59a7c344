"""Where one value comes from and what happens to it: the mapping, of which most of a rule file is made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from proxy.ruleset.strict import Expression, Name, Strict, Text
from proxy.translate.changes import TypeName, Unknown


class Clamp(Strict):
    """`clamp`: bounds into which a number is moved."""

    min: int | float | Expression | None = None
    """A number, or an expression: what is below becomes this."""
    max: int | float | Expression | None = None
    """The same for what is above."""


class SpecDoc(Strict):
    """Where one value comes from, and what happens to it on the way: `each` and `where`, `table`, `type` with `min` and
    `max`, `one_of`, `default`, `clamp`, `required`, `null`, `when`, in this order. A bare string is `from`.
    """

    from_: Expression | None = Field(None, alias="from")
    """An expression. One of these four gives the value."""
    value: JsonValue = None
    """A constant."""
    fields: dict[str, Spec] | None = None
    """An object: a mapping for each of its keys."""
    items: list[Spec] | None = None
    """An array: a mapping for each of its elements."""
    each: Expression | None = None
    """An array: the mapping is done for each of its elements, seen as `item`; `index` is its position."""
    where: Expression | None = None
    """Only for those elements of `each` for which this holds."""
    when: Expression | None = None
    """Only if this holds; else the value is left out."""
    default: JsonValue = None
    """What takes the place of null or nothing."""
    null: Literal["omit", "keep", "refuse"] = "omit"
    """What a null becomes: it is left out, sent as it is, or refused where the caller wrote it, which needs a `from`
    that is a plain path.
    """
    required: bool = False
    """Refuse null or nothing."""
    table: Name | dict[str, JsonValue] | None = None
    """Replace the value by what a table has for it: one of `tables` by its name, or one that is written here."""
    unknown: Unknown = "refuse"
    """What happens to a value that the table lacks."""
    type: TypeName | None = None
    """Refuse another type. strings and integers: one of them or an array of them, which becomes an array."""
    min: int | float | None = None
    """Refuse a number below."""
    max: int | float | None = None
    """Refuse a number above."""
    one_of: list[JsonValue] | None = None
    """Refuse what is not in this list."""
    clamp: Clamp | None = None
    """Move a number into a range."""
    name: Text | None = None
    """What the caller calls the value, for error messages. Left out: its path in the request."""

    @model_validator(mode="after")
    def _one_source(self) -> SpecDoc:
        sources = sorted({"from_", "value", "fields", "items"} & self.model_fields_set)
        if len(sources) != 1:
            given = " and ".join(source.rstrip("_") for source in sources) or "none"
            raise ValueError(f"a mapping needs exactly one of from, value, fields, items; got {given}")
        if self.where is not None and self.each is None:
            raise ValueError("where filters the elements of each; there is no each here")
        if "unknown" in self.model_fields_set and self.table is None:
            raise ValueError("unknown says what to do with a value that the table lacks; there is no table here")
        if self.null == "refuse" and self.from_ is None:
            raise ValueError("null: refuse needs a from that is a plain path such as body.temperature")
        if (self.min is not None or self.max is not None) and self.type not in {None, "integer", "number"}:
            raise ValueError(f"min and max are for numbers; the type here is {self.type}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


def _expression_is_from(value: object) -> object:
    if isinstance(value, str):
        return {"from": value}
    if not isinstance(value, dict):
        written = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        raise ValueError(f"expected an expression or a mapping; a constant is written {{value: {written[:40]}}}")
    return value


Spec = Annotated[SpecDoc, BeforeValidator(_expression_is_from)]


SpecDoc.model_rebuild()
