"""`backends` of the settings, and the flag for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.backends.flags import flag_values
from proxy.backends.sources import check
from proxy.documents import DocumentError
from proxy.settings import Settings, load_settings
from tests.backends.declared.harness import rules

URL = "http://10.0.0.5:8000"


def of(*workers: object, **more: object) -> Settings:
    return load_settings(None, {"backends": list(workers), **more})


def test_a_gateway_with_nothing_but_declared_workers() -> None:
    """No FastChat and no DB-GPT is needed."""
    (worker,) = of({"kind": "example", "url": URL + "/"}).backends
    assert (worker.url, worker.models, worker.limit, worker.secret()) == (URL, None, None, None)


def test_the_flag() -> None:
    """`--backend KIND=URL`, as often as needed."""
    flags = flag_values({"backend": ("example=http://a:1", "other=http://b:2,other=http://c:3")})
    found = [(worker.kind, worker.url) for worker in load_settings(None, flags).backends]
    assert found == [("example", "http://a:1"), ("other", "http://b:2"), ("other", "http://c:3")]


@pytest.mark.parametrize("value", ["http://a:1", "=http://a:1", "example="])
def test_a_flag_that_cannot_be_read(value: str) -> None:
    """What was expected, with an example."""
    with pytest.raises(ValueError, match=r"^--backend: expected KIND=URL such as ollama=http"):
        flag_values({"backend": (value,)})


def test_a_flag_with_a_bad_address() -> None:
    """The flag is named, not the section."""
    with pytest.raises(ValueError, match=r"^--backend: \"ftp://a\" is not an address"):
        load_settings(None, flag_values({"backend": ("example=ftp://a",)}))


def test_where_a_key_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file itself, in a file of its own, or in the environment; white space around it is none of it."""
    (tmp_path / "key").write_text("of-a-file\n", encoding="utf-8")
    monkeypatch.setenv("SOME_KEY", "of-the-environment")
    given = [{"key": "plain"}, {"key_file": str(tmp_path / "key")}, {"key_env": "SOME_KEY"}, {}]
    workers = of(
        *({"kind": "example", "url": f"http://a:{port}", **each} for port, each in enumerate(given, 1))
    ).backends
    assert [worker.secret() for worker in workers] == ["plain", "of-a-file", "of-the-environment", None]


def test_a_key_is_not_shown() -> None:
    """Neither what settings are printed as nor what they are dumped as has it."""
    settings = of({"kind": "example", "url": URL, "key": "sk-secret"})
    assert "sk-secret" not in repr(settings) + str(settings) + str(settings.model_dump()) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"key": "a", "key_env": "B"}, "a worker has one key; key and key_env are given"),
        ({"key": ""}, "key: expected one line of at most 4096 ASCII characters; got 0 characters"),
        ({"key": "sk-über"}, "key: expected one line of at most 4096 ASCII characters; got 7 characters"),
        ({"key": "sk-a\nx: y"}, "key: expected one line of at most 4096 ASCII characters; got 9 characters"),
        ({"key": 12345678}, "expected text, in quotes where it is a number"),
        ({"key": ["sk-a"]}, "expected text, in quotes where it is a number"),
        ({"key_env": "NO_SUCH_VARIABLE"}, "key_env: there is no environment variable NO_SUCH_VARIABLE"),
        ({"key_file": "/nowhere/key"}, "key_file: /nowhere/key: No such file or directory"),
        ({"models": {"a": {"name": "c"}, "b": {"name": "c"}}}, "models: both a and b are named c"),
        ({"models": {"a": {"name": "b"}, "b": {}}}, "models: both a and b are named b"),
        ({"kind": "No Kind"}, "'No Kind'"),
        ({"models": {"a": {"kinds": ["image"]}}}, "image"),
        ({"limit": 0}, "greater than or equal to 1"),
    ],
)
def test_mistakes_in_an_entry(tmp_path: Path, given: dict[str, object], says: str) -> None:
    """Each is told once, at its place, and no key in it."""
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps({"backends": [{"kind": "example", "url": URL, **given}]}), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        load_settings(file, {})
    (mistake,) = caught.value.diagnostics
    assert says in mistake.message
    assert "sk-" not in mistake.message
    assert "12345678" not in mistake.message


def test_an_address_has_one_entry() -> None:
    """Twice among the backends, and once more as a FastChat worker."""
    two = [{"kind": "example", "url": URL}, {"kind": "other", "url": URL.upper().replace("HTTP", "http") + "/"}]
    with pytest.raises(ValueError, match=rf"^backends\[1\].url: {URL} stands in backends\[0\] already"):
        of(*two)
    with pytest.raises(ValueError, match=rf"^backends\[0\].url: {URL} stands in fastchat.workers already"):
        of({"kind": "example", "url": URL}, fastchat={"workers": [URL]})


def test_a_controller_is_of_one_product() -> None:
    """What finds FastChat's workers finds none of DB-GPT's."""
    with pytest.raises(ValueError, match=r"stands in fastchat.controllers and in dbgpt.workers_from"):
        load_settings(None, {"fastchat": {"controllers": [URL]}, "dbgpt": {"workers_from": [URL]}})


def test_an_unknown_kind() -> None:
    """The kinds that there are rules for are named; one whose rules tell no way to look at it is none of them."""
    known = rules() | rules("backend: silent\ndescription: x")
    check(of({"kind": "example", "url": URL}), known)
    with pytest.raises(ValueError, match=r"^backends\[0\].kind: no backend 'exmple'; known: example$"):
        check(of({"kind": "exmple", "url": URL}), known)
    with pytest.raises(ValueError, match=r"no backend 'silent'; known: example$"):
        check(of({"kind": "silent", "url": URL}), known)
