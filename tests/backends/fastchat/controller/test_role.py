"""The role of a controller made of the settings, and made again of others while it runs."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import unused_port

from proxy.backends.fastchat.controller.guard import Peer
from proxy.backends.fastchat.controller.role import ControllerRole
from proxy.backends.settings import AcceptSettings
from proxy.http import HttpServer, Limits, Request, Response
from tests.backends.fakes import FakeModel, FakeWorker, eventually
from tests.backends.fastchat.harness import Harness


async def refuse(_: Request) -> Response:
    return Response(404)


async def test_settings_are_in_force_and_replaced(harness: Harness) -> None:
    """A list, a token and what is handed out change with a reload; a setting that cannot be used changes nothing."""
    port = unused_port()
    role = ControllerRole(
        AcceptSettings(listen=f"127.0.0.1:{port}"),
        await harness.source(),
        harness.looks,
        own_ports=[],
        on_event=harness.count,
    )
    server = HttpServer(role.app(harness.fleet, public_names=dict, fall_through=refuse), Limits(idle_seconds=75.0))
    await server.listen("127.0.0.1", port)
    body = {"worker_name": "http://203.0.113.5:21002", "check_heart_beat": True}
    async with ClientSession() as session:

        async def status(path: str = "/register_worker") -> int:
            async with session.post(f"http://127.0.0.1:{port}{path}", json=body) as response:
                return response.status

        assert await status() == 403
        role.update(AcceptSettings(allow=["203.0.113.0/24"]))
        assert await status() == 200
        role.update(AcceptSettings(allow=["203.0.113.0/24"], token="a-long-token"))
        assert await status() == 401
        assert await status("/a-long-token/register_worker") == 200
        with pytest.raises(ValueError, match="metadata"):
            role.update(AcceptSettings(allow=["metadata.google.internal"]))
        assert await status("/a-long-token/register_worker") == 200
    assert [row.address for row in role.rows()] == ["http://203.0.113.5:21002"]
    await server.close()
    await role.close()


@pytest.mark.parametrize("multimodal", [True, False])
async def test_a_worker_that_registers_for_images_is_known_to_take_them(harness: Harness, multimodal: bool) -> None:
    """The worker says so nowhere else."""
    worker = FakeWorker(m=FakeModel())
    await harness.serve(worker)
    settings = AcceptSettings(listen="127.0.0.1:1")
    role = ControllerRole(settings, await harness.source(), harness.looks, own_ports=[], on_event=harness.count)
    await role.registry.register(worker.url, Peer("127.0.0.1", same_machine=True), multimodal=multimodal)
    await eventually(lambda: harness.fleet.known("m") is not None)
    facts = harness.fleet.known("m")
    assert facts is not None
    assert facts.document["images"] is multimodal
