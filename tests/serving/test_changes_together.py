"""Two things that an operator does between the same two lives: the configuration, the group's offsets, the states; and a worker
that was killed before. Found by random stories of all of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from operated import BOTH, NEVER, Life, done, lived, never_sent, reset, said, served, states, without_commits
from running import committed, made, on_virtual_clock, send, tick, until
from structlog.testing import capture_logs

from streamrnn.serving import offsets
from streamrnn.serving.commit_note import committed_with, is_ours, set_from, skips_beside, was_at
from streamrnn.stores.changelog import Checkpoint
from streamrnn.transports.base import Committed
from streamrnn.transports.memory.transport import MemoryBroker

COLD = {"step": "2s"}  # nothing of a state can be carried


def spoilt(broker: MemoryBroker, step: int) -> None:
    """Two ticks that would spoil every forecast behind them."""
    for name in ("a0", "b0"):
        broker.append("ticks", 0, name.encode(), tick(name, step, 1e9), 1_700_000_000_000 + 1000 * step)


def texts(found: list[tuple[int, str]]) -> list[str]:
    return [text for _, text in sorted(found)]


async def unwritten(broker: MemoryBroker, **changes: Any) -> Life:
    """A life whose outputs and offsets are there, and its states are not."""
    life = await Life(broker, checkpoint={"interval": NEVER}, **changes).serves()
    await asyncio.sleep(1.0)
    return life.kill()


# ── offsets and a configuration of which nothing can be carried ──────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("to", [60, 120], ids=["back", "where it was"])
@on_virtual_clock
async def test_offsets_set_together_with_another_step_are_said_counted_and_served_warm(delivery: str, to: int) -> None:
    broker = await served(60, delivery=delivery)
    send(broker, 10, first=60, partitions=1)
    reset(broker, to)
    begun = broker.end("app.forecasts", 0)
    with capture_logs() as logs:
        life = await lived(broker, delivery=delivery, **COLD)
    assert life.counted() == (1 if to < 120 else 0, 0, 0)
    assert len([entry for entry in logs if entry["event"].startswith("offset set back")]) == (to < 120)
    assert life.worker.observer.metrics.cold_starts._value.get() == 1
    found = said(broker, begun)
    assert len(found) == (140 - to) / 2 and min(offset for offset, _ in found) == to
    assert all(json.loads(text)["warm"] for _, text in found)
    # Once: the next life goes on.
    send(broker, 4, first=70, partitions=1)
    life = await lived(broker, delivery=delivery, **COLD)
    assert life.counted() == (0, 0, 0) and not life.worker.observer.metrics.cold_starts._value.get()


@BOTH
@on_virtual_clock
async def test_another_step_is_served_warm_however_shortly_after_a_restart(delivery: str) -> None:
    """The note beside the offset goes back to where its worker began, and counts steps of before."""
    broker = await served(60, delivery=delivery)
    send(broker, 2, first=60, partitions=1)
    await lived(broker, delivery=delivery)
    begun = broker.end("app.forecasts", 0)
    send(broker, 4, first=62, partitions=1)
    life = await lived(broker, delivery=delivery, **COLD)
    assert life.worker.observer.metrics.cold_starts._value.get() == 1
    assert [json.loads(text)["warm"] for text in texts(said(broker, begun))] == [True] * 4


@BOTH
@pytest.mark.parametrize("killed", [False, True])
@on_virtual_clock
async def test_what_is_skipped_together_with_another_step_is_in_no_state(delivery: str, killed: bool) -> None:
    broker = await served(60, delivery=delivery)
    spoilt(broker, 60)
    send(broker, 10, first=61, partitions=1)
    reset(broker, 122)
    begun = broker.end("app.forecasts", 0)
    life = await Life(broker, delivery=delivery, checkpoint={"interval": NEVER}, **COLD).serves()
    assert life.counted() == (0, 1, 2)
    await life.ends(killed)
    send(broker, 10, first=71, partitions=1)
    life = await lived(broker, delivery=delivery, **COLD)
    assert life.counted() == (0, 0, 0)
    found = said(broker, begun)
    assert min(offset for offset, _ in found) >= 122
    assert all(json.loads(text)["warm"] for _, text in found)
    assert texts(found) == await never_sent(broker, (120, 122), len(found), **COLD)


@BOTH
@pytest.mark.parametrize("then", ["another step", "states deleted", "another step, killed"])
@on_virtual_clock
async def test_what_was_skipped_stays_skipped_when_the_states_begin_anew(delivery: str, then: str) -> None:
    chosen, broker = made(partitions=1)
    send(broker, 10, partitions=1)
    # Killed before it had written states: the next replay begins before what is skipped, and so does that behind it.
    await unwritten(broker, delivery=delivery)
    spoilt(broker, 10)
    await done(broker, chosen, to="22")
    send(broker, 3, first=11, partitions=1)
    life = await Life(broker, delivery=delivery, checkpoint={"interval": NEVER}).serves()
    send(broker, 3, first=14, partitions=1)
    await life.serves()
    await life.ends(then.endswith("killed"))
    if then == "states deleted":
        await done(broker, chosen, state=True)
    begun = broker.end("app.forecasts", 0)
    send(broker, 8, first=17, partitions=1)
    changes = {} if then == "states deleted" else COLD
    with capture_logs() as logs:
        await lived(broker, delivery=delivery, **changes)
    assert [entry["replay_from"] < 20 for entry in logs if entry["event"] == "partition assigned"] == [True]
    found = said(broker, begun)
    assert found and texts(found) == await never_sent(broker, (20, 22), len(found), **changes)


@on_virtual_clock
async def test_going_back_to_behind_what_was_skipped_leaves_it_skipped() -> None:
    broker = await served(40)
    spoilt(broker, 40)
    reset(broker, 82)
    send(broker, 40, first=41, partitions=1)
    await lived(broker)
    reset(broker, 120)
    begun = broker.end("app.forecasts", 0)
    life = await lived(broker)
    assert life.counted() == (1, 0, 0)
    again = said(broker, begun)
    assert {offset for offset, _ in again} == set(range(120, 162))
    assert texts(again) == await never_sent(broker, (80, 82), len(again))
    # Back to before it: it is wanted again.
    reset(broker, 70)
    begun = broker.end("app.forecasts", 0)
    await lived(broker)
    assert {offset for offset, _ in said(broker, begun)} == set(range(70, 162))


# ── offsets, and a worker that was killed before it had written its states ───────────────────────────────────────────


@BOTH
@on_virtual_clock
async def test_our_own_reset_knows_where_a_killed_worker_was(delivery: str) -> None:
    """Kafka's tools leave no note: there, what the last states do not hold is all that is known."""
    chosen, broker = made(partitions=1)
    send(broker, 40, partitions=1)
    await lived(broker, delivery=delivery)
    send(broker, 20, first=40, partitions=1)
    await unwritten(broker, delivery=delivery)
    whole = said(broker)
    assert committed(broker) == {0: 120}
    # Back by less than what is unwritten: into the states, too, or they would lack what lies before.
    await done(broker, chosen, to="-20")
    begun = broker.end("app.forecasts", 0)
    with capture_logs() as logs:
        life = await unwritten(broker, delivery=delivery)
    assert life.counted() == (1, 0, 0)
    assert sorted(said(broker, begun)) == sorted(each for each in whole if each[0] >= 100)
    [line] = [entry for entry in logs if entry["event"].startswith("offset set back by an operator")]
    assert (line["offset"], line["records"]) == (100, 20)
    # Ahead: what was processed is in the states, what lies between is not.
    spoilt(broker, 60)
    send(broker, 5, first=61, partitions=1)
    await done(broker, chosen, to="-1")
    await done(broker, chosen, to="+3")  # set twice: from where it was before
    begun = broker.end("app.forecasts", 0)
    life = await lived(broker, delivery=delivery)
    assert life.counted() == (0, 1, 2)
    assert texts(said(broker, begun)) == await never_sent(broker, (120, 122), 10)


