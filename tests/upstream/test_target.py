from __future__ import annotations

import pytest

from proxy.upstream import Target


@pytest.mark.parametrize(
    ("url", "target", "address"),
    [
        ("http://worker:21002", Target("worker", 21002, False, ""), "worker:21002"),
        ("http://worker:21002/", Target("worker", 21002, False, ""), "worker:21002"),
        ("HTTP://Worker.Example./base/v1/", Target("worker.example.", 80, False, "/base/v1"), "worker.example.:80"),
        ("https://10.0.0.7", Target("10.0.0.7", 443, True, ""), "10.0.0.7:443"),
        ("http://[::1]:8000/x", Target("::1", 8000, False, "/x"), "[::1]:8000"),
        ("http://model_worker-1:80", Target("model_worker-1", 80, False, ""), "model_worker-1:80"),
    ],
)
def test_a_url_gives_host_port_tls_and_base_path(url: str, target: Target, address: str) -> None:
    """Default ports are filled in, the host is lower case, and an address shows IPv6 in brackets."""
    parsed = Target.parse(url)
    assert parsed == target
    assert parsed.address == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "begin with http:// or https://"),
        ("worker:21002", "begin with http:// or https://"),
        ("ftp://worker", "begin with http:// or https://"),
        ("http:worker", "begin with http:// or https://"),
        ("http://user:secret@worker", "user name or password"),
        ("http://@worker", "user name or password"),
        ("http://worker/?a=b", "query or a fragment"),
        ("http://worker/?", "query or a fragment"),
        ("http://worker/#top", "query or a fragment"),
        ("http://worker:/", "no port after the colon"),
        ("http://worker:0", "port 0"),
        ("http://worker:65536", "(?i)port out of range"),
        ("http://worker:80a", "(?i)port"),
        ("http://wor\tker", "visible ASCII"),
        ("http://worker/a b", "visible ASCII"),
        ("http://wörker", "visible ASCII"),
        ("http://worker/\r\nX: y", "visible ASCII"),
        ("http:///path", "neither a host name nor an IP address"),
        ("http://a..b", "neither a host name nor an IP address"),
        ("http://-a", "neither a host name nor an IP address"),
        ("http://" + "a" * 64, "neither a host name nor an IP address"),
        ("http://[fe80::1%25eth0]:80", "neither|does not appear"),
        ("http://[::zz]", "neither|does not appear"),
        ("http://[::1", "Invalid IPv6"),
    ],
)
def test_a_url_that_is_no_target_is_refused_with_the_reason(url: str, words: str) -> None:
    """The sentence quotes the URL and says what is wrong with it."""
    with pytest.raises(ValueError, match=words) as caught:
        Target.parse(url)
    assert repr(url) in str(caught.value)
    assert "\n" not in str(caught.value)
