"""The settings that belong to a named product."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from proxy.address import Address, is_wildcard, parse_address
from proxy.backends.control import normalise_base_url
from proxy.backends.fastchat.styles import style_name


def _callable_address(text: str) -> str:
    host, port = parse_address(text)
    if is_wildcard(host) or port == 0:
        raise ValueError(f"expected the HOST:PORT under which DB-GPT reaches this gateway, got '{text}'")
    return text


Seconds = Annotated[float, Field(gt=0, le=86_400)]
BaseUrl = Annotated[str, AfterValidator(normalise_base_url)]
CallableAddress = Annotated[str, AfterValidator(_callable_address)]


class Section(BaseModel):
    """A part of the settings file; an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FastChatSettings(Section):
    """`fastchat`: where the fleet is."""

    controllers: list[BaseUrl] = []
    workers: list[BaseUrl] = []
    probe_seconds: Seconds = 2.0
    list_seconds: Seconds = 5.0
    probe_embeddings: bool = True


class DbgptSettings(Section):
    """`dbgpt`: which clusters the gateway joins, and under which address."""

    controllers: list[BaseUrl] = []
    advertise: CallableAddress | None = None
    heartbeat_seconds: Annotated[float, Field(gt=0, le=20)] = 15.0


class Defaults(Section):
    """`defaults`: what a silent request gets. A key that is left out leaves it to the rules and the worker."""

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

    @field_validator("template_style")
    @classmethod
    def _is_style(cls, name: str | None) -> str | None:
        return None if name is None else style_name(name, where="template_style")

    @field_validator("chat_template")
    @classmethod
    def _compiles(cls, source: str | None) -> str | None:
        if source is not None:
            _compile(source)
        return source

    @field_validator("chat_template_file")
    @classmethod
    def _file_compiles(cls, file: str | None) -> str | None:
        if file is not None:
            read_chat_template(file)
        return file

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

    def advertised_address(self) -> Address | None:
        """The address that was set for clusters to call, None where it is the listening one."""
        return None if self.dbgpt.advertise is None else parse_address(self.dbgpt.advertise)

    def problems(self, listen: str, *, demo: bool) -> list[str]:
        """What does not go together, one sentence each; only the file and the flags together can tell."""
        found = []
        if not demo and not self.fastchat.controllers and not self.fastchat.workers:
            found.append(
                "there is no fleet to serve: give --fastchat-worker URL or --fastchat-controller URL "
                "(fastchat.workers or fastchat.controllers in the settings file), or --demo to try it without one"
            )
        if self.dbgpt.controllers and self.dbgpt.advertise is None and is_wildcard(parse_address(listen).host):
            found.append(
                f"--listen {listen} is all addresses of this machine, and DB-GPT needs one that it can call: "
                "give --advertise HOST:PORT (dbgpt.advertise in the settings file)"
            )
        return found


def read_chat_template(file: str) -> str:
    """The source of a chat template that compiles; ValueError with one sentence otherwise."""
    try:
        source = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"chat_template_file: {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"chat_template_file: {file}: not UTF-8 text") from None
    try:
        _compile(source)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return source


def _compile(source: str) -> None:
    # Late, so that a command without templates does not load a template engine.
    from proxy.backends.chat_template import ChatTemplate

    ChatTemplate(source)
