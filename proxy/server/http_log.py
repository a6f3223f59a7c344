"""What the HTTP server of operators has to say of its own accord, with a caller's mistakes told as such."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_CLIENT_FAULTS = (HttpProcessingError, web.RequestPayloadError)


class ClientFaults(logging.Filter):
    """Turns the server's report of bytes that are not a legal request into one line without a traceback.

    aiohttp (3.14) logs each such request as an error of its own with the stack, so that anybody who can connect could
    fill the log and raise alarms. Faults of the program pass unchanged.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, _CLIENT_FAULTS):
            return True
        record.msg, record.args = "a request that is not legal HTTP was refused: %s", (" ".join(str(error).split()),)
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        return logging.getLogger(record.name).isEnabledFor(logging.INFO)


def server_log() -> logging.Logger:
    """The logger to give to the HTTP server of operators."""
    log = logging.getLogger("proxy.http")
    if not any(isinstance(known, ClientFaults) for known in log.filters):
        log.addFilter(ClientFaults())
    return log
