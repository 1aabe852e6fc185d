"""Times, sizes and keys that a broker takes or refuses, through a whole worker: what is refused costs one record."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from broker import Broker
from conftest import settings_for
from inside import serving
from service import configure, lag, read_all, sources
from structlog.testing import capture_logs

from streamrnn.cli.topics import _examined
from streamrnn.config.settings import Settings, load
from streamrnn.config.sizes import sizes_of
from streamrnn.serving.worker import Worker
from streamrnn.transports.base import Deadline, TopicNeed
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ANY_TIME = {"message.timestamp.after.max.ms": str(2**63 - 1)}
both = pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])

# partition, key, value, time of the record
Sent = tuple[int, bytes | None, bytes, int]


def tick(series: str, ts: int, value: float) -> bytes:
    return json.dumps({"series": series, "ts": ts, "values": {"x": value}}).encode()


async def prepared(
    broker: Broker,
    folder: Path,
    app: str,
    sent: Sequence[Sent],
    configs: dict[str, dict[str, str]] | None = None,
    **changes: Any,
) -> Settings:
    """Topics with these settings (of the outputs by kind; all others are Kafka's own) and this input; the settings."""
    base: dict[str, Any] = {"channels": ["x"], "horizon": 2, "warm_up": 2, "model": {"hidden": 4}}
    base["idle_after"] = "10000h"  # no record leads to outputs of another series
    kafka = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 1000, **changes.pop("kafka", {})}
    chosen = load(
        [
            configure(
                folder, broker, app, **{**base, **changes, "kafka": {"bootstrap_servers": broker.servers, **kafka}}
            )
        ],
        {},
        {},
    )
    transport, kinds = KafkaTransport(settings_for(broker)), dict(configs or {})
    admin, sink = transport.admin(), transport.sink()
    await admin.start()
    needs = [TopicNeed(chosen.input, 2, ANY_TIME)]
    for need in chosen.topic_needs(2):
        kind = need.name.rpartition(".")[2]
        needs.append(
            TopicNeed(
                need.name, need.partitions, kinds.get(kind, need.config if "compact" in need.config.values() else {})
            )
        )
    await admin.create(needs)
    await admin.stop()
    await sink.start()
    for partition, key, value, at in sent:
        await sink.append_many(chosen.input, partition, [key], [value], [at], [[("device", b"7")]])
    await (await sink.seal()).wait(Deadline(10.0))
    await sink.stop(Deadline(5.0))
    return chosen


async def served(broker: Broker, chosen: Settings) -> tuple[Worker, list[Any]]:
    """A worker that has read and committed everything, and its log."""
    with capture_logs() as logs:
        async with serving(chosen) as worker:
            async with asyncio.timeout(30):
                while await lag(broker, chosen.app):
                    await asyncio.sleep(0.1)
    assert worker.observer.metrics.rebuilds._value.get() == 0, logs
    return worker, logs


def reasons(records: Sequence[Any]) -> list[tuple[str, str]]:
    return [
        (dict(r.headers)["streamrnn-reason"].decode(), dict(r.headers)["streamrnn-detail"].decode()) for r in records
    ]


def metric(worker: Worker, name: str, **labels: str) -> float:
    return worker.observer.metrics.registry.get_sample_value(f"streamrnn_{name}", labels) or 0.0


def two_hours_ahead() -> tuple[list[Sent], Sent]:
    """Ticks of three series whose record times are their own; one of them is two hours ahead."""
    now = int(time.time() * 1000) // 1000 * 1000 - 60_000
    sent = [(p, b"", tick("abc"[p], now + 1000 * i, 20 + i / 10), now + 1000 * i) for i in range(20) for p in range(2)]
    fast = (1, b"the key", tick("fast", now + 2 * HOUR_MS, 1.0), now + 2 * HOUR_MS)
    return [*sent, fast], fast


