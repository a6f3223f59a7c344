"""A fleet of declared workers for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.backends.declared.harness import DeclaredHarness


@pytest.fixture
async def harness() -> AsyncIterator[DeclaredHarness]:
    harness = DeclaredHarness()
    yield harness
    await harness.close()
