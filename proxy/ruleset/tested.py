"""The rules that come with the program, as they were when all of their own tests passed: those need no test at a start.

`tested.json`, beside the packs, has a digest of their files. Where it is another one, because somebody has changed a
file or added one, they are tested as all other rules are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proxy.ruleset.sources import found_pack, shipped_rules

RECORD: Final = "tested.json"
_KINDS: Final = frozenset({".yaml", ".json"})
_SCHEMA: Final = re.compile(r"schemas/[^/]*\.json")


def digest(folder: Path) -> str:
    """SHA-256, in hex, of the names and contents of all rule files below a folder. OSError where one is unreadable."""
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.suffix in _KINDS and name != RECORD and not _SCHEMA.fullmatch(name):
            content = file.read_bytes()
            found.update(f"{name}\0{len(content)}\0".encode())
            found.update(content)
    return found.hexdigest()


def were_tested(paths: Sequence[Path], home: Path | None = None) -> bool:
    """Whether these rules are nothing but rules that come with the program and are as they were tested.

    home: the folder of those, where it is another one than the program's.
    """
    home = (home or shipped_rules()).resolve()
    if not all(found_pack(path).resolve().is_relative_to(home) for path in paths):
        return False
    if any(entry.is_symlink() for entry in home.rglob("*")):
        return False  # what is behind a link is read as a pack, and is not in the digest
    try:
        record = json.loads((home / RECORD).read_bytes())
        return isinstance(record, dict) and record.get("sha256") == digest(home)
    except (OSError, ValueError):
        return False


def note(home: Path) -> None:
    """Write down that the rules in this folder passed their tests."""
    (home / RECORD).write_text(json.dumps({"sha256": digest(home)}) + "\n", encoding="utf-8")