@both
async def test_a_record_two_hours_ahead_is_served(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    sent, _ = two_hours_ahead()
    chosen = await prepared(broker, tmp_path, unique("ahead"), sent, delivery=delivery)
    begun = int(time.time() * 1000)
    worker, _ = await served(broker, chosen)
    assert await sources(broker, chosen.app) == Counter({(0, o): 1 for o in range(20)} | {(1, o): 1 for o in range(21)})
    assert not await read_all(broker, chosen.topics.dlq)
    assert all(r.timestamp >= begun for r in await read_all(broker, chosen.topics.forecasts))
    assert not metric(worker, "client_rebuilds_total")


@both
async def test_with_event_times_a_record_two_hours_ahead_is_dead_lettered_and_costs_no_other(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    sent, fast = two_hours_ahead()
    chosen = await prepared(broker, tmp_path, unique("event"), sent, delivery=delivery, output={"timestamp": "event"})
    worker, logs = await served(broker, chosen)
    assert await sources(broker, chosen.app) == Counter({(0, o): 1 for o in range(20)} | {(1, o): 1 for o in range(21)})
    forecasts = await read_all(broker, chosen.topics.forecasts)
    assert len(forecasts) == 40
    assert all(r.timestamp == json.loads(r.value)["ts"] for r in forecasts)
    (letter,) = await read_all(broker, chosen.topics.dlq)
    assert (letter.key, letter.value, dict(letter.headers)["device"]) == (fast[1], fast[2], b"7")
    assert dict(letter.headers)["streamrnn-source"] == f"{chosen.input}/1/20".encode()
    ((reason, detail),) = reasons([letter])
    assert reason == "refused"
    assert detail.startswith("forecasts: INVALID_TIMESTAMP")
    assert abs(letter.timestamp - time.time() * 1000) < 60_000
    assert metric(worker, "outputs_refused_total", kind="forecast", error="INVALID_TIMESTAMP") == 1
    assert metric(worker, "rejected_total", reason="refused") == 1
    (entry,) = [line for line in logs if "refuses outputs" in line["event"]]
    assert entry["refused"] == 1
    assert chosen.topics.forecasts in entry["example"]


@both
async def test_when_most_of_what_comes_is_refused_it_is_reported_once_and_each_is_dead_lettered(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    """A clock that is set wrong: several thousand records in several batches, one line in the log, no rebuild."""
    now = int(time.time() * 1000)
    sent = [
        (0, None, tick(f"s{i % 7}", at := now + (i % 10 > 0) * 3 * HOUR_MS + i // 7 * 1000, 1.0), at)
        for i in range(3000)
    ]
    chosen = await prepared(
        broker, tmp_path, unique("most"), sent, delivery=delivery, output={"timestamp": "event"}, batch_records_max=500,
        gap_max=0,
    )  # fmt: skip
    worker, logs = await served(broker, chosen)
    letters = await read_all(broker, chosen.topics.dlq)
    assert len({dict(r.headers)["streamrnn-source"] for r in letters}) == len(letters)
    assert len(letters) + len(await read_all(broker, chosen.topics.forecasts)) == 3000
    refused = [r for r in letters if reasons([r])[0][0] == "refused"]
    assert len(refused) > 1000
    assert metric(worker, "rejected_total", reason="refused") == len(refused)
    assert len([line for line in logs if "refuses outputs" in line["event"]]) == 1


@both
async def test_a_record_without_a_key_is_dead_lettered_in_a_compacted_topic(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    now = int(time.time() * 1000) - 60_000
    sent: list[Sent] = [(0, None, tick("a", now + 1000 * i, 1.0), now + 1000 * i) for i in range(10)]
    sent[3] = sent[7] = (0, None, b"{", now)
    chosen = await prepared(
        broker, tmp_path, unique("keyless"), sent, {"dlq": {"cleanup.policy": "compact"}}, delivery=delivery
    )
    worker, _ = await served(broker, chosen)
    assert await sources(broker, chosen.app) == Counter({(0, o): 1 for o in range(10)})
    letters = await read_all(broker, chosen.topics.dlq)
    assert [(r.key, r.value) for r in letters] == [(f"{chosen.input}/0/{o}".encode(), b"{") for o in (3, 7)]
    assert {reason for reason, _ in reasons(letters)} == {"malformed"}
    assert dict(letters[0].headers)["streamrnn-refused"].startswith(b"INVALID_RECORD")
    assert metric(worker, "outputs_refused_total", kind="dead-letter", error="INVALID_RECORD") == 2
    assert metric(worker, "dead_letters_lost_total") == 0


@both
async def test_an_output_too_large_for_its_topic_is_dead_lettered(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    """By the length of its series' name, which stands in it twice."""
    now = int(time.time() * 1000) - 60_000
    names = ["a", "b" * 200, "c"]
    sent = [(0, None, tick(names[i % 3], now + 1000 * i, 1.0), now + 1000 * i) for i in range(30)]
    chosen = await prepared(
        broker, tmp_path, unique("large"), sent, {"forecasts": {"max.message.bytes": "1024"}},
        delivery=delivery, horizon=12, kafka={"batch_bytes_max": 1024},
    )  # fmt: skip
    await served(broker, chosen)
    assert await sources(broker, chosen.app) == Counter({(0, o): 1 for o in range(30)})
    letters = await read_all(broker, chosen.topics.dlq)
    assert {json.loads(r.value)["series"] for r in letters} == {"b" * 200}
    assert all(what[0] == "refused" and "forecasts: MESSAGE_TOO_LARGE" in what[1] for what in reasons(letters))


@both
async def test_a_dead_letter_that_its_topic_never_takes_is_given_up(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    now = int(time.time() * 1000) - 60_000
    sent: list[Sent] = [(0, None, tick("a", now + 1000 * i, 1.0), now + 1000 * i) for i in range(10)]
    sent[3] = (0, None, b"{" * 40_000, now)
    sent[4] = (0, b"k" * 3000, b"{", now)
    chosen = await prepared(broker, tmp_path, unique("never"), sent, delivery=delivery)
    limits = {"max.message.bytes": "2000"}
    await alter(broker, chosen.topics.dlq, limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "streamrnn.serving.start_checks.refuse", lambda *states: None
        )  # it was altered under a running worker
        worker, _ = await served(broker, chosen)
        letters = await read_all(broker, chosen.topics.dlq)
        assert [dict(r.headers)["streamrnn-source"].rpartition(b"/")[2] for r in letters] == [b"3", b"4"]
        assert letters[0].value == b"{" * 256
        assert dict(letters[0].headers)["streamrnn-truncated"] == b"40000"
        assert metric(worker, "dead_letters_lost_total") == 0


async def alter(broker: Broker, topic: str, config: dict[str, str]) -> None:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    client = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
    await client.start()
    await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)])
    await client.close()


# ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def begin_of(broker: Broker, topic: str) -> int:
    reader = KafkaTransport(settings_for(broker)).reader()
    await reader.start(topic, None)
    try:
        return (await reader.begin_offsets())[0]
    finally:
        await reader.stop(Deadline(5.0))


async def retention_has_run(broker: Broker, topic: str) -> None:
    """A whole round of the broker's check: what is old when it begins is deleted when this returns.

    The first of two old records goes with a round that may have begun before, the second with one that has not.
    """
    transport = KafkaTransport(settings_for(broker))
    admin, sink = transport.admin(), transport.sink()
    await admin.start()
    await admin.create([TopicNeed(topic, 1, {"retention.ms": str(7 * DAY_MS)})])
    await admin.stop()
    await sink.start()
    for count in (1, 2):
        await sink.append_many(topic, 0, [b"k"], [b"old"], [int(time.time() * 1000) - 60 * DAY_MS])
        await (await sink.seal()).wait(Deadline(10.0))
        async with asyncio.timeout(60):
            while await begin_of(broker, topic) < count:
                await asyncio.sleep(0.2)
    await sink.stop(Deadline(5.0))


@pytest.mark.parametrize("timestamp", ["now", "event"])
async def test_outputs_of_a_history_of_sixty_days_outlive_it(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], timestamp: str
) -> None:
    """With `event` that is what was asked for: forecasts go as their input would; dead letters stay."""
    then = int(time.time() * 1000) // 60_000 * 60_000 - 60 * DAY_MS
    sent: list[Sent] = [(0, None, tick("a", then + 60_000 * i, 20.0), then + 60_000 * i) for i in range(24)]
    sent.insert(7, (0, None, b'{"series":"a","ts":"yesterday","values":{"x":1}}', then))
    weeks = {kind: {"retention.ms": str(7 * DAY_MS)} for kind in ("forecasts", "imputed", "dlq")}
    chosen = await prepared(
        broker, tmp_path, unique("history"), sent, weeks, step="1m", imputed="all", output={"timestamp": timestamp}
    )
    await served(broker, chosen)
    await retention_has_run(broker, unique("old"))
    left = {kind: len(await read_all(broker, f"{chosen.app}.{kind}")) for kind in weeks}
    count = 24 if timestamp == "now" else 0
    assert left == {"forecasts": count, "imputed": count, "dlq": 1}


async def test_topics_made_for_event_times_take_any_and_validate_says_what_they_lose(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("made")
    chosen = load([configure(tmp_path, broker, app, output={"timestamp": "event"})], {}, {})
    sizes, transport = sizes_of(chosen), KafkaTransport(chosen.kafka_settings())
    states, made, _ = await _examined(transport, chosen, sizes, create=True, partitions=1)
    assert len(made) == 6
    assert not [hint for state in states for hint in state.hints]
    sink = transport.sink()
    await sink.start()
    for topic in (chosen.topics.forecasts, chosen.topics.imputed):
        await sink.append_many(topic, 0, [b"k"] * 2, [b"1", b"2"], [0, 4_000_000_000_000])  # 1970 and 2096
    await (await sink.seal()).wait(Deadline(10.0))
    await sink.stop(Deadline(5.0))
    # All settings of a topic are given anew by this.
    kept = {"retention.ms": str(7 * DAY_MS), **chosen.topic_needs(1)[0].config}
    await alter(broker, chosen.topics.forecasts, kept)
    states, _, _ = await _examined(transport, chosen, sizes)
    (hint,) = [hint for state in states for hint in state.hints]
    assert hint.startswith("keeps event times for 7d (retention.ms), the input for ever")
    command = hint[hint.index("kafka-configs.sh") :].split()
    await asyncio.to_thread(broker._run, command[0], "--bootstrap-server", broker.servers, *command[1:])
    assert not [hint for state in (await _examined(transport, chosen, sizes))[0] for hint in state.hints]
