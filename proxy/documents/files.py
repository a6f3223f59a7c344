"""The files that a person wrote, opened so that none of them can hold up the program for ever."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Opening a pipe would wait for somebody who writes to it; a terminal would become the program's own.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)

_THREAD: Final = threading.local()


def read_text(file: Path, max_bytes: int) -> str:
    """The text of a regular file of at most so many bytes.

    OSError whose strerror is a reason for people, with EFBIG for a file that is larger; UnicodeDecodeError.
    """
    number = os.open(file, _FLAGS)
    try:
        state = os.fstat(number)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file, which could be read again")
        if state.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"the file is over the limit of {max_bytes} bytes")
        with open(number, encoding="utf-8", closefd=False) as stream:
            text = stream.read(max_bytes + 1)
    finally:
        os.close(number)
    noted: set[tuple[str, str]] | None = getattr(_THREAD, "noted", None)
    if noted is not None:
        noted.add((str(file), hashlib.sha256(text.encode()).hexdigest()))
    return text


@contextlib.contextmanager
def noting_texts() -> Iterator[set[tuple[str, str]]]:
    """Each text that this thread reads meanwhile: the file's name, and a digest of what stood there."""
    _THREAD.noted = set()
    try:
        yield _THREAD.noted
    finally:
        _THREAD.noted = None
