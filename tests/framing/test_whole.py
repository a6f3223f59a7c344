from __future__ import annotations

import pytest

from proxy.framing import FRAMINGS
from tests.framing.feeding import assert_decodes, run


@pytest.mark.parametrize("body", [b"{}", b'{"a":\n1}\r\n', b"\0", b" ", b"data: x\n\n"])
def test_the_whole_body_is_one_frame(body: bytes) -> None:
    """No byte of the body has a meaning of its own."""
    assert_decodes("json", body, [body])


def test_an_empty_body_is_truncated() -> None:
    """A body was expected, so none at all is an error that says so."""
    assert_decodes("json", b"", [], error="truncated")
    assert run("json", []).message == "json frame 1 is empty, expected a body of at least one byte"


def test_a_body_is_given_out_only_at_its_end() -> None:
    """A complete JSON text before the end of the input is not yet the body."""
    decoder = FRAMINGS["json"].new_decoder(100)
    assert decoder.feed(b"{}") == []
    assert decoder.feed(b" ") == []
    assert decoder.pending == 3
    assert decoder.finish() == [b"{} "]


def test_a_body_is_encoded_as_it_is() -> None:
    """Nothing is put around the one frame."""
    assert FRAMINGS["json"].encode(b'{"a":1}') == b'{"a":1}'
