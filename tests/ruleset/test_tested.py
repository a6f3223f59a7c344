"""Which rules a start need not test again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.backends.functions import rule_functions
from proxy.documents import parse_yaml
from proxy.ruleset import load_rules, shipped_rules
from proxy.ruleset.sources import without_tests
from proxy.ruleset.tested import RECORD, digest, note, were_tested
from proxy.tools import tested


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A copy of the shipped rules with their record."""
    return Path(shutil.copytree(shipped_rules(), tmp_path / "rules"))


def test_the_record_is_of_the_rules_beside_it() -> None:
    """`make docs` writes it, after the rules' own tests have passed."""
    assert were_tested([shipped_rules()]), "the shipped rules have changed: run make docs"


@pytest.mark.parametrize(
    "file", sorted(shipped_rules().rglob("*.yaml")), ids=lambda file: f"{file.parent.name}-{file.name}"
)
def test_tests_are_at_the_end_of_a_file(file: Path) -> None:
    """Where a start leaves them out, without reading them; everything else is as it was."""
    text = file.read_text(encoding="utf-8")
    whole, rest = (parse_yaml(each, file.name).value for each in (text, without_tests(text)))
    assert isinstance(whole, dict)
    assert rest == {key: value for key, value in whole.items() if key != "tests"}


def test_the_same_is_served_without_them() -> None:
    rules = load_rules([shipped_rules()], rule_functions())
    bare = load_rules([shipped_rules()], rule_functions(), with_tests=False)
    assert [(route.name, route.place) for route in bare.table.routes] == [
        (route.name, route.place) for route in rules.table.routes
    ]
    assert bare.backends.keys() == rules.backends.keys()
    assert (len(rules.tests) > 300, bare.tests) == (True, ())


@pytest.mark.parametrize("name", ["openai", "backends/fastchat", "dbgpt-worker"])
def test_some_of_them_by_name(name: str) -> None:
    assert were_tested([Path(name)])


@pytest.mark.parametrize("inside", ["", "openai", "backends"])
def test_a_copy_with_its_record(home: Path, inside: str) -> None:
    assert were_tested([home / inside], home)


def _change(home: Path) -> None:
    file = home / "openai" / "openai_chat.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("stream", "strean", 1), encoding="utf-8")


def _link(home: Path) -> None:
    own = Path(shutil.copytree(home / "openai", home.parent / "own"))
    (home / "mine").symlink_to(own)


def _pack_among_schemas(home: Path) -> None:
    shutil.copytree(home / "openai", home / "schemas" / "mine")


def _rename(home: Path) -> None:
    (home / "openai" / "openai_chat.yaml").rename(home / "openai" / "chats.yaml")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_change, id="a character"),
        pytest.param(lambda home: (home / "ollama" / "own.yaml").write_text("route: own\n"), id="a further file"),
        pytest.param(lambda home: (home / "ollama" / "errors.yaml").unlink(), id="one file less"),
        pytest.param(_rename, id="another name"),
        pytest.param(_link, id="a linked pack"),
        pytest.param(_pack_among_schemas, id="a pack in an odd place"),
        pytest.param(lambda home: (home / RECORD).unlink(), id="no record"),
        pytest.param(lambda home: (home / RECORD).write_text("[]"), id="a record that is none"),
        pytest.param(lambda home: (home / RECORD).write_text("{"), id="a record that is no JSON"),
    ],
)
def test_whatever_is_changed_is_tested_again(home: Path, change: Callable[[Path], object]) -> None:
    change(home)
    assert not were_tested([home], home)
    assert not were_tested([home / "openai"], home)


def test_what_an_operator_wrote_is_always_tested(tmp_path: Path, home: Path) -> None:
    """Alone, and beside rules that come with the program."""
    own = Path(shutil.copytree(home / "openai", tmp_path / "own"))
    assert not were_tested([own], home)
    assert not were_tested([home, own], home)


def test_schemas_are_no_rules(home: Path) -> None:
    before = digest(home)
    shutil.rmtree(home / "schemas")
    assert digest(home) == before


def test_a_note_is_what_is_looked_at(home: Path) -> None:
    _change(home)
    note(home)
    assert were_tested([home], home)


def test_only_what_passed_is_noted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make docs` ends in the failed test, and leaves the record as it was."""
    monkeypatch.setattr(tested, "shipped_rules", lambda: home)
    file = home / "dbgpt-worker" / "count_token.yaml"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace("{answer: 2}", "{answer: 3}"), encoding="utf-8")
    before = (home / RECORD).read_bytes()
    with pytest.raises(SystemExit, match=r"count_token\.yaml:\d+: test 'the worker's count is the answer': answer"):
        tested.main()
    assert (home / RECORD).read_bytes() == before
    file.write_text(f"# A word more.\n{whole}", encoding="utf-8")
    tested.main()
    assert were_tested([home], home)
