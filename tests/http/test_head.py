"""The reader of requests alone: bytes in any pieces, and what is told of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.head import HEAD_MAX_BYTES, HEADERS_MAX, Head, IllegalRequest, RequestReader
from tests.http.asks import Ask, conversations, split


class Told:
    """What a reader told: each request as its head and its body, and whether it is complete."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.bodies: list[bytes] = []
        self.ended = 0
        self.status = 0
        self.reason = ""

    def head_read(self, head: Head) -> None:
        self.heads.append(head)
        self.bodies.append(b"")

    def body_read(self, data: bytes) -> None:
        self.bodies[-1] += data

    def end_read(self) -> None:
        self.ended += 1

    def summary(self) -> object:
        return [(head.method, head.path, head.headers) for head in self.heads], self.bodies, self.ended, self.status


def told(*pieces: bytes) -> Told:
    """Feed the pieces as far as they are legal."""
    found = Told()
    reader = RequestReader(found)
    try:
        for piece in pieces:
            reader.feed(piece)
    except IllegalRequest as error:
        found.status, found.reason = error.status, str(error)
    return found


def singly(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_pieces_are_the_same_requests(data: st.DataObject) -> None:
    """Requests of every legal kind, cut anywhere: the same heads and bodies in the same order."""
    asked = data.draw(conversations())
    raw = b"".join(ask.written() for ask in asked)
    found = told(*data.draw(split(raw)))
    assert (found.reason, found.ended) == ("", len(asked))
    assert found.bodies == [ask.body for ask in asked]
    for ask, head in zip(asked, found.heads, strict=True):
        assert (head.method, head.version) == (ask.method, (1, int(ask.version[-1])))
        assert head.keep == ask.keeps
        assert head.content_length == (len(ask.body) if ask.framing == "length" else None)
        for name, _ in ask.headers:
            assert head.headers[name.lower()] == ", ".join(value for known, value in ask.headers if known == name)
    assert found.summary() == told(raw).summary()


GET, POST = b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
OFFER = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"

ILLEGAL: dict[str, tuple[int, bytes]] = {
    "a length of five thousand digits": (400, POST + b"Content-Length: " + b"0" * 5000 + b"5\r\n\r\nhello"),
    "a length beside chunks": (400, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunks beside a length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "both with an offer": (400, OFFER + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    "the same length twice": (400, POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n"),
    "two lengths in one": (400, POST + b"Content-Length: 5, 5\r\n\r\n"),
    "a negative length": (400, POST + b"Content-Length: -5\r\n\r\n"),
    "a length with a sign": (400, POST + b"Content-Length: +5\r\n\r\n"),
    "a length in hexadecimal": (400, POST + b"Content-Length: 0x5\r\n\r\n"),
    "an empty length": (400, POST + b"Content-Length:\r\n\r\n"),
    "an endless length": (400, POST + b"Content-Length: 99999999999999999999\r\n\r\n"),
    "a coding that is not chunks": (400, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "chunks that are not last": (400, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n"),
    "chunks twice": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "chunks with a parameter": (400, POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n"),
    "another coding in chunks": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "an offer with another coding in chunks": (501, OFFER + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "a hidden coding": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n"),
    "a coding that is no text": (400, POST + b"Transfer-Encoding: \xff\r\n\r\n"),
    "an offer with a coding that is no text": (400, OFFER + b"Transfer-Encoding: \xff\r\n\r\n"),
    "an offer with another coding": (400, OFFER + b"Transfer-Encoding: identity\r\n\r\n"),
    "chunks of an old client": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a chunk that overflows": (400, CHUNKED + b"fffffffffffffffff\r\n"),
    "a negative chunk": (400, CHUNKED + b"-1\r\n"),
    "a chunk in another notation": (400, CHUNKED + b"0x1\r\nx\r\n"),
    "a chunk with a space": (400, CHUNKED + b"1 \r\nx\r\n"),
    "a chunk longer than it says": (400, CHUNKED + b"1\r\nxy\r\n"),
    "a chunk behind a bare line feed": (400, CHUNKED + b"1\nx\r\n"),
    "bare line feeds": (400, b"GET / HTTP/1.1\nHost: h\n\n"),
    "one bare line feed": (400, GET + b"A: b\nC: d\r\n\r\n"),
    "a bare carriage return": (400, GET + b"A: b\rC: d\r\n\r\n"),
    "a folded line": (400, GET + b"A: b\r\n c\r\n\r\n"),
    "a space before the colon": (400, GET + b"Content-Length : 5\r\n\r\n"),
    "a NUL in a value": (400, GET + b"A: b\0c\r\n\r\n"),
    "a NUL in a name": (400, GET + b"A\0: b\r\n\r\n"),
    "a line without a colon": (400, GET + b"A\r\n\r\n"),
    "a name that is not ASCII": (400, GET + b"\xc3\xa4: b\r\n\r\n"),
    "a target that is not ASCII": (400, b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n"),
    "a target with a tab": (400, b"GET /a\tb HTTP/1.1\r\n\r\n"),
    "a target that is no path": (400, b"GET http://h:99999/ HTTP/1.1\r\n\r\n"),
    "an unknown method": (400, b"FETCH / HTTP/1.1\r\n\r\n"),
    "a method in small letters": (400, b"get / HTTP/1.1\r\n\r\n"),
    "another protocol": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "HTTP/2 with prior knowledge": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0": (505, b"GET / HTTP/2.0\r\n\r\n"),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "a version that there is not": (400, b"GET / HTTP/1.2\r\n\r\n"),
    "CONNECT": (405, b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a request behind the last one": (400, GET + b"Connection: close\r\n\r\n" + GET + b"\r\n"),
    "too many headers": (431, GET + b"A: b\r\n" * (HEADERS_MAX + 1) + b"\r\n"),
    "a huge target": (431, b"GET /" + b"a" * HEAD_MAX_BYTES + b" HTTP/1.1\r\n\r\n"),
    "a huge header": (431, GET + b"A: " + b"b" * HEAD_MAX_BYTES + b"\r\n\r\n"),
    "a huge name": (431, GET + b"a" * HEAD_MAX_BYTES + b": b\r\n\r\n"),
    "huge headers together": (431, GET + b"A: %b\r\n" % (b"b" * 700) * 100 + b"\r\n"),
    "empty lines without end": (431, b"\r\n" * HEAD_MAX_BYTES),
    "an extension without end": (400, CHUNKED + b"1;" + b"a" * 2 * HEAD_MAX_BYTES),
    "a trailer without end": (400, CHUNKED + b"0\r\nA: " + b"b" * 2 * HEAD_MAX_BYTES),
    "trailers without end": (400, CHUNKED + b"0\r\n" + b"A: b\r\n" * HEAD_MAX_BYTES),
}  # fmt: skip


@pytest.mark.parametrize(("status", "raw"), ILLEGAL.values(), ids=ILLEGAL.keys())
@pytest.mark.parametrize("behind", [b"", Ask(framing="chunked", chunks=(b"a",), trailers=("A: b",)).written()],
                         ids=["first", "second"])  # fmt: skip
def test_what_is_no_request_is_refused(status: int, raw: bytes, behind: bytes) -> None:
    """By a status and a sentence, the same in any pieces, and without waiting for more."""
    chopped = [raw[at : at + 4000] for at in range(0, len(raw), 4000)]
    ways = [told(behind, *chopped), told(*singly(behind + raw[:2000]), *chopped_from(raw, 2000))]
    if (len(raw) <= HEAD_MAX_BYTES or status == 431) and raw.strip():
        ways.append(told(behind + raw + b"\r\n\r\n"))
    for found in ways:
        assert found.status == status, found.reason
        assert 10 < len(found.reason) < 200
        assert found.reason.isprintable()
    assert len({str(found.summary()) for found in ways}) == 1


def chopped_from(raw: bytes, start: int) -> list[bytes]:
    return [raw[at : at + 4000] for at in range(start, len(raw), 4000)]


@pytest.mark.parametrize(
    "endless",
    [b"", b"GET / HTTP/1.1\r\nA: ", GET + b"a", CHUNKED + b"1;", CHUNKED + b"1\r\nx\r\n0\r\nA: "],
    ids=["empty lines", "value", "name", "extension", "trailer"],
)
@pytest.mark.parametrize("size", [1, 1_000, 100_000])
def test_what_has_no_end_is_refused_early(endless: bytes, size: int) -> None:
    """Whatever grows without being the body of anything ends after so many bytes."""
    found = Told()
    reader = RequestReader(found)
    reader.feed(endless)
    piece = (b"\r\n" if not endless else b"xx") * ((size + 1) // 2)
    fed = 0
    try:
        while fed < 4 * HEAD_MAX_BYTES:
            reader.feed(piece)
            fed += len(piece)
    except IllegalRequest:
        pass
    assert fed <= HEAD_MAX_BYTES


def test_a_head_of_the_largest_size_is_read() -> None:
    """The limits let through what is just within them."""
    long = b"a" * (HEAD_MAX_BYTES - 100)
    for raw in (
        b"GET /%b HTTP/1.1\r\n\r\n" % long,
        GET + b"A: %b\r\n\r\n" % long,
        GET + b"A: b\r\n" * HEADERS_MAX + b"\r\n",
    ):
        for pieces in ([raw], singly(raw)):
            found = told(*pieces)
            assert (found.reason, found.ended) == ("", 1)


def test_small_chunks_are_no_overhead_without_end() -> None:
    """What lies between two parts of a body is bounded, not what lies between all of them."""
    body = b"1;abc\r\nx\r\n" * HEAD_MAX_BYTES
    found = told(CHUNKED, *[body[at : at + 50_000] for at in range(0, len(body), 50_000)], b"0\r\n\r\n")
    assert (found.reason, found.ended, len(found.bodies[0])) == ("", 1, HEAD_MAX_BYTES)


def test_many_requests_with_an_offer_in_one_piece() -> None:
    """However many offers of another protocol come at once, each request is read."""
    found = told((OFFER + b"Content-Length: 3\r\n\r\nabc") * 3_000)
    assert (found.reason, found.ended, set(found.bodies)) == ("", 3_000, {b"abc"})


def test_spaces_around_a_value_are_none_of_it() -> None:
    """As the standard has it, before and behind."""
    (head,) = told(GET + b"Expect:\t 100-continue \t\r\nContent-Length: 0 \r\nA: \r\n\r\n").heads
    assert head.headers == {"expect": "100-continue", "content-length": "0", "a": ""}


def test_every_header_is_text() -> None:
    """In UTF-8, or else in Latin-1: whatever is read can be written into JSON and logs."""
    (head,) = told(GET + b"A: \xe4\xff\r\nB: \xc3\xa4\r\n\r\n").heads
    assert head.headers == {"a": "äÿ", "b": "ä"}


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/a%2Fb?c=%20&d#e", "/a%2Fb", "c=%20&d"),
        (b"http://h:80/a?b", "/a", "b"),
        (b"http://h", "/", ""),
        (b"*", "*", ""),
        (b"//h/a", "//h/a", ""),
        (b"/a?b?c", "/a", "b?c"),
    ],
)
def test_the_parts_of_a_target(target: bytes, path: str, query: str) -> None:
    """Path and query as they came, also from a target that names the host."""
    (head,) = told(b"OPTIONS %b HTTP/1.1\r\n\r\n" % target).heads
    assert (head.path, head.query_string) == (path, query)
