"""The command-line flags that belong to a named product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

PROGRAM = "dbgpt-gateway"
PURPOSE = "A gateway that makes a FastChat fleet a member of a DB-GPT cluster."


class Flag(NamedTuple):
    """A command-line flag and what it sets in the settings: section and key, which may be a path with dots.

    addresses: it may be given several times, and each time with several URLs between commas; an empty one clears what
    the settings file has. alone: the value of the flag without one; None where a value is needed.
    """

    name: str
    section: str
    key: str
    help: str
    addresses: bool = True
    alone: str | None = None


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
    ),
    Flag("--dbgpt-controller", "dbgpt", "controllers", "Register with this DB-GPT controller."),
    Flag(
        "--advertise",
        "dbgpt",
        "advertise",
        "The address under which DB-GPT reaches this gateway. Default: the listening address.",
        addresses=False,
    ),
)


def flag_values(given: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """What the given flags (by parameter name) set, by section and key; flags that were not given set nothing."""
    values: dict[str, dict[str, object]] = {}
    for flag in FLAGS:
        value = given.get(flag.name.removeprefix("--").replace("-", "_"))
        if value is not None and value != ():
            urls = _split(value) if flag.addresses and isinstance(value, tuple) else value
            *sections, key = flag.key.split(".")
            place = values.setdefault(flag.section, {})
            for section in sections:
                inner = place.setdefault(section, {})
                place = inner if isinstance(inner, dict) else {}
            place[key] = urls
    return values


def _split(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
