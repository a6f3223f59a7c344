from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

from proxy.documents import DocumentError, parse_yaml
from proxy.ruleset import shipped_rules
from proxy.tools.commands import schema
from proxy.tools.schemas import schemas
from proxy.types import Json
from tests.tools.json_schema import problems
from tests.tools.packs import FILES, run, run_json

ROOT = Path(__file__).parents[2]
SCHEMAS = schemas()


def kind(file: Path | str) -> str:
    path = Path(file)
    parts = "operation" if "backends" in path.parts else "rule"
    return {"pack.yaml": "pack", "errors.yaml": "errors", "backend.yaml": "backend"}.get(path.name, parts)


def value(text: str) -> Json:
    return parse_yaml(text, "x").value


@pytest.mark.parametrize(
    "file", sorted(shipped_rules().rglob("*.yaml")), ids=lambda file: f"{file.parent.name}-{file.name}"
)
def test_the_shipped_files_are_as_the_schema_wants_them(file: Path) -> None:
    """An editor marks nothing in them."""
    assert problems(SCHEMAS[kind(file)], value(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "file", sorted(shipped_rules().rglob("*.yaml")), ids=lambda file: f"{file.parent.name}-{file.name}"
)
def test_the_shipped_files_name_their_schema(file: Path) -> None:
    """Their first line leads an editor to it, in a checkout and in an installed package."""
    above = "../" * (len(file.relative_to(shipped_rules()).parts) - 1)
    expected = f"# yaml-language-server: $schema={above}schemas/{kind(file)}.schema.json"
    assert file.read_text(encoding="utf-8").partition("\n")[0] == expected


def test_no_schema_is_stale() -> None:
    """After a change: make docs."""
    written = {file.name: json.loads(file.read_bytes()) for file in (shipped_rules() / "schemas").iterdir()}
    assert written == {f"{name}.schema.json": each for name, each in SCHEMAS.items()}, "run: make docs"
    example = (ROOT / "settings.example.yaml").read_text(encoding="utf-8")
    assert example.startswith("# yaml-language-server: $schema=rules/schemas/settings.schema.json\n")


# What a schema can say of the mistakes that `check` finds; it knows no names and no expressions.
_SHAPE = re.compile(
    r"unknown key|the key '\w+' is missing|needs exactly one of|expected an expression or a mapping"
    r"|^[\w\[\]]+: expected .*, got "
)
_GOLDEN = ROOT / "tests" / "golden" / "diagnostics"


def _golden_files() -> list[tuple[Path, bool]]:
    """Each golden file that is YAML and in which `check` finds a mistake in its shape, or none at all; and which."""
    told: dict[Path, list[str]] = {}
    for listed in _GOLDEN.glob("*.txt"):
        for line in listed.read_text(encoding="utf-8").splitlines()[:-1]:
            place, _, message = line.partition(": ")
            told.setdefault(_GOLDEN / place.partition(":")[0], []).append(message)
    found = []
    for file in sorted((_GOLDEN / "packs").rglob("[!.]*.yaml")):
        wrong = any(_SHAPE.search(message) for message in told.get(file, []))
        if wrong or file not in told:
            with contextlib.suppress(UnicodeDecodeError, DocumentError):
                value(file.read_text(encoding="utf-8"))
                found.append((file, wrong))
    return found


@pytest.mark.parametrize(
    ("file", "wrong"),
    _golden_files(),
    ids=lambda each: f"{each.parent.name}-{each.name}" if isinstance(each, Path) else "",
)
def test_an_editor_marks_what_check_refuses(file: Path, wrong: bool) -> None:
    """Mistakes in the shape of a file are marked, and nothing is where `check` finds nothing."""
    assert bool(problems(SCHEMAS[kind(file)], value(file.read_text(encoding="utf-8")))) == wrong


def test_settings_and_extensions_too() -> None:
    """The example of all settings, and the documented pack that changes another one."""
    assert problems(SCHEMAS["settings"], value((ROOT / "settings.example.yaml").read_text(encoding="utf-8"))) == []
    text = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    for name, content in re.findall(r"^```yaml\n# (\w+\.yaml)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        assert problems(SCHEMAS[kind(name)], value(content)) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "place"),
    [
        ("chat.yaml", "request:", "requst:", ".requst"),
        ("chat.yaml", "size: {value: 5}", "size: {value: 5, from: x}", ".request.body.fields.size"),
        ("chat.yaml", "size: {value: 5}", "size: 5", ".request.body.fields.size"),
        ("chat.yaml", "type: string", "type: text", ".steps[1].value.type"),
        ("chat.yaml", "text: incremental", "text: some", ".stream.from.text"),
        ("chat.yaml", "route: chat\n", "", ".route"),
        ("chat.yaml", "route: chat\n", "route: chat\nremove: [a]\n", ".remove"),
        ("whole.yaml", "status: 201", "status: 99", ".answer.status"),
        ("errors.yaml", "status: 422", "status: many", ".kinds.out_of_range.status"),
        ("pack.yaml", "pack: sample", "pack: Sample", ".pack"),
    ],
)
def test_what_check_refuses_an_editor_marks(name: str, old: str, new: str, place: str) -> None:
    """At the place where it stands; without the mistake there is nothing to mark."""
    chosen = SCHEMAS[kind(name)]
    assert problems(chosen, value(FILES[name])) == []
    assert old in FILES[name]
    found = problems(chosen, value(FILES[name].replace(old, new, 1)))
    assert any(line.startswith(f"{place}:") for line in found), found


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("extends: a\nremove: x\n", ".remove"),
        ("extends: a\nrequest: {body: {fields: {a: {frm: b}}}}\n", ".request.body.fields.a.frm"),
        ("extends: a\nsteps: [{set: a, value: b, after: 5}]\n", ".steps[0].after"),
        ("extends: a\ntests: [{name: x}]\n", ".tests[0].given"),
        ("extends: a\nmatch: {path: 5}\n", ".match.path"),
    ],
)
def test_mistakes_in_an_extension(text: str, place: str) -> None:
    """A part needs less than the whole, but what it has is looked at all the same."""
    found = problems(SCHEMAS["rule"], value(text))
    assert any(line.startswith(f"{place}:") for line in found), found


def test_printed_and_written(tmp_path: Path) -> None:
    """One or all on standard output, or each in a file of its own."""
    assert json.loads(run(schema, "rule").stdout) == SCHEMAS["rule"]
    assert run_json(schema).keys() == SCHEMAS.keys()
    result = run(schema, "--write", tmp_path / "new")
    assert result.stdout.splitlines() == [f"{tmp_path}/new/{name}.schema.json" for name in SCHEMAS]
    assert json.loads((tmp_path / "new/pack.schema.json").read_text(encoding="utf-8")) == SCHEMAS["pack"]
    assert run_json(schema, "errors", "--write", tmp_path) == {"written": [f"{tmp_path}/errors.schema.json"]}
    (tmp_path / "file").touch()
    failed = run(schema, "--write", tmp_path / "file")
    assert (failed.exit_code, failed.stderr) == (2, f"Error: --write {tmp_path}/file: File exists\n")
