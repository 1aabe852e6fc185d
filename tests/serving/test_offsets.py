"""Offsets that an operator sets with Kafka's own tools while the workers are away: back, ahead, and where they were."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from operated import BOTH, NEVER, SOON, Life, lived, never_sent, reset, said, served, states, without_commits
from running import committed, documents, made, on_virtual_clock, send, tick, until
from structlog.testing import capture_logs

from streamrnn.serving import commit_note, offsets
from streamrnn.serving.commit_note import committed_with, is_ours
from streamrnn.stores.changelog import Checkpoint
from streamrnn.transports.base import Committed


def content(found: list[tuple[int, str]]) -> list[str]:
    return sorted(text for _, text in found)


@BOTH
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("to", [0, 1, 55, 118], ids=["to the earliest", "by one record", "halfway", "by the last two"])
@on_virtual_clock
async def test_what_is_reset_to_an_earlier_offset_is_processed_again(delivery: str, killed: bool, to: int) -> None:
    _, broker = made(partitions=1)
    send(broker, 60, partitions=1)
    life = await Life(broker, delivery=delivery).serves()
    await life.ends(killed)
    first = said(broker)
    assert {offset for offset, _ in first} == set(range(120))
    reset(broker, to)
    begun = broker.end("app.forecasts", 0)
    with capture_logs() as logs:
        life = await lived(broker, delivery=delivery)
    # The log is short enough to begin at its begin: to the bit what was said the first time.
    assert sorted(said(broker, begun)) == sorted(each for each in first if each[0] >= to)
    assert life.counted() == (1, 0, 0)
    [line] = [entry for entry in logs if entry["event"].startswith("offset set back by an operator")]
    assert (line["offset"], line["records"], line["replay_from"]) == (to, 120 - to, 0)
    assert life.worker.observer.metrics.cold_starts._value.get() == 0
    # And that is that: the next life goes on.
    begun = broker.end("app.forecasts", 0)
    send(broker, 5, first=60, partitions=1)
    life = await lived(broker, delivery=delivery)
    assert {offset for offset, _ in said(broker, begun)} == set(range(120, 130))
    assert life.counted() == (0, 0, 0)


@BOTH
@pytest.mark.parametrize("interval", [SOON, NEVER])
@on_virtual_clock
async def test_a_second_reset_to_the_same_offset_counts_again(delivery: str, interval: str) -> None:
    broker = await served(40, delivery=delivery)
    for times in (2, 3):
        reset(broker, 0)
        life = await Life(broker, delivery=delivery, checkpoint={"interval": interval}).serves()
        await asyncio.sleep(1.0)
        life.kill()
        # Where no state has come beyond the offset, there is nothing that is not used.
        assert life.counted() == (1 if interval == SOON or times == 2 else 0, 0, 0)
        assert Counter(offset for offset, _ in said(broker)) == dict.fromkeys(range(80), times)


@BOTH
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize("to", [99, 130, 160], ids=["by some", "by most", "to the latest"])
@on_virtual_clock
async def test_what_a_reset_to_a_later_offset_leaves_out_is_skipped_said_and_counted(
    delivery: str, killed: bool, to: int
) -> None:
    _, broker = made(partitions=1)
    send(broker, 40, partitions=1)
    life = await Life(broker, delivery=delivery).serves()
    await life.ends(killed)
    send(broker, 40, first=40, partitions=1)
    reset(broker, to)
    begun = broker.end("app.forecasts", 0)
    with capture_logs() as logs:
        life = await Life(broker, delivery=delivery).serves()
        send(broker, 20, first=80, partitions=1)
        await (await life.serves()).stop()
    assert sorted({offset for offset, _ in said(broker, begun)}) == list(range(to, 200))
    assert life.counted() == (0, 1, to - 80)
    [line] = [entry for entry in logs if entry["event"].startswith("offset set ahead by an operator")]
    assert (line["offset"], line["records"], line["skipped_from"]) == (to, to - 80, 80)
    # As if the skipped ones had never been sent.
    assert content(said(broker, begun)) == sorted(await never_sent(broker, (80, to), 200 - to, delivery=delivery))


@on_virtual_clock
async def test_what_was_skipped_stays_skipped_when_the_state_is_older_than_that() -> None:
    """Killed before the next checkpoint: the replay begins before the skipped records, and goes around them."""
    broker = await served(40)
    send(broker, 40, first=40, partitions=1)
    broker.append("ticks", 0, b"a0", tick("a0", 80, 1e9), 1_700_000_080_000)  # would spoil every forecast behind it
    reset(broker, 161)
    life = await Life(broker, checkpoint={"interval": NEVER}).serves()
    for first in (81, 91, 101):
        send(broker, 10, first=first, partitions=1)
        await life.serves()
        await asyncio.sleep(1.0)
        life.kill()
        life = await Life(broker, checkpoint={"interval": NEVER}).serves()
        assert life.counted()[0] == 0
    await life.stop()
    texts = said(broker)
    assert not any(80 <= offset < 161 for offset, _ in texts)
    assert max(abs(json.loads(text)["channels"]["temp"]["mean"][0]) for _, text in texts) < 100


@pytest.mark.parametrize("interval", [SOON, NEVER])
@pytest.mark.parametrize("to", [20, 150], ids=["back", "ahead"])
@on_virtual_clock
async def test_a_crash_before_the_first_commit_after_a_reset_is_no_second_reset(interval: str, to: int) -> None:
    """States leave when their outputs are acknowledged, commits come later: states ahead of the operator's offset."""
    broker = await served(60)
    send(broker, 60, first=60, partitions=1)
    reset(broker, to)
    broker.hook = without_commits
    begun = broker.end("app.forecasts", 0)
    life = Life(broker, checkpoint={"interval": SOON}, batch_records_max=10)
    await until(lambda: len(said(broker, begun)) >= 60)
    await asyncio.sleep(3.0)
    life.kill()
    assert life.counted()[:2] == ((1, 0) if to == 20 else (0, 1))
    broker.hook = None
    assert committed(broker)[0] == to
    life = await lived(broker, checkpoint={"interval": interval})
    assert life.counted() == (0, 0, 0)
    assert {offset for offset, _ in said(broker, begun)} == set(range(to, 240))
    assert len(said(broker, begun)) < 2 * (240 - to)  # those that states hold are not said twice


