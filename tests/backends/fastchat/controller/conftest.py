"""A running controller for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.backends.fastchat.harness import Controller, Harness


@pytest.fixture
async def controller(harness: Harness) -> AsyncIterator[Controller]:
    """Not started yet, so that a test can set it up."""
    controller = Controller(harness)
    yield controller
    await controller.close()
