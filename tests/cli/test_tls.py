"""A worker behind TLS: looked at and asked, as long as its certificate is one that the system trusts."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.demo.worker import DemoWorker
from proxy.settings import parse_address
from tests.cli.process import ANY_PORTS, Started, environment
from tests.cli.serving import HELLO, STREAM
from tests.gateway.client import call
from tests.tls import self_signed, server_tls


@contextlib.asynccontextmanager
async def behind_tls(address: str, tls: ssl.SSLContext) -> AsyncIterator[str]:
    """The https address at which a plain server's answers come encrypted."""
    plain = parse_address(address.removeprefix("http://"))

    relays: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection(*plain)
        await asyncio.gather(pass_on(reader, outer), pass_on(inner, writer))
        await asyncio.gather(outer.wait_closed(), writer.wait_closed(), return_exceptions=True)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.add(asyncio.create_task(relay(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*relays)


async def test_a_worker_behind_tls_is_verified_with_the_certificates_of_the_system(tmp_path: Path) -> None:
    """Its status and its answers come over TLS; where nobody vouches for its certificate it is down, which is said."""
    certificate = self_signed(tmp_path)
    worker = DemoWorker(["m"], chunks_per_second=0, words=3)
    await worker.start()
    async with behind_tls(worker.address, server_tls(certificate)) as url:
        arguments = ("serve", "--fastchat-worker", url, *ANY_PORTS)
        with Started(*arguments, env=environment(SSL_CERT_FILE=str(certificate[0]))) as gateway:
            clients = await asyncio.to_thread(gateway.until, r"^clients +http://(\S+)")
            await asyncio.to_thread(gateway.until, r"^worker .*  m \(llm")
            reply = await call(parse_address(clients[1]), "POST", STREAM, HELLO, connection="close")
            assert (reply.status, b'"finish_reason":"stop"' in reply.body) == (200, True), reply
        with Started(*arguments, env=environment(SSL_CERT_FILE=str(tmp_path / "none"))) as gateway:
            await asyncio.to_thread(gateway.until, r"^worker .*down: .*certificate verify failed")
    await worker.stop()
