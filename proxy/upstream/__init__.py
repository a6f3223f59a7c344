"""The client side of the data path: HTTP/1.1 to workers, with bodies pushed into a sink as they arrive.

    exchange = await pool.open(Target.parse("http://worker:21002"), method="POST", path="/generate", headers={},
                               body=b"{}", timeouts=Timeouts(), sink=sink)

`connection` says why this is not aiohttp's client. `response_reader` and `request_bytes` are pure.
"""

from __future__ import annotations

from .contract import ErrorKind, ResponseHead, Sink, Timeouts, UpstreamError
from .exchange import Exchange
from .pool import UpstreamPool
from .target import Target

__all__ = ["ErrorKind", "Exchange", "ResponseHead", "Sink", "Target", "Timeouts", "UpstreamError", "UpstreamPool"]
