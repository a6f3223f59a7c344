"""The side of the clients: HTTP/1.0 and 1.1, served from the socket's own callbacks.

A small server of our own because a stream is pushed here: what a worker sends is written to its client in the callback
that brought it, and a request costs one task and one write. Nothing here knows routes or rules.
`request` and `response` are what a handler works with, `connection` is one client, `server` the listening addresses.
"""

from proxy.http.connection import Handler
from proxy.http.request import BodyError, Request
from proxy.http.response import Response, Streamed
from proxy.http.server import HttpServer, Limits, port_of

__all__ = ["BodyError", "Handler", "HttpServer", "Limits", "Request", "Response", "Streamed", "port_of"]
