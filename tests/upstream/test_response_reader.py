from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.response_reader import ResponseReader
from tests.hostile import chunked, head, response


def reader(method: str = "POST", max_head_bytes: int = 1000, max_headers: int = 20) -> ResponseReader:
    return ResponseReader(method, max_head_bytes=max_head_bytes, max_headers=max_headers)


def feed(this: ResponseReader, *parts: bytes) -> bytes:
    """Feed like a connection does: not after the end."""
    body = b""
    for part in parts:
        if this.complete or this.failure is not None:
            break
        body += this.feed(part)
    return body


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=12),
    cuts=st.lists(st.integers(0, 600), max_size=30),
    interim=st.booleans(),
    framing=st.sampled_from(["chunked", "chunked, extensions and trailers", "length", "close"]),
)
def test_bytes_are_exact_for_any_chunking_and_any_split(
    pieces: list[bytes], cuts: list[int], interim: bool, framing: str
) -> None:
    """However the peer chunks and however TCP splits it, the same body comes out."""
    if framing == "length":
        raw = response(b"".join(pieces))
    elif framing == "close":
        raw = head() + b"".join(pieces)
    elif framing == "chunked":
        raw = chunked(pieces)
    else:
        raw = chunked(pieces, extension=';a=1;b="c"', trailers=["X-T: 1", "X-U: 2"])
    raw = head("103 Early Hints", ["Link: x"]) + raw if interim else raw
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    this = reader()
    assert feed(this, *(raw[a:b] for a, b in itertools.pairwise(edges))) == b"".join(pieces)
    assert this.head is not None
    assert this.head.status == 200
    assert this.failure is None
    assert this.complete == (framing != "close")
    assert this.reusable == (framing != "close")
    assert this.ends_at_eof() or framing != "close"


def test_heads_have_lower_case_names_and_joined_repeats() -> None:
    """Header names are lower case, repeated ones are joined, empty values stay, and bytes are read as latin-1."""
    this = reader()
    feed(this, response(headers=["X-A: 1", "x-a: 2", "X-Empty:", "X-Text: \xe9"]))
    assert this.head is not None
    assert this.head.headers == {"content-length": "0", "x-a": "1, 2", "x-empty": "", "x-text": "\xe9"}


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("headers", [[], ["Content-Length: 5"]])
def test_no_content_ends_at_its_head(status: str, headers: list[str]) -> None:
    """204 and 304 have no body even when a length is announced, and the connection stays good."""
    this = reader()
    assert feed(this, head(status, headers)) == b""
    assert (this.complete, this.reusable) == (True, True)


@pytest.mark.parametrize("raw", [head(headers=["Content-Length: 5"]), response(b"12345"), head()])
def test_an_answer_to_head_ends_at_its_head(raw: bytes) -> None:
    """The answer to HEAD has no body whatever it announces, and its connection is not used again."""
    this = reader("HEAD")
    assert feed(this, raw) == b""
    assert (this.complete, this.reusable) == (True, False)


@pytest.mark.parametrize(
    "extra", [b"H", b"garbage", response(b"second"), chunked([b"second"]), b"HTTP/1.1 101 Switching\r\n\r\n"]
)
@pytest.mark.parametrize("raw", [response(b"first"), chunked([b"fi", b"rst"])])
def test_bytes_after_the_end_spoil_only_the_connection(raw: bytes, extra: bytes) -> None:
    """The response is delivered exactly; what follows it is dropped, and the connection with it."""
    this = reader()
    assert feed(this, raw + extra) == b"first"
    assert (this.complete, this.reusable, this.failure) == (True, False, None)


