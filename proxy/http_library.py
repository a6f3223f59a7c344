"""aiohttp without the system's certificates, which it reads twice while it is imported: a tenth of the program's start.

This program verifies with contexts of its own, made when the first https address is called.
"""

from __future__ import annotations

import importlib
import ssl
from typing import Final

_READS: Final = "set_default_verify_paths"


def load() -> None:
    """Import it. What it would call over TLS with its own contexts is refused, as signed by nobody known."""
    reads = getattr(ssl.SSLContext, _READS)
    setattr(ssl.SSLContext, _READS, lambda _: None)
    try:
        importlib.import_module("aiohttp")
    finally:
        setattr(ssl.SSLContext, _READS, reads)
