"""Files that a person wrote, and what only looks like one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from proxy.documents import DocumentError, read_text
from proxy.reload import read_rules
from proxy.settings import load_settings
from tests.cli.process import ROOT


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe.yaml")
    return tmp_path / "pipe.yaml"


def test_a_pipe_is_refused_at_once(pipe: Path) -> None:
    """Whoever reads a pipe waits for somebody who writes, so it is not read: as settings, as a template, as a rule."""
    reason = "not a regular file, which could be read again"
    with pytest.raises(OSError, match=reason):
        read_text(pipe, 100)
    with pytest.raises(ValueError, match=f"--config {pipe}: {reason}"):
        load_settings(pipe, {})
    settings = pipe.with_name("settings.yaml")
    settings.write_text(f"demo: {{}}\nmodels: {{m: {{chat_template_file: '{pipe}'}}}}\n", encoding="utf-8")
    with pytest.raises(DocumentError, match=f"settings.yaml:2:34: chat_template_file: {pipe}: {reason}"):
        load_settings(settings, {})
    pack = Path(shutil.copytree(ROOT / "rules" / "dbgpt-worker", pipe.with_name("pack")))
    os.mkfifo(pack / "zz.yaml")
    with pytest.raises(DocumentError, match=f"{pack}/zz.yaml:1:1: cannot be read: {reason}"):
        read_rules([str(pack)])


@pytest.mark.parametrize("odd", ["/dev/null", "/dev/zero", "/dev"])
def test_devices_and_folders_are_no_files(odd: str) -> None:
    """A device may have no end, and a folder has no text."""
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        read_text(Path(odd), 100)


def test_a_file_is_read_to_its_bound(tmp_path: Path) -> None:
    """Line ends are as everywhere in Python; what is larger than allowed is not read."""
    file = tmp_path / "a"
    file.write_bytes("ä\r\nb".encode())
    assert read_text(file, 5) == "ä\nb"
    with pytest.raises(OSError, match="the file is over the limit of 4 bytes"):
        read_text(file, 4)


def test_no_descriptor_is_left_open(pipe: Path, tmp_path: Path) -> None:
    """However often a file is refused, nothing is kept of it."""
    (tmp_path / "latin").write_bytes(b"\xff")
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        for file in (pipe, tmp_path, tmp_path / "latin", tmp_path / "gone"):
            with pytest.raises((OSError, UnicodeDecodeError)):
                read_text(file, 100)
    assert len(os.listdir("/dev/fd")) == before
