"""Where the settings come from, at the start and at each reload. Light, so that a mistake is told at once."""

from __future__ import annotations

from pathlib import Path

from proxy.settings import Settings, load_settings


class Source:
    """A settings file, and flags that beat it each time it is read.

    tried: the settings that were read last, also where they did not come into force.
    """

    def __init__(self, file: Path | None, flags: dict[str, object]) -> None:
        self.file = file
        self.tried: Settings | None = None
        self._flags = flags

    def settings(self) -> Settings:
        """Read them. DocumentError or ValueError as `load_settings`."""
        self.tried = load_settings(self.file, self._flags)
        return self.tried
