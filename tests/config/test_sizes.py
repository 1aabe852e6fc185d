"""What a configuration will take is known before anything has that size, and no size ends in a traceback or a loop."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from running import all_committed, documents, ended, made, on_virtual_clock, send, settings, until, worker
from topics import Given, examined

from streamrnn.config import sizes
from streamrnn.config.sizes import (
    BATCH_BYTES,
    batch_records,
    limit_for,
    needs_with_limits,
    sizes_of,
    too_much_memory,
)
from streamrnn.serving import checkpoint
from streamrnn.serving.topics import raise_limits, refuse
from streamrnn.serving.worker import Worker
from streamrnn.transports.base import TopicUnfit
from streamrnn.transports.memory.broker import Appended
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport

WIDE: dict[str, Any] = {
    "channels": [f"c{i}" for i in range(100)],
    "horizon": 48,
    "model": {"hidden": 1024, "layers": 2},
}


@pytest.mark.parametrize("changes", [{}, {"lateness": "2s"}, {"within": "mean"}, {"channels": ["temp"], "horizon": 1}])
async def test_what_is_said_of_records_is_what_records_have(changes: dict[str, Any]) -> None:
    chosen, broker = made(**{"checkpoint": {"interval": "10ms"}, **changes})
    said = sizes_of(chosen)
    send(broker, 40)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.engine.table.row_bytes() < said.series
        without_network = said.state_usual - 4 * sizes.state_numbers(chosen)
    states = [r.value for log in broker.topics["app.state"] for r in log if r.key and r.key.startswith(b"s/")]
    assert states
    lengths = {len(value or b"") for value in states}
    plain = not chosen.lateness and chosen.within == "one"
    assert min(lengths) == without_network if plain else min(lengths) > without_network
    assert max(lengths) + sizes.ENVELOPE_BYTES < said.state_largest
    forecasts = [len(r.value or b"") for log in broker.topics["app.forecasts"] for r in log]
    assert said.forecast_least < min(forecasts) and max(forecasts) < said.forecast_largest


def test_ticks_that_are_held_back_are_counted_in() -> None:
    for changes in ({}, {"lateness": "5s"}, {"within": "mean"}, {"lateness": "5s", "pending_max": 5000}):
        chosen = settings(**changes)
        engine = Worker(chosen, MemoryTransport(MemoryBroker()), None).engine  # type: ignore[arg-type]
        width = len(chosen.channels)
        ticks = chosen.pending_max if changes else width
        engine.front.take_held(0, {2**40 + i: [(2**60, width - 1, np.ones(width))] for i in range(ticks)})
        held = len(engine.front.held_bytes(0))
        said = sizes_of(chosen)
        assert held <= said.state_largest - said.state_usual
        assert said.state_largest - said.state_usual < 2 * held + 1000


# ── topics ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_topic_that_takes_no_state_is_refused_with_the_settings_and_the_command() -> None:
    chosen = settings(**WIDE)
    with pytest.raises(TopicUnfit) as raised:
        refuse(await examined({}, chosen))
    text = str(raised.value)
    largest = sizes_of(chosen).state_largest
    assert "app.state: max.message.bytes=1048588 takes no state record" in text
    assert f"--entity-name app.state --add-config max.message.bytes={limit_for(largest)}" in text
    assert all(word in text for word in ("channels (100)", "horizon (48)", "quantiles (3)", "model.hidden (1024)"))
    assert "pending_max" not in text
    refuse(await examined({"state": {"max.message.bytes": str(limit_for(largest))}}, chosen))


async def test_ticks_held_back_by_one_series_must_fit_too() -> None:
    wide: dict[str, Any] = {"channels": [f"c{i}" for i in range(100)], "horizon": 1, "experts": "off"}
    chosen = settings(**wide, lateness="5s", pending_max=2000)
    assert sizes_of(chosen).state_usual < BATCH_BYTES / 20
    with pytest.raises(TopicUnfit, match=r"pending_max \(2000\)"):
        refuse(await examined({}, chosen))


async def test_topics_are_made_with_the_limit_they_need_and_others_with_none() -> None:
    plain, wide = settings(), settings(**WIDE)
    assert needs_with_limits(plain.topic_needs(2), plain, sizes_of(plain)) == plain.topic_needs(2)
    needs = {need.name: need.config for need in needs_with_limits(wide.topic_needs(2), wide, sizes_of(wide))}
    limits = {name: config["max.message.bytes"] for name, config in needs.items() if "max.message.bytes" in config}
    assert limits == {"app.state": str(limit_for(sizes_of(wide).state_largest))}
    refuse(await examined({"state": {"max.message.bytes": limits["app.state"]}}, wide))


async def test_the_limit_of_a_topic_that_is_there_is_raised() -> None:
    wide, broker = settings(**WIDE), MemoryBroker()
    admin = Given(broker)
    admin.given = {}
    assert await raise_limits(admin, wide, sizes_of(wide)) == ["app.state"]
    wanted = str(limit_for(sizes_of(wide).state_largest))
    assert broker.configs == {"app.state": {"max.message.bytes": wanted}}
    admin.given = {"state": {"max.message.bytes": wanted}}
    assert await raise_limits(admin, wide, sizes_of(wide)) == []
    assert await raise_limits(admin, settings(), sizes_of(settings())) == []


@pytest.mark.parametrize("shape", [(256, 1000), (200, 800), (20, 1000)])
async def test_states_that_no_topic_takes_are_refused_before_anything_is_made(shape: tuple[int, int]) -> None:
    chosen = settings(channels=[f"c{i}" for i in range(shape[0])], horizon=shape[1])
    if sizes_of(chosen).state_largest <= sizes.ROW_BYTES_MAX:
        pytest.skip("a record takes it")
    with pytest.raises(TopicUnfit, match=r"no topic takes a state record"):
        Worker(chosen, MemoryTransport(MemoryBroker()), None)  # type: ignore[arg-type]
    with pytest.raises(TopicUnfit, match=r"no topic takes a state record"):
        refuse(await examined({}, chosen))


async def test_a_state_that_is_refused_all_the_same_ends_the_worker_once_with_cause_and_remedy() -> None:
    chosen, broker = made(checkpoint={"interval": "10ms"})

    def refuses(topic: str, partition: int, record: Appended) -> str:
        return "MESSAGE_TOO_LARGE" if topic == "app.state" and len(record[1] or b"") > 500 else ""

    broker.refuses = refuses
    send(broker, 40)
    starts = 0
    ask = broker.group("app").join

    def counted(member: Any) -> Any:
        nonlocal starts
        starts += 1
        return ask(member)

    broker.group("app").join = counted  # type: ignore[method-assign]
    with pytest.raises(TopicUnfit) as raised:
        async with worker(chosen, broker) as running:
            await until(lambda: ended(running) or bool(running._failures))
    assert starts == 1
    assert re.search(r"app\.state refuses a record .* of \d+ bytes .*MESSAGE_TOO_LARGE", str(raised.value))
    assert "--entity-name app.state --add-config max.message.bytes=" in str(raised.value)
    assert "horizon" in str(raised.value)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("experts", ["off", "full", "auto"])
def test_more_series_than_memory_is_said_with_how_many_fit(experts: str) -> None:
    """With `experts: auto` fewer series have more experts: what is said to fit does."""
    chosen = settings(series_max=1_000_000, experts=experts)
    said = sizes_of(chosen)
    text = too_much_memory(chosen, said, 1_000_000_000)
    fits = int(re.search(r"about (\d+) fit", text)[1])  # type: ignore[index]
    if experts != "auto":
        assert (
            sizes.PROCESS_BYTES + fits * said.series <= 1_000_000_000 < sizes.PROCESS_BYTES + (fits + 1) * said.series
        )
    assert "series_max=1000000" in text and fits > 1000
    fewer = settings(series_max=fits, experts=experts)
    assert not too_much_memory(fewer, sizes_of(fewer), 1_000_000_000)


@on_virtual_clock
async def test_a_series_max_of_more_than_all_memory_serves() -> None:
    chosen, broker = made(partitions=1, series_max=1_000_000_000, batch_records_max=2000)
    send(broker, 20, partitions=1)
    async with worker(chosen, broker) as running:
        await until(lambda: all_committed(broker))
        assert running.engine.table.row_bytes() * chosen.series_max > 1 << 39
    assert len(documents(broker, "app.forecasts")) == 40


def test_batches_and_slices_of_large_records_are_smaller() -> None:
    assert batch_records(settings().stream_spec()) > 2000
    wide = settings(**WIDE).stream_spec()
    numbers = 100 * 48 * 4
    assert 100 < batch_records(wide) < 2000
    assert batch_records(wide) * numbers * 8 < 256 << 20
    assert checkpoint.SLICE_BYTES_MAX // sizes_of(settings()).state_usual > checkpoint.SLICE_ROWS


def test_sizes_for_scripts_are_plain_numbers() -> None:
    document = json.loads(json.dumps(sizes_of(settings()).document(40.0, 10**9)))
    assert document["memory_bytes"] == document["series_bytes"] * document["series_max"]
    assert document["changelog_bytes_per_second"] == 40 * document["state_record_bytes"]
