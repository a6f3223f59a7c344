"""What all documents of rule files have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """A mapping in which an unknown key is a mistake and no value is converted."""

    # Most of these are only parts of another one, which has all of it: what is not asked for by itself is not built.
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=False, defer_build=True)
