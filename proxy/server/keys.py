"""Keys of clients: which there are, by their digests, and whether a request brings one of them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Final

from proxy.errors import GatewayError

# Bytes of a new key: nobody guesses one, so that its digest needs neither salt nor a slow function.
_KEY_BYTES: Final = 32


class ApiKeys:
    """The keys of a gateway as pairs of a name and the key's digest. None at all: everybody is let in."""

    def __init__(self, keys: Iterable[tuple[str, str]] = ()) -> None:
        self._keys = tuple((name, bytes.fromhex(sha256)) for name, sha256 in keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def names(self) -> tuple[str, ...]:
        """Under which operators know the keys."""
        return tuple(name for name, _ in self._keys)

    def admit(self, authorization: str) -> str | None:
        """The name of the key in an `Authorization` header ("" where there is none), None where there are no keys.

        GatewayError, the same for a wrong key and for none, which come the same way: whatever was brought is digested
        and compared with each key to its end.
        """
        if not self._keys:
            return None
        scheme, _, key = authorization.partition(" ")
        found = _name_of(self._keys, _sha256(key.strip()))
        if found is None or scheme.lower() != "bearer":
            raise GatewayError("unauthorized", "Authorization: expected 'Bearer KEY' with a key of this gateway")
        return found


def new_key() -> str:
    """A key that nobody has had before."""
    return f"sk-{secrets.token_urlsafe(_KEY_BYTES)}"


def key_digest(key: str) -> str:
    """What the settings say of a key, 64 hexadecimal digits."""
    return _sha256(key).hex()


def _sha256(key: str) -> bytes:
    # The server hands on bytes that are no UTF-8 as surrogates.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _name_of(keys: tuple[tuple[str, bytes], ...], given: bytes) -> str | None:
    found = None
    for name, digest in keys:
        found = name if hmac.compare_digest(digest, given) else found
    return found
