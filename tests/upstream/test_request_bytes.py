from __future__ import annotations

import pytest

from proxy.upstream import Target
from proxy.upstream.request_bytes import encode_request

TARGET = Target.parse("http://worker:21002/base")


def test_a_post_carries_host_with_port_length_and_identity() -> None:
    """Host, accept-encoding and content-length are set, and the body follows as it is."""
    raw = encode_request(TARGET, "POST", "/generate?x=1", {"X-Id": "7"}, b"{}\r\n\r\n")
    assert raw == (
        b"POST /base/generate?x=1 HTTP/1.1\r\nhost: worker:21002\r\naccept-encoding: identity\r\n"
        b"X-Id: 7\r\ncontent-length: 6\r\n\r\n{}\r\n\r\n"
    )


def test_an_empty_post_says_its_length_and_a_get_does_not() -> None:
    """Servers wait for a body, or answer 411, when a POST has no content-length."""
    assert b"content-length: 0\r\n" in encode_request(TARGET, "POST", "/", {}, b"")
    assert b"content-length" not in encode_request(TARGET, "GET", "/", {}, b"")


def test_the_host_header_brackets_ipv6() -> None:
    """An IPv6 host stands in brackets with its port."""
    assert b"\r\nhost: [::1]:80\r\n" in encode_request(Target.parse("http://[::1]"), "GET", "/", {}, b"")


def test_header_text_leaves_as_the_bytes_it_came_in() -> None:
    """UTF-8 text, and bytes that are none (kept as surrogates by the server side), pass unchanged."""
    raw = encode_request(TARGET, "GET", "/", {"x-name": "é\udcff"}, b"")
    assert b"x-name: \xc3\xa9\xff\r\n" in raw


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\x7f", "a\n"])
def test_a_header_value_cannot_smuggle_a_line(value: str) -> None:
    """Line ends, NUL and other control characters in a value are refused."""
    with pytest.raises(ValueError, match="control character"):
        encode_request(TARGET, "GET", "/", {"x-a": value}, b"")


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é", "a\n"])
def test_a_header_name_must_be_a_token(name: str) -> None:
    """Anything but an HTTP token is refused as a header name."""
    with pytest.raises(ValueError, match="header name"):
        encode_request(TARGET, "GET", "/", {name: "1"}, b"")


@pytest.mark.parametrize("path", ["", "x", "/a b", "/a\r\nb", "/a\0", "/é", "http://other/", "/a\n"])
def test_a_path_must_begin_with_a_slash_and_be_visible_ascii(path: str) -> None:
    """A path cannot end the request line early or name another host."""
    with pytest.raises(ValueError, match="request path"):
        encode_request(TARGET, "GET", path, {}, b"")


@pytest.mark.parametrize("method", ["", "GET /", "P\r\n", "CONNECT"])
def test_a_method_must_be_a_token_and_no_tunnel(method: str) -> None:
    """Methods that would break the request line or turn the connection into a tunnel are refused."""
    with pytest.raises(ValueError, match="method"):
        encode_request(TARGET, method, "/", {}, b"")


@pytest.mark.parametrize("name", ["Accept-Encoding", "Content-Length", "transfer-encoding", "Host", "connection", "TE"])
def test_headers_that_decide_framing_cannot_be_passed(name: str) -> None:
    """The client sets these itself; a second one would make the message ambiguous."""
    with pytest.raises(ValueError, match="set by the upstream client"):
        encode_request(TARGET, "POST", "/", {name: "1"}, b"")
