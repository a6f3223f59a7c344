"""The settings that belong to a named product."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from proxy.address import Address, is_wildcard, parse_address
from proxy.backends.declared.settings import DeclaredWorker
from proxy.backends.fastchat.styles import style_name
from proxy.backends.sections import (
    Allowed,
    BaseUrl,
    CallableAddress,
    Expression,
    Header,
    Limit,
    ListenAddress,
    Name,
    QueueLength,
    Seconds,
    Section,
    Tag,
    Token,
)
from proxy.backends.spreading import MirrorSettings, SideSettings, spread_problem
from proxy.documents import read_text
from proxy.fleet.rules import PolicyName
from proxy.limits import YAML_MAX_BYTES


class AcceptSettings(Section):
    """`fastchat.accept`: the gateway is the controller with which workers register, as with `--accept-workers`.

    A worker needs nothing but its address as --controller-address. Left out: none can register.
    """

    listen: ListenAddress = "127.0.0.1:21001"
    """Where workers register."""
    allow: list[Allowed] = []
    """Hosts and networks whose workers are taken, beside this machine and the one that a registration comes from."""
    rewrite: bool = True
    """A worker that registers as localhost or 0.0.0.0 from another machine is taken under that machine's address."""
    addresses: dict[BaseUrl, BaseUrl] = {}
    """Registered address to the address to use instead."""
    token: Token | None = None
    """Workers must know this word: an unchanged one has it in its --controller-address http://HOST:PORT/TOKEN."""
    hand_out: Literal["worker", "gateway"] = "worker"
    """Which address FastChat's own clients get for a model: the gateway's makes all limits hold for them too."""
    state_file: str | None = None
    """The registered workers are kept in this file, so that a restart need not wait for their heartbeats."""


class FastChatSettings(Section):
    """`fastchat`: where the FastChat fleet is."""

    controllers: list[BaseUrl] = []
    """FastChat controllers; they are asked which models and workers there are, and never to refresh."""
    workers: list[BaseUrl] = []
    """Workers that no controller needs to name."""
    accept: AcceptSettings | None = None
    register_with: list[BaseUrl] = []
    """FastChat controllers with which the gateway registers as one more worker. Empty: with none."""
    offer: Literal["others", "all"] = "others"
    """Which models it registers there: those that a worker of another backend answers, or all."""
    advertise: BaseUrl | None = None
    """The base address under which the clients of those controllers reach the gateway. Left out: the address under
    which DB-GPT reaches it.
    """
    probe_seconds: Seconds = 2.0
    """How often each worker is asked for its status. One that refuses the connection is withdrawn at once."""
    probes_to_down: Annotated[int, Field(ge=1, le=100)] = 3
    """Probes that fail in a row before a worker is withdrawn."""
    probes_to_up: Annotated[int, Field(ge=1, le=100)] = 1
    """Probes that succeed in a row before it is used again."""
    list_seconds: Seconds = 5.0
    """How often each controller is asked for its list of models."""
    forget_seconds: Seconds = 600.0
    """A worker that a controller or its own registration named is forgotten when it was away for so long."""
    probe_embeddings: bool = True
    """Ask each model once for the vector of one word. Where that succeeds, the model is also registered as text2vec."""
    worker_limits: dict[BaseUrl, Limit] = {}
    """The most requests that a worker takes at once, by its address. Beats every other limit."""


class DbgptSettings(Section):
    """`dbgpt`: which DB-GPT clusters the gateway joins, and under which address."""

    controllers: list[BaseUrl] = []
    """Controllers to register with. Empty: the gateway serves, and registers nowhere."""
    workers_from: list[BaseUrl] = []
    """Controllers whose own workers the gateway serves too, those that it registered itself aside."""
    advertise: CallableAddress | None = None
    """The address under which DB-GPT reaches this gateway. Left out: the listening address, which must then be one that
    can be called.
    """
    heartbeat_seconds: Annotated[float, Field(gt=0, le=20, title="seconds")] = 15.0
    """How often each registration is renewed; DB-GPT drops one after 60 seconds."""
    management: bool = False
    """DB-GPT may take a model out of service and put it back: its running answers go on, new requests are refused."""


