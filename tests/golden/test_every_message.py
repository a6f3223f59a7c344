"""Every sentence with which the program tells a mistake in a rule file is in a golden file, told of some pack."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.structure.sources import ROOT, python_files, tree

TOLD = "\n".join(file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("*/*.txt")))
FILES = [
    *(file for file in python_files("proxy/documents", "proxy/ruleset") if file.name != "vocabulary.py"),
    *(Path("proxy/expr", name) for name in ("compile.py", "growth.py", "parse.py", "scan.py")),
    Path("proxy/translate/routes.py"),
]

# Texts of several words that are told to nobody.
UNTOLD = {
    "within {...} libyaml sees an empty value elsewhere": "has the file read by the other reader",
    "Input should be": "what other libraries say, to be told in our words",
    "String should": "the same",
    "did not find expected": "the same",
    "str | int": "a type",
    "text with {expressions}": "what editors show",
    "a value is nested too deeply to be compared": "of a request, while it is served",
    "the expression holds an index with too many digits": "only where longer expressions are allowed",
    "reads no stream": "a fault of the program, and what `translate` says",
    "the frames depend on where the worker's bytes are cut": "a fault of the program",
    "the rule failed:": "a fault of the program",
    "expected a message with '{}', got: {}": "stands on two lines where people read it",
    "asks no worker of the kind": "a wrong argument of a command",
    "no rule has the path": "what a client is told, not who writes rules",
}
# What takes a large file, or none, to be told, and the test that does.
ELSEWHERE = {
    "not a regular file, which could be read again": "tests/documents/test_files.py",
    "the file is over the limit of": "tests/documents/test_yaml.py",
    "more than {} values": "tests/documents/test_yaml.py",
    "there is no such folder; expected a rule pack": "tests/cli/test_commands.py",
    "files in one pack; the limit is": "tests/ruleset/test_loader.py",
    "more than {} files in one pack": "tests/cli/test_hostile_packs.py",
    "are over the limit of {} bytes together": "tests/cli/test_hostile_packs.py",
    "could hold what is read more than {} times over": "tests/cli/test_hostile_packs.py",
}


class Sentence(NamedTuple):
    """A text in the program's source; what is put into it stands as {}."""

    file: Path
    line: int
    text: str

    @property
    def told(self) -> bool:
        """Whether it stands in a golden file."""
        pattern = ".*".join(re.escape(part) for part in self.text.split("{}"))
        return re.search(pattern, TOLD) is not None

    def has_part(self, parts: dict[str, str]) -> bool:
        """Whether it is one of these."""
        return any(part in self.text for part in parts)


def sentences(file: Path) -> Iterator[Sentence]:
    """The texts of several words in a file that are no docstrings."""
    module = tree(file)
    inner = {id(part) for node in ast.walk(module) if isinstance(node, ast.JoinedStr) for part in node.values}
    docs = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner | docs:
            text = node.value
        else:
            continue
        if len(re.findall(r"[a-z]{2,}", text)) >= 2 and " " in text.strip():
            yield Sentence(file, node.lineno, text)


FOUND = [sentence for file in FILES for sentence in sentences(file)]


def test_the_sentences_are_found() -> None:
    """Those of every file that has any, also where values are put into them."""
    assert len(FOUND) > 150
    texts = {sentence.text for sentence in FOUND}
    assert {"a step has either set or check", "a second pack is named '{}'", "min {} is above max {}"} <= texts


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_mistake_has_a_golden_pack(file: Path) -> None:
    """A sentence that no pack makes the program say is one that nobody has read where it is told."""
    silent = [
        f"{sentence.file}:{sentence.line}: {sentence.text}"
        for sentence in FOUND
        if sentence.file == file and not (sentence.told or sentence.has_part(UNTOLD) or sentence.has_part(ELSEWHERE))
    ]
    assert not silent, "\n".join(silent)


def test_no_exception_is_stale() -> None:
    """Each is a text of the program that no golden file has; the tests that are named have it."""
    for part in [*UNTOLD, *ELSEWHERE]:
        assert any(part in sentence.text and not sentence.told for sentence in FOUND), part
    for part, test in ELSEWHERE.items():
        words = max(part.split("{}"), key=len).strip()
        assert words in re.sub(r'"\n\s*f?"', "", (ROOT / test).read_text(encoding="utf-8")), part
