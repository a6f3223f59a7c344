"""`python -m proxy.tools.reference DIR` writes the reference pages into DIR."""

from __future__ import annotations

import sys
from pathlib import Path

from proxy.tools.reference.pages import pages

if __name__ == "__main__":
    for name, text in pages().items():
        (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")