class Defaults(Section):
    """`defaults`: what a request gets that does not say it itself. What is left out is left to the rules and the
    worker.
    """

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """How freely is chosen among the tokens; 0: the likeliest one."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Only the likeliest tokens that together have this probability are chosen from."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """The longest answer, in tokens."""


class Balancing(Section):
    """How requests for a model are spread and held back; None leaves it to the common value."""

    policy: PolicyName | None = None
    """As `balance.policy`, for this model."""
    hash_header: Header | None = None
    """As `balance.hash_header`."""
    hash_field: Expression | None = None
    """As `balance.hash_field`."""
    worker_limit: Limit | None = None
    """As `balance.worker_limit`."""
    queue_length: QueueLength | None = None
    """As `balance.queue_length`."""
    queue_seconds: Seconds | None = None
    """As `balance.queue_seconds`."""


class ReasoningSettings(Section):
    """`models.NAME.reasoning`: where the thought of the model is to be. Left out: it stays where it comes.

    A thought comes in the text between two tags, or apart from the text where the worker takes it out.
    """

    open: Tag = "<think>"
    """What the model writes before its thought."""
    close: Tag = "</think>"
    """What it writes behind."""
    begins_inside: bool = False
    """The answer begins with the thought, because the model's template has the opening tag in the prompt."""
    as_: Literal["field", "inline", "drop"] = Field("field", alias="as")
    """field: a field of its own, where the dialect has one; inline: in the text, between the tags; drop: nowhere."""
    dbgpt: bool = False
    """The DB-GPT programs that use the model are of 0.7.1 or later, whose frames have a field for it. Left false, it
    is in the text for them, between the tags.
    """

    @model_validator(mode="after")
    def _tags_apart(self) -> ReasoningSettings:
        for tag in (self.open, self.close):
            if tag != tag.strip():
                raise ValueError(f"a tag has no white space at its ends, got '{tag}'")
        if self.open in self.close or self.close in self.open:
            raise ValueError(f"neither tag may have the other in it, got '{self.open}' and '{self.close}'")
        return self


