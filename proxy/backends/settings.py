"""The settings and command-line flags that belong to a named product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from proxy.backends.control import normalise_base_url

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    """A part of the settings file; an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FastChatSettings(Section):
    """`fastchat`: where the fleet is."""

    controllers: list[str] = []
    workers: list[str] = []
    probe_seconds: Seconds = 2.0
    list_seconds: Seconds = 5.0
    probe_embeddings: bool = True

    @field_validator("controllers", "workers")
    @classmethod
    def _addresses(cls, urls: list[str]) -> list[str]:
        return [_base_url(url) for url in urls]


class DbgptSettings(Section):
    """`dbgpt`: which clusters the gateway joins, and under which address."""

    controllers: list[str] = []
    advertise: str | None = None
    heartbeat_seconds: Annotated[float, Field(gt=0, le=20)] = 15.0

    @field_validator("controllers")
    @classmethod
    def _addresses(cls, urls: list[str]) -> list[str]:
        return [_base_url(url) for url in urls]


class Defaults(Section):
    """`defaults`: what a request that does not say gets. A key that is left out leaves it to the rules and the worker."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


class ModelSettings(Section):
    """`models.NAME`: what differs for one model."""

    template_style: str | None = None
    chat_template: str | None = None
    chat_template_file: str | None = None
    bos_token: str = ""
    eos_token: str = ""
    stop: list[str] = []
    stop_token_ids: list[int] = []
    context_length: Annotated[int, Field(ge=1)] | None = None
    defaults: Defaults = Defaults()
    first_seconds: Seconds | None = None
    idle_seconds: Seconds | None = None
    total_seconds: Seconds | None = None

    @model_validator(mode="after")
    def _one_template(self) -> ModelSettings:
        given = [self.template_style, self.chat_template, self.chat_template_file]
        if sum(value is not None for value in given) > 1:
            raise ValueError("only one of template_style, chat_template and chat_template_file can be in force")
        return self


class BackendSettings(Section):
    """The sections of this package in the settings file."""

    fastchat: FastChatSettings = FastChatSettings()
    dbgpt: DbgptSettings = DbgptSettings()
    defaults: Defaults = Defaults()
    models: dict[str, ModelSettings] = {}


def _base_url(url: str) -> str:
    return normalise_base_url(url)


class Flag(NamedTuple):
    """A command-line flag: its name, what it sets in the settings (section and key), how its text becomes the value."""

    name: str
    section: str
    key: str
    multiple: bool
    metavar: str
    help: str
    convert: Callable[[Any], Any]


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


FLAGS: tuple[Flag, ...] = (
    Flag(
        "--fastchat-controller",
        "fastchat",
        "controllers",
        False,
        "URL[,URL]",
        "Take the fleet from this FastChat controller.",
        _split,
    ),
    Flag(
        "--fastchat-worker",
        "fastchat",
        "workers",
        True,
        "URL",
        "Serve this FastChat worker; may be given several times.",
        list,
    ),
    Flag(
        "--dbgpt-controller",
        "dbgpt",
        "controllers",
        False,
        "URL[,URL]",
        "Register with this DB-GPT controller. Without it the gateway registers nowhere.",
        _split,
    ),
    Flag(
        "--advertise",
        "dbgpt",
        "advertise",
        False,
        "HOST:PORT",
        "The address under which DB-GPT reaches this gateway. Default: the listening address.",
        str,
    ),
)


def flag_values(given: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """What the given flags (by parameter name) set, by section and key; flags that were not given set nothing."""
    values: dict[str, dict[str, object]] = {}
    for flag in FLAGS:
        value = given.get(flag.name.removeprefix("--").replace("-", "_"))
        if value is not None and value != ():
            values.setdefault(flag.section, {})[flag.key] = flag.convert(value)
    return values
