"""Keys of clients in the settings: only as digests, and no mistake repeats what may be a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.documents import DocumentError
from proxy.server.keys import key_digest
from proxy.settings import load_settings
from proxy.tuning import tune

KEY = "sk-what-somebody-chose"
GOOD = key_digest(KEY)


def _mistakes(file: Path, text: str) -> list[str]:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        load_settings(file, {"demo": {}})
    return [str(entry).removeprefix(f"{file}:") for entry in caught.value.diagnostics]


def test_keys_are_read(tmp_path: Path) -> None:
    """A digest in capital letters is the same digest."""
    file = tmp_path / "s.yaml"
    file.write_text(f'api_keys: [{{name: team a, sha256: "{GOOD.upper()}"}}]', encoding="utf-8")
    keys = tune(load_settings(file, {"demo": {}})).traffic.keys
    assert keys.names == ("team a",)
    assert keys.admit(f"Bearer {KEY}") == "team a"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (f"api_keys: {KEY}", "1:11: api_keys: expected a list; each: expected {name: NAME, sha256: DIGEST}"),
        (f"api_keys: [{KEY}]", "1:12: expected {name: NAME, sha256: DIGEST} as `dbgpt-gateway key NAME` writes it"),
        (f"api_keys: [{{name: a, sha256: {KEY}}}]", "1:30: sha256: expected 64 hexadecimal digits in quotes"),
        ("api_keys: [{name: a, sha256: 12}]", "1:30: sha256: expected 64 hexadecimal digits in quotes"),
        (f"api_keys: [{{name: a, key: {KEY}, sha256: '{GOOD}'}}]", "1:22: unknown key 'key'; known: name, sha256"),
        ("api_keys: [{name: a}]", "1:12: the key 'sha256' is missing"),
        (f"api_keys: [{{name: a, sha256: '{key_digest('')}'}}]", "1:30: sha256: this is the digest of an empty key"),
        (f"api_keys: [{{name: '', sha256: '{GOOD}'}}]", "1:19: name: expected"),
        (f"api_keys: [{{name: none, sha256: '{GOOD}'}}]", "1:11: api_keys: the name 'none' has a meaning of its own"),
    ],
)
def test_a_mistake_is_told_without_the_key(tmp_path: Path, text: str, mistake: str) -> None:
    """Where a digest is expected the key itself may stand; the message goes into logs, so it is not in it."""
    (told,) = _mistakes(tmp_path / "s.yaml", text)
    assert told.startswith(mistake)
    assert KEY not in told


@pytest.mark.parametrize("second", [f"name: a, sha256: '{key_digest('x')}'", f"name: b, sha256: '{GOOD}'"])
def test_each_name_and_each_key_is_there_once(tmp_path: Path, second: str) -> None:
    """Otherwise the log could not tell whose request it was."""
    text = f"api_keys: [{{name: a, sha256: '{GOOD}'}}, {{{second}}}]"
    assert _mistakes(tmp_path / "s.yaml", text) == [
        "1:11: api_keys: the same name or the same digest stands there twice"
    ]


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"balance": {"hash_header": "Authorization"}}, "balance.hash_header"),
        ({"balance": {"pin_header": "authorization"}}, "balance.pin_header"),
        ({"models": {"m": {"hash_header": "Proxy-Authorization"}}}, "models.m.hash_header"),
    ],
)
def test_a_secret_header_decides_nothing(given: dict[str, object], place: str) -> None:
    """A header that is hidden would silently keep nobody together, and an error could repeat it."""
    with pytest.raises(ValueError, match=f"^{place}: .* holds a secret"):
        tune(load_settings(None, {"demo": {}, **given}))