class ModelSettings(Balancing):
    """`models.NAME`: what differs for one model, by the name that its worker gives it."""

    aliases: list[Name] = []
    """Further names under which clients know the model."""
    fallback: Name | None = None
    """The model that answers while no worker of this one can."""
    resume: bool = False
    """A stream whose worker is lost goes on with another one, as if nothing had happened."""
    split: list[SideSettings] | None = None
    """Requests by weight: to workers of one backend or another, or of one model or another. With a key of
    `hash_header` or `hash_field` the same key takes the same side.
    """
    mirror: MirrorSettings | None = None

    template_style: str | None = None
    """A separator style of FastChat by name, where the worker's number means another one."""
    chat_template: str | None = None
    """A Jinja chat template instead of the worker's. One of these three."""
    chat_template_file: str | None = None
    """A Jinja chat template in a file; a path from the working directory."""
    bos_token: str = ""
    """The token at the beginning of a text, for a chat template."""
    eos_token: str = ""
    """The token at its end."""
    stop: list[str] = []
    """Stop strings of a chat template."""
    stop_token_ids: list[int] = []
    """Tokens that end an answer, for a chat template."""
    context_length: Annotated[int, Field(ge=1)] | None = None
    """The context in tokens, where the worker's own figure is wrong."""
    images: bool | None = None
    """Whether the model takes images, where its worker or FastChat's controller does not say it rightly."""
    defaults: Defaults = Defaults()
    reasoning: ReasoningSettings | None = None
    connect_seconds: Seconds | None = None
    """As `timeouts.connect_seconds`, for this model."""
    first_seconds: Seconds | None = None
    """As `timeouts.first_seconds`."""
    idle_seconds: Seconds | None = None
    """As `timeouts.idle_seconds`."""
    total_seconds: Seconds | None = None
    """As `timeouts.total_seconds`."""

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
    def _spread(self) -> ModelSettings:
        if problem := spread_problem(self.split, self.mirror):
            raise ValueError(problem)
        return self

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
    backends: list[DeclaredWorker] = []
    """Workers of other backends than FastChat's."""
    defaults: Defaults = Defaults()
    models: dict[str, ModelSettings] = {}

    def worker_listener_address(self) -> Address | None:
        """Where workers register, None where they cannot."""
        return None if self.fastchat.accept is None else parse_address(self.fastchat.accept.listen)

    def advertised_address(self) -> Address | None:
        """The address that was set for clusters to call, None where it is the listening one."""
        return None if self.dbgpt.advertise is None else parse_address(self.dbgpt.advertise)

    def problems(self, listen: str, *, demo: bool) -> list[str]:
        """What does not go together, one sentence each; only the file and the flags together can tell."""
        found = []
        fleet = self.fastchat
        others = self.backends or self.dbgpt.workers_from
        if not demo and not fleet.controllers and not fleet.workers and fleet.accept is None and not others:
            found.append(
                "there is no fleet to serve: give --fastchat-worker URL, --fastchat-controller URL, --accept-workers "
                "or --backend KIND=URL (fastchat.workers, .controllers, .accept, dbgpt.workers_from or backends in the "
                "settings file), or --demo to try it without one"
            )
        found += self._name_problems()
        found += self._address_problems()
        everywhere = is_wildcard(parse_address(listen).host) and self.dbgpt.advertise is None
        if fleet.register_with and fleet.advertise is None and everywhere:
            found.append(
                f"--listen {listen} is all addresses of this machine, and FastChat's clients need one to call: "
                "give fastchat.advertise in the settings file, or --advertise HOST:PORT"
            )
        if self.dbgpt.controllers and everywhere:
            found.append(
                f"--listen {listen} is all addresses of this machine, and DB-GPT needs one that it can call: "
                "give --advertise HOST:PORT (dbgpt.advertise in the settings file)"
            )
        return found

    def _address_problems(self) -> list[str]:
        """An address is one worker, of one backend."""
        found = []
        both = set(self.fastchat.controllers) & set(self.dbgpt.workers_from)
        found += [f"{url} stands in fastchat.controllers and in dbgpt.workers_from; it is one of them" for url in both]
        taken = dict.fromkeys(self.fastchat.workers, "fastchat.workers")
        for number, worker in enumerate(self.backends):
            owner = taken.setdefault(worker.url, f"backends[{number}]")
            if owner != f"backends[{number}]":
                found.append(f"backends[{number}].url: {worker.url} stands in {owner} already; a worker has one entry")
        return found

    def _name_problems(self) -> list[str]:
        """Aliases that mean two models, and fallbacks that lead back."""
        found = []
        owners: dict[str, str] = {}
        for name, model in self.models.items():
            for alias in model.aliases:
                if alias in self.models or owners.setdefault(alias, name) != name:
                    other = alias if alias in self.models else owners[alias]
                    found.append(f"models.{name}.aliases: '{alias}' means the model '{other}' already")
            seen = [name]
            following = model.fallback
            while following is not None and following not in seen:
                seen.append(following)
                following = self.models[following].fallback if following in self.models else None
            if following == name:
                found.append(f"models.{name}.fallback: leads back to itself: {' -> '.join([*seen, name])}")
        return found


def read_chat_template(file: str) -> str:
    """The source of a chat template that compiles; ValueError with one sentence otherwise."""
    try:
        source = read_text(Path(file), YAML_MAX_BYTES)
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
