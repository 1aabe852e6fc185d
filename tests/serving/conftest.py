"""What several tests of the serving side start from."""

from __future__ import annotations

import pytest
from running import Clock

from streamrnn.serving import checkpoint


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The checkpointer's."""
    made = Clock()
    made.now_s = 1000.0
    monkeypatch.setattr(checkpoint, "clock_s", made)
    return made
