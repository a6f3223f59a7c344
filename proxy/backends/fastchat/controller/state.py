"""The file in which admitted registrations outlive the gateway."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from proxy.types import Json

log = logging.getLogger(__name__)

_MAX_BYTES: Final = 1_000_000


class Kept(NamedTuple):
    """One registration as it was posted, and from where."""

    worker_name: str
    peer: str
    same_machine: bool
    heartbeats: bool
    multimodal: bool


def read_state(file: Path, most: int) -> list[Kept]:
    """What the file holds, at most so many; a file that is not there is empty, a broken one is a warning and empty."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        rows: Json = orjson.loads(content)
        if not isinstance(rows, list):
            raise ValueError("expected a list")
        return [_kept(row) for row in rows[:most]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.warning("%s: registrations of workers cannot be read, they have to come anew: %s", file, error)
        return []


def write_state(file: Path, kept: Iterable[Kept]) -> None:
    """Replace the file in one step; a failure is a warning, and the old file stays."""
    content = orjson.dumps([each._asdict() for each in kept], option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        log.warning("%s: registrations of workers cannot be kept: %s", file, error)
        return
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        os.replace(name, file)
    except OSError as error:
        log.warning("%s: registrations of workers cannot be kept: %s", file, error)
        with contextlib.suppress(OSError):
            os.unlink(name)


def _kept(row: Json) -> Kept:
    if not isinstance(row, dict):
        raise ValueError("expected a list of objects")
    name, peer = row.get("worker_name"), row.get("peer")
    if not isinstance(name, str) or not isinstance(peer, str):
        raise ValueError("expected worker_name and peer as strings")
    here, heartbeats, multimodal = (row.get(key) is True for key in ("same_machine", "heartbeats", "multimodal"))
    return Kept(name, peer, here, heartbeats, multimodal)