@on_virtual_clock
async def test_a_crash_behind_an_offset_without_a_note_is_no_reset() -> None:
    """`--to-current`, and states that leave before the first commit."""
    broker = await served(40)
    reset(broker, 80)
    send(broker, 20, first=40, partitions=1)
    broker.hook = without_commits
    life = Life(broker, batch_records_max=10)
    await until(lambda: len(said(broker)) >= 120)
    await asyncio.sleep(3.0)
    send(broker, 10, first=60, partitions=1)
    await until(lambda: len(said(broker)) >= 140)
    await asyncio.sleep(3.0)
    life.kill()
    broker.hook = None
    assert states(broker) > 2  # they are ahead of what is committed
    assert committed(broker) == {0: 80}
    with capture_logs() as logs:
        life = await lived(broker)
    assert life.counted() == (0, 0, 0)
    assert not [entry for entry in logs if entry["event"].startswith("offset set")]


def test_a_note_of_where_the_group_was_holds_for_the_offset_that_it_stands_beside() -> None:
    ours = committed_with(204, 100, ((0, "w"),), "id", ((50, 60), (90, 120)))
    assert skips_beside(ours) == ((90, 120),) and was_at(ours) == -1
    once = set_from(150, ours)
    assert (once.offset, was_at(once), is_ours(once), skips_beside(once)) == (150, 204, False, ())
    assert was_at(set_from(180, once)) == 204
    assert was_at(Committed(180, once.metadata)) == -1  # another tool, since
    assert was_at(set_from(180, Committed(170))) == 170
    assert set_from(7, None) == Committed(7)


@pytest.mark.parametrize("to", range(90, 131, 5))
def test_the_note_decides_which_way_and_the_states_whether_they_can_be_used(to: int) -> None:
    known = set_from(to, committed_with(120, 0))
    word = offsets.word_of(known, Checkpoint("ticks", 100, "", None, 1, skips=((10, 20),)), 105)
    assert word.direction == ("back" if to < 120 else "ahead" if to > 120 else "")
    assert word.anew == (to < 105)
    assert word.skips == (((10, 20), (120, to)) if to > 120 else ((10, 20),))
