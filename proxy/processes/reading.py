"""Settings and rules in a process that does not decide about them: read when control says so, in force when it says so.

Every process reads the files itself, and only where all have read the same texts is anything put in force.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from proxy.documents import DocumentError, noting_texts
from proxy.reload import Loaded, StartError, keep_fixed, read
from proxy.source import Source
from proxy.telemetry.log import configure_logging

log = logging.getLogger(__name__)


def with_digest(read: Callable[[], Loaded]) -> tuple[Loaded, str]:
    """What was read, and a digest of every text that was, and of the settings that were made of them."""
    with noting_texts() as texts:
        found = read()
    digest = hashlib.sha256(found.settings.model_dump_json().encode())
    for name, text in sorted(texts):
        digest.update(f"{len(name)} {name} {text}\n".encode("utf-8", "surrogateescape"))
    return found, digest.hexdigest()


class Reading:
    """found: what is in force, of this generation, which grows with each reload."""

    def __init__(self, source: Source, found: Loaded, generation: int = 1) -> None:
        self.source, self.found, self.generation = source, found, generation
        self._next: tuple[str, Loaded] | None = None

    def prepare(self) -> tuple[str, str]:
        """Read everything anew: the digest, or why it cannot be used. Takes up to a second of CPU."""
        self._next = None
        try:
            found, digest = with_digest(lambda: read(self.source))
        except (DocumentError, StartError, ValueError) as error:
            return "", next(iter(str(error).splitlines()), type(error).__name__)
        except Exception as error:
            log.exception("settings and rules cannot be read, for a reason that nobody thought of")
            return "", f"a fault of the gateway: {error!r}"
        self._next = digest, found
        return digest, ""

    def commit(self, digest: str, generation: int) -> bool:
        """Put what was read in force, where it is that; whether it is."""
        prepared, self._next = self._next, None
        if prepared is None or prepared[0] != digest:
            return False
        found, before = prepared[1], self.found.settings
        settings, _ = keep_fixed(before, found.settings)
        self.found, self.generation = found._replace(settings=settings), generation
        if settings.log != before.log:
            configure_logging(settings.log.level, settings.log.format)
        return True
