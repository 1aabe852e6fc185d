"""Work in the background: what fails there ends the whole, instead of missing from then on."""

from __future__ import annotations

import asyncio

import pytest
from running import made, until, worker
from structlog.testing import capture_logs

from streamrnn.runtime.background import BackgroundTasks
from streamrnn.serving import served_weights
from streamrnn.serving.supervisor import Supervisor
from streamrnn.stores.models import ModelsFollower
from streamrnn.transports.base import Deadline


async def forever() -> None:
    await asyncio.Event().wait()


async def nothing() -> None:
    return


async def broken() -> None:
    raise KeyError("no such thing")


async def test_what_goes_on_is_ended_with_the_block_and_what_is_done_is_no_fault() -> None:
    stopped = asyncio.Event()
    async with BackgroundTasks(stopped.set, forever(), nothing()):
        running = len(asyncio.all_tasks())
        await asyncio.sleep(0.01)
        assert not stopped.is_set()
    assert len(asyncio.all_tasks()) == running - 2


async def test_a_failure_asks_the_block_to_end_and_is_raised_behind_it() -> None:
    stopped = asyncio.Event()
    with pytest.raises(KeyError, match="no such thing"), capture_logs() as logs:
        async with BackgroundTasks(stopped.set, forever(), broken()):
            await asyncio.wait_for(stopped.wait(), 60.0)
    assert [entry["work"] for entry in logs] == ["broken"]


async def test_an_error_of_the_block_goes_first() -> None:
    stopped = asyncio.Event()
    with pytest.raises(ValueError, match="of the block"):
        async with BackgroundTasks(stopped.set, broken()):
            await asyncio.wait_for(stopped.wait(), 60.0)
            raise ValueError("of the block")


async def test_a_worker_does_not_serve_on_without_hearing_of_new_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    async def poll(self: ModelsFollower) -> list[tuple[str, bytes]]:
        raise KeyError("no such thing")

    monkeypatch.setattr(served_weights, "MODELS_POLL_S", 0.01)
    monkeypatch.setattr(ModelsFollower, "poll", poll)
    chosen, broker = made()
    ended = False
    with pytest.raises(KeyError):
        async with worker(chosen, broker) as running:
            await until(running._stopping.is_set, 5.0)
            ended = True
    assert ended


async def test_nor_without_a_keeper_of_its_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def live(self: Supervisor) -> int:
        raise KeyError("no such thing")

    monkeypatch.setattr(Supervisor, "_live", live)
    supervisor = Supervisor(["never", "started"], lambda *_: None, 10.0)
    supervisor.start()
    with pytest.raises(KeyError):
        await asyncio.wait_for(supervisor.ended(), 60.0)
    await supervisor.stop(Deadline(1.0))
