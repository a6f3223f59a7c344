"""The names of workers."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.facts import worker_id

_HOSTS = st.sampled_from(["a", "a-b", "10.0.0.5", "[::1]", "ä.example", "https"])
_PATHS = st.sampled_from(["", "/", "/a", "/a/b", "/~a", "/=61", "/a b", "/?x", "/é"])
ADDRESSES = st.builds(
    "{}://{}{}{}".format, st.sampled_from(["http", "https"]), _HOSTS, st.sampled_from(["", ":1", ":80"]), _PATHS
)


def test_names_read_like_addresses() -> None:
    """An operator recognises the worker, also with another scheme or a path."""
    assert worker_id("http://10.0.0.5:21002") == "10.0.0.5:21002"
    assert worker_id("https://gpu-1.example:443/fc") == "https:~~gpu-1.example:443~fc"
    assert worker_id("http://[::1]:21002") == "=5b::1=5d:21002"


@given(ADDRESSES, ADDRESSES)
def test_names_are_distinct_and_stay_one_path_segment(one: str, other: str) -> None:
    """Two workers never share a name, and a name needs no quoting in a URL."""
    assert (worker_id(one) == worker_id(other)) == (one == other)
    assert quote(worker_id(one), safe=":=") == worker_id(one)
