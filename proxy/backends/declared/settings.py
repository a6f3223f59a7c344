"""`backends` of the settings: workers of other backends than FastChat's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PrivateAttr, SecretStr, model_validator

from proxy.backends.sections import BaseUrl, Limit, Name, Seconds, Section
from proxy.documents import read_text
from proxy.fleet.facts import Kind
from proxy.limits import KEY_MAX

Kinds = Annotated[list[Kind], Field(min_length=1)]


def _unshown(key: object) -> object:
    """A message about a value of the wrong type would show it."""
    if not isinstance(key, (str, SecretStr)):
        raise ValueError("expected text, in quotes where it is a number; what stands there is not shown")
    return key


Key = Annotated[SecretStr, BeforeValidator(_unshown)]


class DeclaredModel(Section):
    """`backends[].models.NAME`: one model, by the worker's own name of it. What is left out is as the worker
    says it.
    """

    name: Name | None = None
    """The name under which the gateway has it. Left out: its own."""
    kinds: Kinds | None = None
    """What it is for."""
    context_length: Annotated[int, Field(ge=1)] | None = None
    """The context in tokens."""


class DeclaredWorker(Section):
    """`backends[]`: one worker, as with `--backend KIND=URL`."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,59}$", title="name of a backend")]
    """Which backend it is of: the name of a backend pack."""
    url: BaseUrl
    """Its base address, without the path of any call."""
    key: Key | None = None
    """The key that it wants with each request. One of these three; it is never shown."""
    key_file: str | None = None
    """A file with the key; a path from the working directory."""
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """The environment variable that holds the key."""
    models: list[Name] | dict[Name, DeclaredModel] | None = None
    """The models to use, by its own names of them; a mapping says more of each. Left out: all that it lists."""
    limit: Limit | None = None
    """The most requests that it takes at once. Left out: as the backend pack says."""
    probe_seconds: Seconds = 5.0
    """How often it is asked whether it is there."""

    _key: str | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _read_key(self) -> DeclaredWorker:
        given = [name for name in ("key", "key_file", "key_env") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a worker has one key; {' and '.join(given)} are given")
        if self.key is not None:
            self._key = _checked(self.key.get_secret_value(), "key")
        elif self.key_file is not None:
            self._key = _checked(_of_file(self.key_file), f"key_file: {self.key_file}")
        elif self.key_env is not None:
            self._key = _checked(_of_environment(self.key_env), f"key_env: {self.key_env}")
        return self

    @model_validator(mode="after")
    def _one_model_of_a_name(self) -> DeclaredWorker:
        owners: dict[str, str] = {}
        for own, model in self.wanted().items():
            if owners.setdefault(model.name or own, own) != own:
                raise ValueError(f"models: both {owners[model.name or own]} and {own} are named {model.name or own}")
        return self

    def secret(self) -> str | None:
        """The key, wherever it stands; as it was when the settings were read."""
        return self._key

    def wanted(self) -> dict[str, DeclaredModel]:
        """The models that are named, by the worker's own names; none where all are wanted."""
        if isinstance(self.models, dict):
            return dict(self.models)
        return {own: DeclaredModel() for own in self.models or ()}


def _of_file(file: str) -> str:
    try:
        return read_text(Path(file), KEY_MAX).strip()
    except OSError as error:
        raise ValueError(f"key_file: {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"key_file: {file}: not UTF-8 text") from None


def _of_environment(name: str) -> str:
    if name not in os.environ:
        raise ValueError(f"key_env: there is no environment variable {name}")
    return os.environ[name].strip()


def _checked(key: str, where: str) -> str:
    """A key goes into a header; what could not is told without showing it."""
    if not key or len(key) > KEY_MAX or not key.isascii() or not key.isprintable():
        raise ValueError(f"{where}: expected one line of at most {KEY_MAX} ASCII characters; got {len(key)} characters")
    return key
