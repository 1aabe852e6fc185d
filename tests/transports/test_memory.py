"""The memory transport keeps the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from contract import TransportContract

from streamrnn.transports.memory.transport import MemoryTransport


class TestMemory(TransportContract):
    @pytest.fixture
    def transport(self) -> MemoryTransport:
        return MemoryTransport()

    @pytest.fixture
    def unique(self) -> Callable[[str], str]:
        return lambda prefix: prefix
