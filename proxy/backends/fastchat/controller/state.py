"""The file in which admitted registrations outlive the gateway."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from proxy.types import Json

log = logging.getLogger(__name__)

_MAX_BYTES: Final = 1_000_000


class Kept(NamedTuple):
    """One registration as it was posted, and from where. Which peers are this machine is found out anew."""

    worker_name: str
    peer: str
    heartbeats: bool
    multimodal: bool


def read_state(file: Path, most: int) -> list[Kept]:
    """What the file holds, at most so many; a file that is not there is empty, a broken one is a warning and empty."""
    try:
        with file.open("rb") as opened:
            _warn_of_writers(file, os.fstat(opened.fileno()).st_mode)
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
    """Replace the file in one step; the old file stays where that fails, with OSError."""
    content = orjson.dumps([each._asdict() for each in kept], option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        os.replace(name, file)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _warn_of_writers(file: Path, mode: int) -> None:
    if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        log.warning(
            "%s: others may write this file (mode %o), and whoever does can make any address a worker: chmod 600 %s",
            file, stat.S_IMODE(mode), file,
        )  # fmt: skip


def _kept(row: Json) -> Kept:
    if not isinstance(row, dict):
        raise ValueError("expected a list of objects")
    name, peer = row.get("worker_name"), row.get("peer")
    if not isinstance(name, str) or not isinstance(peer, str):
        raise ValueError("expected worker_name and peer as strings")
    heartbeats, multimodal = (row.get(key) is True for key in ("heartbeats", "multimodal"))
    return Kept(name, peer, heartbeats, multimodal)
