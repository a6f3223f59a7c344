"""The settings of one gateway: a YAML file and flags that beat it. settings.example.yaml has every key."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from proxy.address import Address, parse_address
from proxy.backends.flags import FLAGS, PROGRAM
from proxy.backends.sections import Expression, Header, Limit, ListenAddress, Name, QueueLength, Seconds, Section
from proxy.backends.settings import BackendSettings
from proxy.cpus import usable_cpus
from proxy.documents import Document, DocumentError, read_text, read_yaml, validate
from proxy.fleet.rules import PolicyName
from proxy.limits import API_KEYS_MAX, MODEL_PORTS_MAX, PROCESSES_PER_CPU_MAX, SHUTDOWN_SECONDS, YAML_MAX_BYTES


class Log(Section):
    """`log`: how much, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Records below this level are not written."""
    format: Literal["text", "json"] = "text"
    """One line a record, on standard error."""


class TimeoutSettings(Section):
    """`timeouts`: how long a worker may take."""

    connect_seconds: Seconds = 5.0
    """To accept a connection."""
    first_seconds: Seconds = 600.0
    """To send the first byte of an answer."""
    idle_seconds: Seconds = 300.0
    """Between two reads within an answer."""
    total_seconds: Seconds = 3_600.0
    """For the whole answer."""


class Retries(Section):
    """`balance.retries`: a request that fails before its client has seen anything goes to another worker."""

    attempts: Annotated[int, Field(ge=1, le=10)] = 5
    """Workers that are asked in all."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Retries to all requests at most, so that a fleet in trouble is not asked twice as much."""
    burst: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Retries at once beside that share."""


class BreakerSettings(Section):
    """`balance.breaker`: a worker that fails gets no requests for a while, then one on trial."""

    failures: Annotated[int, Field(ge=1, le=1_000)] = 5
    """So many failures in a row are enough."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Or this share of its last 20 requests."""
    open_seconds: Seconds = 5.0
    """The while, doubled with each trial that fails."""
    most_open_seconds: Seconds = 60.0
    """The longest while."""


class Balance(Section):
    """`balance`: how requests are spread over the workers of a model, and what happens when they are busy or fail."""

    policy: PolicyName = "least_in_flight"
    """power_of_two: the better of two random workers; weighted_round_robin: by the speed that workers report;
    consistent_hash: the same key goes to the same worker.
    """
    hash_header: Header | None = None
    """The key of consistent_hash, from a header. Without a key: least_in_flight."""
    hash_field: Expression | None = None
    """The key of consistent_hash, from the request's `body`."""
    worker_limit: Limit | None = None
    """The most requests that a worker takes at once. Left out: what its kind is known to take."""
    queue_length: QueueLength = 64
    """Requests of one model beyond that which wait, in order; one more is told that it is busy."""
    queue_seconds: Seconds = 30.0
    """How long one waits before it is told that it is busy."""
    pin_header: Header | None = None
    """A request names its worker in this header, by id or address, for finding faults. Left out: it cannot."""
    retries: Retries = Retries()
    breaker: BreakerSettings = BreakerSettings()


class ModelPorts(Section):
    """`model_ports`: a range of ports, of which every model gets one of its own.

    So the port tells which model is meant where a request names none. Left out: all models share the listening address.
    """

    first: Annotated[int, Field(ge=1, le=65_535)]
    """The first port of the range."""
    last: Annotated[int, Field(ge=1, le=65_535)]
    """The last one."""

    @model_validator(mode="after")
    def _range(self) -> ModelPorts:
        if not self.first <= self.last < self.first + MODEL_PORTS_MAX:
            raise ValueError(f"expected first <= last and at most {MODEL_PORTS_MAX} ports")
        return self


class Demo(Section):
    """`demo`: an embedded demonstration fleet, as with `--demo`. Left out: none."""

    chunks_per_second: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    """How fast each stream goes; 0: as fast as it can."""
    models: list[str] = Field(default_factory=lambda: ["demo-chat"], min_length=1)
    """One worker for each of these names."""


# What is wrong with a key is told without it: it may be the key itself that stands there.
_KEY_EXPECTED = f"expected {{name: NAME, sha256: DIGEST}} as `{PROGRAM} key NAME` writes it, never the key itself"