@on_virtual_clock
async def test_a_second_reset_counts_before_the_first_checkpoint_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrnn.serving.pump.SLICE_ROWS", 1)  # its states leave one by one
    _, broker = made(partitions=1)
    names = [f"s{i}" for i in range(40)]
    for step in range(20):
        for name in names:
            broker.append("ticks", 0, name.encode(), tick(name, step, 1.0 + step), 1_700_000_000_000 + 1000 * step)
    await lived(broker)

    async def slow(what: str, client: str, effect: Any) -> Any:
        await asyncio.sleep(0.001)
        return effect()

    broker.hook, slowly = slow, {"interval": "60ms"}
    for times in (2, 3):
        reset(broker, 0)
        life, enough = Life(broker, batch_records_max=1, commit_interval="1ms", checkpoint=slowly), states(broker) + 5
        await until(lambda least=enough: states(broker) >= least)
        done = committed(broker)[0]
        life.kill()
        assert 40 < done < 800 and states(broker) < enough + 35
        seen = Counter(offset for offset, _ in said(broker))
        assert all(seen[offset] == times for offset in range(done)), seen
        await asyncio.sleep(1.0)


@on_virtual_clock
async def test_a_state_of_before_the_skipped_records_goes_around_them() -> None:
    """One that a worker which had lost the partition wrote over a newer one: the replay begins before the skip."""
    broker = await served(20)
    early = [record for record in broker.topics["app.state"][0] if record.key == b"s/a0"][-1]
    send(broker, 20, first=20, partitions=1)
    await lived(broker)
    broker.append("ticks", 0, b"a0", tick("a0", 40, 1e6), 1_700_000_040_000)
    reset(broker, 81)
    send(broker, 20, first=41, partitions=1)
    await lived(broker)
    broker.append("app.state", 0, early.key, early.value, early.timestamp)
    broker.compact("app.state", 0)
    send(broker, 5, first=61, partitions=1)
    begun = broker.end("app.forecasts", 0)
    with capture_logs() as logs:
        await lived(broker)
    assert any(entry["event"].startswith("a worker that had lost this partition") for entry in logs)
    assert content(said(broker, begun)) == sorted(await never_sent(broker, (80, 81), 10))


