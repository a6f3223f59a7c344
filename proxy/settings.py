"""The settings of one gateway: a YAML file, and command-line flags that beat it. docs/settings.md has every key."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError, field_validator, model_validator

from proxy.backends.settings import BackendSettings, Seconds, Section
from proxy.documents import Document, DocumentError, parse_yaml, validate
from proxy.limits import MODEL_PORTS_MAX


class Address(NamedTuple):
    """Where something listens, or is reached."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`host:port`, `[::1]:port`. ValueError with one sentence otherwise."""
    host, separator, port = text.rpartition(":")
    host = host.strip()
    if not separator or not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise ValueError(f"expected HOST:PORT such as 127.0.0.1:8090, got '{text}'")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)
    elif ":" in host or not host or any(character.isspace() or character == "/" for character in host):
        raise ValueError(f"expected HOST:PORT such as 127.0.0.1:8090, got '{text}'; an IPv6 host stands in brackets")
    return Address(host, int(port))


class Log(Section):
    """`log`: how much, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class TimeoutSettings(Section):
    """`timeouts`: how long a worker may take, in seconds: to accept, to begin, between two reads, in all."""

    connect_seconds: Seconds = 5.0
    first_seconds: Seconds = 600.0
    idle_seconds: Seconds = 300.0
    total_seconds: Seconds = 3_600.0


class ModelPorts(Section):
    """`model_ports`: a range of ports, of which every model gets one of its own."""

    first: Annotated[int, Field(ge=1, le=65_535)]
    last: Annotated[int, Field(ge=1, le=65_535)]

    @model_validator(mode="after")
    def _range(self) -> ModelPorts:
        if not self.first <= self.last < self.first + MODEL_PORTS_MAX:
            raise ValueError(f"expected first <= last and at most {MODEL_PORTS_MAX} ports")
        return self


class Demo(Section):
    """`demo`: the embedded demonstration fleet of `--demo`."""

    chunks_per_second: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    models: list[str] = ["demo-chat"]


class Settings(BackendSettings):
    """Everything that can be set."""

    listen: str = "127.0.0.1:8090"
    admin: str = "127.0.0.1:8091"
    rules: list[str] = []
    default_model: str | None = None
    model_ports: ModelPorts | None = None
    timeouts: TimeoutSettings = TimeoutSettings()
    shutdown_seconds: Seconds = 20.0
    log: Log = Log()
    demo: Demo | None = None

    @field_validator("listen", "admin")
    @classmethod
    def _is_address(cls, text: str) -> str:
        parse_address(text)
        return text

    @model_validator(mode="after")
    def _advertised(self) -> Settings:
        if self.dbgpt.advertise is not None:
            parse_address(self.dbgpt.advertise)
        elif self.dbgpt.controllers and parse_address(self.listen).host in {"0.0.0.0", "::"}:  # noqa: S104
            raise ValueError(
                f"listen is {self.listen}, an address nobody can call; "
                "set dbgpt.advertise (--advertise) to the HOST:PORT under which DB-GPT reaches this gateway"
            )
        return self

    def advertised_address(self) -> Address | None:
        """The address that was set for clusters to call, None where it is the listening one."""
        return None if self.dbgpt.advertise is None else parse_address(self.dbgpt.advertise)


def load_settings(file: Path | None, flags: Mapping[str, object]) -> Settings:
    """The settings in `file`, with `flags` over them (a section's flags beat its keys one by one).

    DocumentError with every mistake of the file and its place; ValueError with one sentence for a wrong flag.
    """
    document = Document("settings", {}, {}, {})
    if file is not None:
        try:
            document = parse_yaml(file.read_text(encoding="utf-8"), str(file))
        except OSError as error:
            raise ValueError(f"--config {file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"--config {file}: not UTF-8 text") from None
        validate(document, Settings)
    value = document.value if document.value is not None else {}
    merged: dict[str, object] = dict(value) if isinstance(value, dict) else {}
    for name, given in flags.items():
        section = merged.get(name)
        if isinstance(given, Mapping):
            merged[name] = {**(section if isinstance(section, dict) else {}), **given}
        else:
            merged[name] = given
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise ValueError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None


__all__ = ["Address", "DocumentError", "Settings", "load_settings", "parse_address"]