@pytest.mark.parametrize(
    ("raw", "persistent"),
    [
        (response(), True),
        (response(headers=["Connection: close"]), False),
        (response(headers=["Connection: Keep-Alive, Close"]), False),
        (head(headers=["Content-Length: 0"], version="1.0"), False),
        (head(headers=["Content-Length: 0", "Connection: keep-alive"], version="1.0"), True),
    ],
)
def test_the_connection_lasts_as_the_head_says(raw: bytes, persistent: bool) -> None:
    """`Connection: close` and HTTP/1.0 without keep-alive end the connection."""
    this = reader()
    feed(this, raw)
    assert (this.complete, this.reusable) == (True, persistent)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"ICY 200 OK\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        head(version="2.0"),
        head(version="0.9"),
        head(version="1.7"),
        head("20 OK"),
        head("2000 OK"),
        head("099 Low"),
        head("101 Switching Protocols", ["Upgrade: x", "Connection: upgrade"]),
        head("101 Switching Protocols"),
        head(headers=["Content-Length: 2", "Content-Length: 2"]) + b"ab",
        head(headers=["Content-Length: 2, 2"]) + b"ab",
        head(headers=["Content-Length: -1"]),
        head(headers=["Content-Length: 99999999999999999999"]),
        head(headers=["Content-Length: 3", "Transfer-Encoding: chunked"]) + b"0\r\n\r\n",
        head(headers=["Transfer-Encoding: chunked", "Content-Length: 3"]) + b"0\r\n\r\n",
        head(headers=["Transfer-Encoding: gzip, chunked"]) + b"0\r\n\r\n",
        head(headers=["Transfer-Encoding: chunked, identity"]) + b"0\r\n\r\n",
        head(headers=["Transfer-Encoding: identity"]),
        head(headers=["X-A : 1"]),
        head(headers=["X-A: 1", " folded"]),
        head(headers=["X-A: a\x00b"]),
        head(headers=["X-A: a\rb"]),
        head(headers=["no colon"]),
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    ],
)
def test_what_is_not_one_plain_http_response_is_refused(raw: bytes) -> None:
    """Garbage, other protocols, upgrades and ambiguous framing give kind protocol and no body, however split."""
    for parts in ([raw], bytewise(raw)):
        this = reader()
        assert feed(this, *parts) == b""
        assert this.failure is not None
        assert this.failure.kind == "protocol"
        assert this.head is None
        assert not this.complete
        assert not this.ends_at_eof()


@pytest.mark.parametrize("tail", [b"zz\r\n", b"-1\r\n", b"f" * 17 + b"\r\n", b"1\r\nab\r\n", b"1\nx\n"])
def test_a_broken_chunk_fails_after_the_good_ones(tail: bytes) -> None:
    """The chunks before the broken one are delivered, then the response fails."""
    raw = chunked([b"good", b"ness"], end=False) + tail
    for parts in ([raw], bytewise(raw)):
        this = reader()
        assert feed(this, *parts).startswith(b"goodness")
        assert this.failure is not None
        assert this.failure.kind == "protocol"
        assert not this.complete


def test_a_head_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    """The limit of head bytes is exact, however the head is split, and does not count the body."""
    filling = response(headers=["X: "])
    exact = response(headers=["X: " + "a" * (1000 - len(filling))])
    for parts in ([exact], bytewise(exact)):
        this = reader()
        feed(this, *parts)
        assert this.complete
    with_body = head(headers=["Content-Length: 5000"]) + b"b" * 5000
    assert feed(reader(), with_body) == b"b" * 5000
    longer = response(headers=["X: " + "a" * (1001 - len(filling))])
    for parts in ([longer], bytewise(longer)):
        this = reader()
        feed(this, *parts)
        assert this.failure is not None
        assert this.failure.kind == "too_large"
        assert "1000 bytes" in this.failure.text


@pytest.mark.parametrize("parts", [[head("100 Continue")] * 1000, [b"HTTP/1.1 200 " + b"a" * 2000], [b"\r\n" * 2000]])
def test_an_endless_head_is_cut_off(parts: list[bytes]) -> None:
    """Interim heads, reason phrases and empty lines without end fail at the same limit."""
    this = reader()
    feed(this, *parts)
    assert this.failure is not None
    assert this.failure.kind == "too_large"


def test_more_headers_than_the_limit_are_refused() -> None:
    """The number of header lines is limited, over all heads of a response."""
    many = [f"X-{number}: 1" for number in range(12)]
    for raw in (head(headers=[*many, *many]), head("103 Hints", many) + head(headers=many)):
        this = reader()
        feed(this, raw)
        assert this.failure is not None
        assert this.failure.kind == "too_large"
        assert this.head is None


@pytest.mark.parametrize("endless", [b"1;" + b"x" * 50, b"0\r\nX-T: " + b"x" * 50])
def test_endless_extensions_and_trailers_are_cut_off(endless: bytes) -> None:
    """What comes within a body without any body byte is bounded too."""
    this = reader()
    body = feed(this, chunked([b"a"], end=False), endless, *[b"x" * 50] * 100)
    assert body == b"a"
    assert this.failure is not None
    assert this.failure.kind == "too_large"


def test_one_piece_is_handed_on_without_a_copy_of_the_rest() -> None:
    """Many chunks in one read come out as one piece of bytes."""
    this = reader()
    this.feed(head(headers=["Transfer-Encoding: chunked"]))
    assert this.feed(b"1\r\na\r\n2\r\nbc\r\n") == b"abc"
    assert this.feed(b"0\r\n") == b""
    assert not this.complete
    assert this.feed(b"\r\n") == b""
    assert this.complete
