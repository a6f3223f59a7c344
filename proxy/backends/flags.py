"""The command-line flags that belong to a named product."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

PROGRAM = "dbgpt-gateway"
FIRST_PACK = "dbgpt-worker"
"""The rule pack that `init` changes where no other is named."""
PURPOSE = "A gateway that makes a FastChat fleet a member of a DB-GPT cluster."


class Flag(NamedTuple):
    """A command-line flag and what it sets in the settings: section and key, which may be a path with dots; without a
    key, the section as a whole.

    addresses: it may be given several times, and each time with several values between commas; an empty one clears what
    the settings file has. alone: the value of the flag without one; None where a value is needed. metavar: what a value
    looks like; read: what the settings have of one of several values, ValueError with one sentence for a wrong one;
    example: how the settings say it.
    """

    name: str
    section: str
    key: str
    help: str
    addresses: bool = True
    alone: str | None = None
    metavar: str = "URL"
    read: Callable[[str], object] = str
    example: str = "[http://HOST:PORT]"


def _worker(text: str) -> dict[str, str]:
    kind, separator, url = text.partition("=")
    if not separator or not kind or not url:
        raise ValueError(f"--backend: expected KIND=URL such as ollama=http://127.0.0.1:11434, got '{text}'")
    return {"kind": kind, "url": url}


FLAGS: tuple[Flag, ...] = (
    Flag("--fastchat-controller", "fastchat", "controllers", "Take the fleet from this FastChat controller."),
    Flag("--fastchat-worker", "fastchat", "workers", "Serve this FastChat worker."),
    Flag(
        "--accept-workers",
        "fastchat",
        "accept.listen",
        "Be the controller with which FastChat workers register. Without a value: 127.0.0.1:21001.",
        addresses=False,
        alone="127.0.0.1:21001",
        metavar="HOST:PORT",
        example="HOST:PORT",
    ),
    Flag(
        "--backend",
        "backends",
        "",
        "Serve this worker of another backend, such as ollama=http://127.0.0.1:11434.",
        metavar="KIND=URL",
        read=_worker,
        example="[{kind: KIND, url: http://HOST:PORT}]",
    ),
    Flag(
        "--fastchat-register-with", "fastchat", "register_with", "Register as a worker with this FastChat controller."
    ),
    Flag("--dbgpt-controller", "dbgpt", "controllers", "Register with this DB-GPT controller."),
    Flag("--dbgpt-workers-from", "dbgpt", "workers_from", "Serve the workers of this DB-GPT controller."),
    Flag(
        "--advertise",
        "dbgpt",
        "advertise",
        "The address under which DB-GPT reaches this gateway. Default: the listening address.",
        addresses=False,
        metavar="HOST:PORT",
        example="HOST:PORT",
    ),
)


def flag_values(given: Mapping[str, object]) -> dict[str, object]:
    """What the given flags (by parameter name) set, by section and key; flags that were not given set nothing.

    ValueError with one sentence for a value that cannot be read.
    """
    values: dict[str, object] = {}
    for flag in FLAGS:
        value = given.get(flag.name.removeprefix("--").replace("-", "_"))
        if value is not None and value != ():
            found = [flag.read(part) for part in _split(value)] if isinstance(value, tuple) else value
            *sections, key = [flag.section, *filter(None, flag.key.split("."))]
            place = values
            for section in sections:
                inner = place.setdefault(section, {})
                place = inner if isinstance(inner, dict) else {}
            place[key] = found
    return values


def _split(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
