"""Keys of clients: who is let in, and that the time it takes tells nothing."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from unittest.mock import Mock

import pytest

from proxy.errors import GatewayError
from proxy.server.keys import ApiKeys, key_digest, new_key

FIRST, SECOND = "sk-first", "sk-second"
KEYS = ApiKeys([("first", key_digest(FIRST)), ("second", key_digest(SECOND))])

NONE_OF_THEM = [
    "", "Bearer", "Bearer ", "Bearer sk-third", f"Basic {FIRST}", FIRST, f"Bearer {FIRST}x", f"Bearer {FIRST} x",
    f"Bearer {FIRST.upper()}", f"Bearer {key_digest(FIRST)}", "Bearer \udcff", "Bearer \u00e9",
]  # fmt: skip


@pytest.mark.parametrize("given", [f"Bearer {SECOND}", f"bearer {SECOND}", f"BEARER   {SECOND} "])
def test_a_key_has_its_name(given: str) -> None:
    """The scheme is compared without case, as HTTP says, and spaces around the key do not count."""
    assert KEYS.admit(given) == "second"


@pytest.mark.parametrize("given", NONE_OF_THEM)
def test_everything_else_is_refused_in_the_same_words(given: str) -> None:
    """Neither the message nor anything else of the error tells a wrong key from none."""
    with pytest.raises(GatewayError) as caught:
        KEYS.admit(given)
    assert (caught.value.kind, caught.value.field) == ("unauthorized", None)
    assert caught.value.message == "Authorization: expected 'Bearer KEY' with a key of this gateway"


@pytest.mark.parametrize("given", ["", f"Bearer {FIRST}", "nonsense"])
def test_without_keys_everybody_is_let_in(given: str) -> None:
    """Nothing is looked at then."""
    assert ApiKeys().admit(given) is None


@pytest.mark.parametrize("given", [*NONE_OF_THEM, f"Bearer {FIRST}", f"Bearer {SECOND}"])
def test_every_request_takes_the_same_way(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One digest is made, and compared with each key in constant time, whatever was given and whichever key fits."""
    digest, same = Mock(wraps=hashlib.sha256), Mock(wraps=hmac.compare_digest)
    monkeypatch.setattr(hashlib, "sha256", digest)
    monkeypatch.setattr(hmac, "compare_digest", same)
    with contextlib.suppress(GatewayError):
        KEYS.admit(given)
    assert digest.call_count == 1
    compared = [call.args[0].hex() for call in same.call_args_list]
    monkeypatch.undo()
    assert compared == [key_digest(FIRST), key_digest(SECOND)]


def test_a_new_key_is_new_and_fits_its_digest() -> None:
    """It is one word for a header, long enough that nobody guesses it."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert len(key) >= 43
        assert ApiKeys([("a", key_digest(key))]).admit(f"Bearer {key}") == "a"