@on_virtual_clock
async def test_states_ahead_of_an_offset_of_our_own_are_no_reset() -> None:
    broker = await served(30)
    broker.hook = without_commits
    send(broker, 30, first=30, partitions=1)
    life = Life(broker, checkpoint={"interval": SOON}, batch_records_max=10)
    await until(lambda: len(said(broker)) >= 100)
    await asyncio.sleep(3.0)
    life.kill()
    broker.hook = None
    assert committed(broker)[0] == 60
    life = await lived(broker)
    assert life.counted() == (0, 0, 0)
    assert {offset for offset, _ in said(broker)} == set(range(120))


@BOTH
@on_virtual_clock
async def test_an_offset_without_a_note_that_is_where_the_states_are_changes_nothing(delivery: str) -> None:
    broker = await served(40, delivery=delivery)
    reset(broker, committed(broker)[0])  # --to-current, or a version that wrote no notes
    send(broker, 10, first=40, partitions=1)
    life = await lived(broker, delivery=delivery)
    assert life.counted() == (0, 0, 0)
    assert Counter(offset for offset, _ in said(broker)) == dict.fromkeys(range(100), 1)


@on_virtual_clock
async def test_offsets_of_one_partition_say_nothing_of_another() -> None:
    _, broker = made(partitions=2)
    send(broker, 40)
    await lived(broker)
    reset(broker, 10, partition=1)
    life = await lived(broker)
    assert life.counted() == (1, 0, 0)
    seen = Counter((d["source"]["partition"], d["source"]["offset"]) for d in documents(broker, "app.forecasts"))
    assert seen == {(p, o): 2 if p == 1 and o >= 10 else 1 for p in (0, 1) for o in range(80)}


@on_virtual_clock
async def test_a_long_log_is_not_read_from_its_begin() -> None:
    _, broker = made(partitions=1)
    send(broker, 300, partitions=1)
    changes = {"checkpoint": {"interval": SOON, "records": 100}}
    await lived(broker, **changes)
    reset(broker, 500)
    begun = broker.end("app.forecasts", 0)
    with capture_logs() as logs:
        await lived(broker, **changes)
    [line] = [entry for entry in logs if entry["event"].startswith("offset set back by an operator")]
    assert line["replay_from"] == 400
    again = said(broker, begun)
    assert {offset for offset, _ in again} == set(range(500, 600))
    assert all(json.loads(text)["warm"] for _, text in again)


def test_a_note_that_was_written_beside_another_offset_is_a_tool_s() -> None:
    ours = committed_with(100, 40, ((0, "w"),), "id")
    assert is_ours(ours)
    assert not is_ours(Committed(90, ours.metadata))
    assert not is_ours(Committed(100, ""))
    assert is_ours(Committed(90, '{"replay_from":40,"weights":[],"input_id":""}'))  # of before notes named their offset


@pytest.mark.parametrize("offset", range(90, 131, 5))
@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("word", [-1, 100])
def test_who_wrote_an_offset_and_how_far_the_states_have_come_decide(offset: int, ours: bool, word: int) -> None:
    checkpoint = Checkpoint("ticks", 100, "", None, 1, word=word)
    known = committed_with(offset, 0) if ours else Committed(offset, "")
    found = offsets.word_of(known, checkpoint, 110)
    if ours or offset == 110 or offset == word:
        assert found.direction == ""
    else:
        assert found.direction == ("back" if offset < 110 else "ahead")
        assert found.records == abs(offset - 110)
        assert found.skips == (((110, offset),) if offset > 110 else ())
    assert offsets.word_of(None, checkpoint, 110).direction == ""


def test_positions_go_around_what_is_skipped() -> None:
    skips = ((10, 20), (20, 25), (40, 50))
    assert offsets.next_skip(skips, 0) == (10, 20)
    assert offsets.next_skip(skips, 26) == (40, 50)
    assert offsets.next_skip(skips, 50) is None
    assert commit_note.still_needed(skips, 24) == ((20, 25), (40, 50))