def _digest(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError("sha256: expected 64 hexadecimal digits in quotes, a key's digest and never the key itself")
    if value.lower() == hashlib.sha256(b"").hexdigest():
        raise ValueError("sha256: this is the digest of an empty key, which everybody has")
    return value.lower()


class ApiKey(Section):
    """`api_keys`: a key of clients, never the key itself."""

    name: Name
    """Under which the log and the metrics know it."""
    sha256: Annotated[str, BeforeValidator(_digest)]
    """The digest of the key in hexadecimal, as the command `key` writes it, in quotes."""

    @model_validator(mode="before")
    @classmethod
    def _no_plain_key(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError(_KEY_EXPECTED)
        return value


def _is_list(value: object) -> object:
    if not isinstance(value, list):
        raise ValueError(f"api_keys: expected a list; each: {_KEY_EXPECTED}")
    return value


def _each_once(keys: list[ApiKey]) -> list[ApiKey]:
    names, digests = {key.name for key in keys}, {key.sha256 for key in keys}
    if len(names) < len(keys) or len(digests) < len(keys):
        raise ValueError("api_keys: the same name or the same digest stands there twice")
    if reserved := names & {"none", "other"}:
        raise ValueError(
            f"api_keys: the name '{min(reserved)}' has a meaning of its own in metrics; choose another one"
        )
    return keys


ApiKeyList = Annotated[
    list[ApiKey], Field(max_length=API_KEYS_MAX), BeforeValidator(_is_list), AfterValidator(_each_once)
]


class Settings(BackendSettings):
    """Everything that can be set."""

    listen: ListenAddress = "127.0.0.1:8090"
    """Where clients call the gateway."""
    admin: ListenAddress = "127.0.0.1:8091"
    """Where operators find /metrics, /healthz, /readyz and /status."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Processes that serve clients; with more than 1 a further one has the fleet. Left out: one for each CPU that the
    gateway may use, by its affinity and its control group's quota, on Linux; 1 elsewhere.
    """
    rules: list[str] = Field(default_factory=list)
    """Rule packs, folders of rule packs, or names of packs that come with the program. Empty: all of those."""
    api_keys: ApiKeyList = Field(default_factory=list)
    """Keys of clients, for the rule packs that want one (keys in pack.yaml). Empty: everybody is let in."""
    default_model: str | None = None
    """The model that is meant by a request that names none and comes in on the common address. Left out: the first by
    name.
    """
    model_ports: ModelPorts | None = None
    timeouts: TimeoutSettings = TimeoutSettings()
    balance: Balance = Balance()
    watch_files: bool = True
    """Read the settings and rules again when a file of theirs changes, as on SIGHUP. One with a mistake is refused."""
    recordings: str | None = None
    """The folder for recordings of requests, which an operator can have made over the admin address. They hold what
    clients and workers say. Left out: nothing is ever recorded.
    """
    shutdown_seconds: Seconds = SHUTDOWN_SECONDS
    """How long streams may go on after the gateway was asked to stop."""
    log: Log = Log()
    demo: Demo | None = None


def serving_processes(settings: Settings) -> int:
    """How many processes serve clients. ValueError with one sentence where there cannot be so many."""
    wanted = settings.workers
    if not hasattr(os, "sched_getaffinity"):  # where connections are not shared out among processes
        if wanted not in (None, 1):
            raise ValueError(f"--workers {wanted}: only Linux shares out connections; expected 1 on this system")
        return 1
    cpus = usable_cpus()
    most = PROCESSES_PER_CPU_MAX * cpus
    if wanted is not None and wanted > most:
        here = "the CPU that" if cpus == 1 else f"each of the {cpus} CPUs that"
        raise ValueError(f"--workers {wanted}: at most {most}, {PROCESSES_PER_CPU_MAX} for {here} the gateway may use")
    return wanted or cpus


def load_settings(file: Path | None, flags: Mapping[str, object]) -> Settings:
    """The settings in `file`, with `flags` over them (a section's flags beat its keys one by one).

    DocumentError with every mistake of the file and its place; ValueError, a line for each wrong flag or for what does
    not go together.
    """
    document = Document("settings", {}, {}, {}) if file is None else _read(file)
    validate(document, Settings)
    merged: dict[str, object] = dict(document.value) if isinstance(document.value, dict) else {}
    _merge(merged, flags)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise ValueError("\n".join(_flag_mistake(entry) for entry in error.errors(include_url=False))) from None
    problems = settings.problems(settings.listen, demo=settings.demo is not None)
    if problems:
        raise ValueError("\n".join(problems))
    return settings


def _merge(into: dict[str, object], given: Mapping[str, object]) -> None:
    """Put what was given over what is there, key by key where both are sections."""
    for name, value in given.items():
        there = into.get(name)
        if isinstance(value, Mapping):
            section: dict[str, object] = dict(there) if isinstance(there, dict) else {}
            _merge(section, value)
            into[name] = section
        else:
            into[name] = value


def _read(file: Path) -> Document:
    try:
        return read_yaml(read_text(file, YAML_MAX_BYTES), str(file))
    except OSError as error:
        raise ValueError(f"--config {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"--config {file}: not UTF-8 text") from None


def _flag_mistake(entry: ErrorDetails) -> str:
    """The file was right by itself, so what is wrong was given as a flag."""
    section, *rest = (str(part) for part in entry["loc"])
    flags = [flag.name for flag in FLAGS if flag.section == section and ".".join(rest).startswith(flag.key)]
    return f"{flags[0] if flags else f'--{section}'}: {entry['msg'].removeprefix('Value error, ')}"


__all__ = ["Address", "DocumentError", "Settings", "load_settings", "parse_address", "serving_processes"]
