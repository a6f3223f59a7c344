"""What all documents of rule files have in common."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60, title="name")]
Text = Annotated[str, Field(min_length=1)]

# What a title says is seen by people in an editor; the mark is how a closer look at a document finds such fields.
EXPRESSION: Final = "expression"
MESSAGE: Final = "text with {expressions}"
Expression = Annotated[str, Field(min_length=1, title=EXPRESSION), EXPRESSION]
Message = Annotated[str, Field(min_length=1, title=MESSAGE), MESSAGE]


class Strict(BaseModel):
    """A mapping in which an unknown key is a mistake and no value is converted."""

    # Most of these are only parts of another one, which has all of it: what is not asked for by itself is not built.
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=False, defer_build=True)
