"""Topics changed under the service, on Apache Kafka itself: shortened, deleted, made anew, refusing, grown, unfit."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.producer.sender import SendProduceReqHandler
from broker import Broker
from clients import settings_for
from inside import ended, make_topics, prepared, produce, serving
from running import until
from service import Output, command, configure, lag, quick, read_all, sources
from structlog.testing import capture_logs
from test_kafka_damage import give_up

from streamrnn.config.settings import Settings, load
from streamrnn.monitor import health
from streamrnn.runtime.exit_codes import ExitCode, exit_code_of
from streamrnn.serving import watch
from streamrnn.serving.worker import Worker
from streamrnn.stores.changelog import CHECKPOINT, Checkpoint, encode_checkpoint
from streamrnn.transports.base import TopicMissing, TopicNeed, TopicUnfit
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrnn.serving.worker.BACKOFF_S", (0.05, 0.2))


@asynccontextmanager
async def administering(broker: Broker) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def delete(broker: Broker, topic: str) -> None:
    """Returns when its name is free again."""
    async with administering(broker) as client, asyncio.timeout(60):
        await client.delete_topics([topic])
        while topic in await client.list_topics():
            await asyncio.sleep(0.05)


async def arrived(worker: Worker, wanted: dict[int, int], timeout_s: float = 30.0) -> None:
    """Every partition is read up to there, and its offset committed."""
    await until(
        lambda: worker.pump and {p: owned.committed for p, owned in worker.pump.owned.items()} == wanted, timeout_s
    )


def lines_of(logs: list[Any], words: str) -> list[Any]:
    return [entry for entry in logs if words in entry["event"]]


async def forecasts(broker: Broker, chosen: Settings) -> list[Output]:
    records = await read_all(broker, chosen.topics.forecasts)
    return [msgspec.json.decode(record.value, type=Output) for record in records]


def ready(worker: Worker) -> bool:
    return worker.observer.health.ready(time.monotonic())[0]


async def put(broker: Broker, topic: str, value: bytes, key: bytes | None = None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.servers)
    await producer.start()
    await producer.send_and_wait(topic, value, key=key, partition=0)
    await producer.stop()


# ── the input ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_log_that_begins_behind_the_committed_offset_is_served_from_its_begin(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """Retention has gone past a worker that was away: reported, cold, and no other partition minds."""
    chosen = await prepared(broker, tmp_path, unique("shortened"))
    for partition in range(2):
        await produce(broker, chosen.input, partition, 0, 100)
    async with serving(chosen) as worker:
        await arrived(worker, {0: 100, 1: 100})
    for partition in range(2):
        await produce(broker, chosen.input, partition, 100, 50)
    await give_up(broker, chosen.input, 0, 130)
    with capture_logs() as logs:
        async with serving(chosen) as worker:
            await arrived(worker, {0: 150, 1: 150})
            assert worker.observer.metrics.cold_starts._value.get() == 1
            assert worker.observer.metrics.rebuilds._value.get() == 0
            await produce(broker, chosen.input, 0, 150, 20)
            await arrived(worker, {0: 170, 1: 150})
    (alarm,) = lines_of(logs, "the committed offset is not in the log")
    assert (alarm["partition"], alarm["committed"], alarm["begin"]) == (0, 100, 130)
    (cold,) = lines_of(logs, "partition starts without its state")
    assert "retention" in cold["why"]
    seen = await sources(broker, chosen.app)
    assert set(seen) == {(0, o) for o in range(170) if not 100 <= o < 130} | {(1, o) for o in range(150)}
    warm = {(o.source.partition, o.source.offset): o.warm for o in await forecasts(broker, chosen)}
    assert not warm[0, 130]
    assert warm[1, 100]


async def made_anew(broker: Broker, chosen: Settings, count: int) -> None:
    await delete(broker, chosen.input)
    await make_topics(broker, chosen, partitions=1)
    await produce(broker, chosen.input, 0, 0, count)


@pytest.mark.parametrize("count", [40, 150], ids=["fewer", "more"])
@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_an_input_made_anew_is_begun_anew(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], start: str, count: int
) -> None:
    """With fewer records or more than were committed: cold, reported, and from where `start` says."""
    chosen = await prepared(broker, tmp_path, unique("anew"), partitions=1)
    await produce(broker, chosen.input, 0, 0, 100)
    async with serving(chosen) as worker:
        await arrived(worker, {0: 100})
    await made_anew(broker, chosen, count)
    with capture_logs() as logs:
        async with serving(chosen.model_copy(update={"start": start})) as worker:
            await until(lambda: worker.pump and worker.pump.owned)
            assert worker.observer.metrics.cold_starts._value.get() == 1
            await produce(broker, chosen.input, 0, count, 20)
            await arrived(worker, {0: count + 20})
    (cold,) = lines_of(logs, "partition starts without its state")
    assert "the input was made anew" in cold["why"]
    # After those of the topic that was deleted.
    outputs = (await forecasts(broker, chosen))[100:]
    assert [o.source.offset for o in outputs] == list(range(0 if start == "earliest" else count, count + 20))
    assert not outputs[0].warm


@pytest.mark.parametrize("count", [40, 150], ids=["fewer", "more"])
async def test_an_input_made_anew_under_a_running_worker_is_begun_anew(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(watch, "INPUT_ID_CHECK_S", 1.0)
    chosen = await prepared(broker, tmp_path, unique("swapped"), partitions=1, kafka=quick(broker))
    await produce(broker, chosen.input, 0, 0, 100)
    with capture_logs() as logs:
        async with serving(chosen) as worker:
            await arrived(worker, {0: 100})
            await made_anew(broker, chosen, count)
            await until(lambda: worker.observer.metrics.cold_starts._value.get() == 1)
            await arrived(worker, {0: count})
            assert worker.observer.metrics.cold_starts._value.get() == 1
    assert "the input was made anew" in lines_of(logs, "partition starts without its state")[0]["why"]
    outputs = (await forecasts(broker, chosen))[100:]
    outputs = outputs[-count:]  # what was sent before it was noticed is said twice
    assert [o.source.offset for o in outputs] == list(range(count))
    assert not outputs[0].warm


async def test_an_input_deleted_under_a_running_worker_ends_it(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "INPUT_ID_CHECK_S", 1.0)
    chosen = await prepared(broker, tmp_path, unique("gone"), partitions=1, kafka=quick(broker))
    await produce(broker, chosen.input, 0, 0, 100)
    with pytest.raises(TopicMissing, match=f"{chosen.input}.* does not exist any more"):
        async with serving(chosen) as worker:
            await arrived(worker, {0: 100})
            await delete(broker, chosen.input)
            await until(lambda: ended(worker))


# ── the outputs ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["forecasts", "dlq"])
@pytest.mark.kafka_long
async def test_an_output_deleted_under_a_running_worker_stops_it_and_costs_nothing(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], kind: str
) -> None:
    """It ends with the exit code of a missing topic; made again, and the worker started again, everything is answered."""
    app = unique("deleted")
    chosen = await prepared(broker, tmp_path, app, partitions=1, kafka=quick(broker), delivery_timeout="8s")
    topic = getattr(chosen.topics, kind)
    await produce(broker, chosen.input, 0, 0, 50)
    with pytest.raises(TopicMissing, match=f"no topic '{topic}'") as raised:
        async with serving(chosen) as worker:
            await arrived(worker, {0: 50})
            assert ready(worker)
            await delete(broker, topic)
            await produce(broker, chosen.input, 0, 50, 50)
            await put(broker, chosen.input, b"{")
            await until(lambda: not ready(worker), 20)
            await until(lambda: ended(worker))
    assert exit_code_of(raised.value) is ExitCode.TOPIC
    assert (51 if kind == "forecasts" else 1) <= await lag(broker, app) <= 51
    with pytest.raises(TopicMissing, match=f"{topic}: missing"):
        async with serving(chosen) as worker:
            await until(lambda: ended(worker))
    await make_topics(broker, chosen, partitions=1)
    async with serving(chosen) as worker:
        await arrived(worker, {0: 101})
        assert ready(worker)
    gone = set(range(50)) if kind == "forecasts" else set()
    assert set(await sources(broker, app)) == {(0, o) for o in range(101) if o not in gone}


async def test_an_output_without_enough_replicas_is_waited_for(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is committed and the worker is not ready, through new clients too, until the broker takes outputs again.

    A broker asks for no more replicas than a topic has; so one alone never lacks any, and its answers are changed here.
    """
    monkeypatch.setattr(health, "DELIVERY_S", 0.5)
    chosen = await prepared(broker, tmp_path, unique("alone"), partitions=1, kafka=quick(broker), delivery_timeout="2s")
    lacking: set[str] = set()
    handle = SendProduceReqHandler.handle_response

    def changed(handler: Any, response: Any) -> Any:
        for topic, partitions in response.topics:
            if topic in lacking:
                partitions[:] = [(partition, 20, *rest) for partition, _, *rest in partitions]  # NotEnoughReplicas
        return handle(handler, response)

    monkeypatch.setattr(SendProduceReqHandler, "handle_response", changed)
    await produce(broker, chosen.input, 0, 0, 50)
    async with serving(chosen) as worker:
        metrics, refused = worker.observer.metrics, []
        await arrived(worker, {0: 50})
        rebuilding = worker.observer.rebuilding

        def noted(error: str) -> None:
            refused.append(not ready(worker))  # before it is for this reason
            rebuilding(error)

        monkeypatch.setattr(worker.observer, "rebuilding", noted)
        lacking.add(chosen.topics.forecasts)
        await produce(broker, chosen.input, 0, 50, 50)
        await until(lambda: not ready(worker))
        async with asyncio.timeout(60):
            while metrics.rebuilds._value.get() < 2:
                refused.append(not ready(worker))
                await asyncio.sleep(0.05)
        assert all(refused)
        assert await lag(broker, chosen.app) == 50
        lacking.clear()
        await arrived(worker, {0: 100})
        assert ready(worker)
        assert metrics.cold_starts._value.get() == 0
    assert set(await sources(broker, chosen.app)) == {(0, o) for o in range(100)}


# ── partitions ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def grow(broker: Broker, topic: str, partitions: int) -> None:
    async with administering(broker) as client:
        await client.create_partitions({topic: NewPartitions(partitions)})


async def test_partitions_are_added_under_a_running_worker(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """To outputs and state first, as the runbook says: then no worker meets a partition that has no place for its state."""
    app = unique("grown")
    chosen = await prepared(broker, tmp_path, app, partitions=1, kafka=quick(broker))
    await produce(broker, chosen.input, 0, 0, 100)
    async with serving(chosen) as worker:
        await arrived(worker, {0: 100})
        command("topics", "-c", tmp_path / f"{app}.yaml", "--create", "--partitions", "2")
        assert worker.pump is not None
        assert set(worker.pump.owned) == {0}  # the input is left alone
        await grow(broker, chosen.input, 2)
        await produce(broker, chosen.input, 1, 100, 40, series="s0")
        await arrived(worker, {0: 100, 1: 40})
    assert set(await sources(broker, app)) == {(0, o) for o in range(100)} | {(1, o) for o in range(40)}
    records = await read_all(broker, chosen.topics.forecasts)
    outputs = [(record.partition, msgspec.json.decode(record.value, type=Output)) for record in records]
    assert all(partition == output.source.partition for partition, output in outputs)
    first = next(output for partition, output in outputs if partition == 1)
    assert (first.series, first.warm) == ("s0", False)


async def test_a_partition_without_a_place_for_its_state_stops_the_worker_until_there_is_one(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    chosen = await prepared(broker, tmp_path, unique("order"), partitions=1, kafka=quick(broker))
    await produce(broker, chosen.input, 0, 0, 50)
    with pytest.raises(TopicUnfit, match="topics --create") as raised:
        async with serving(chosen) as worker:
            await arrived(worker, {0: 50})
            await grow(broker, chosen.input, 2)
            await produce(broker, chosen.input, 1, 0, 50)
            await until(lambda: ended(worker))
    assert exit_code_of(raised.value) is ExitCode.TOPIC
    await make_topics(broker, chosen, partitions=2)
    async with serving(chosen) as worker:
        await arrived(worker, {0: 50, 1: 50})
    assert set(await sources(broker, chosen.app)) == {(p, o) for p in range(2) for o in range(50)}


async def test_an_output_that_takes_no_batch_is_refused_and_smaller_batches_serve(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    chosen = await prepared(broker, tmp_path, unique("small"), partitions=1)
    async with administering(broker) as client:
        config = {"max.message.bytes": "20000"}
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, chosen.topics.forecasts, config)])
    await produce(broker, chosen.input, 0, 0, 200)
    with pytest.raises(TopicUnfit, match=r"max.message.bytes=20000 takes no batch of kafka.batch_bytes_max=900000"):
        async with serving(chosen) as worker:
            await until(lambda: ended(worker))
    smaller = load([configure(tmp_path, broker, chosen.app, kafka={**quick(broker), "batch_bytes_max": 20000})], {}, {})
    async with serving(smaller) as worker:
        await arrived(worker, {0: 200})
    assert set(await sources(broker, chosen.app)) == {(0, o) for o in range(200)}


# ── the state topic ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("partitions", "policy", "tool"),
    [(2, "delete", "kafka-configs.sh"), (1, "compact", "kafka-topics.sh")],
    ids=["policy", "partitions"],
)
async def test_an_unfit_state_topic_is_refused_with_the_command_that_mends_it(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], partitions: int, policy: str, tool: str
) -> None:
    app = unique("unfit")
    admin = KafkaTransport(settings_for(broker)).admin()
    await admin.start()
    await admin.create([TopicNeed(f"{app}.state", partitions, {"cleanup.policy": policy})])
    await admin.create([TopicNeed(f"{app}.{kind}", 2, {}) for kind in ("ticks", "forecasts", "imputed", "dlq")])
    await admin.create([TopicNeed(f"{app}.models", 1, {"cleanup.policy": "compact"})])
    await admin.stop()
    chosen = load([configure(tmp_path, broker, app)], {}, {})
    with pytest.raises(TopicUnfit, match=f"{app}.state: ") as refused:
        async with serving(chosen) as worker:
            await until(lambda: ended(worker))
    assert exit_code_of(refused.value) is ExitCode.TOPIC
    found = re.search(rf"{tool} ([^)]+)", str(refused.value))
    assert found is not None
    await asyncio.to_thread(broker._run, tool, "--bootstrap-server", broker.servers, *found[1].split())
    async with serving(chosen) as worker:
        await until(lambda: ready(worker) and worker.pump and len(worker.pump.owned) == 2)


async def test_a_state_of_a_newer_version_is_refused(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """And nothing is processed, which an upgraded worker would miss."""
    chosen = await prepared(broker, tmp_path, unique("newer"), partitions=1)
    await put(broker, chosen.topics.state, b'{"version":99,"of a shape":["nobody knows"]}', CHECKPOINT)
    await produce(broker, chosen.input, 0, 0, 20)
    with pytest.raises(TopicUnfit, match=r"newer version of streamrnn \(format 99.*upgrade") as refused:
        async with serving(chosen) as worker:
            await until(lambda: ended(worker))
    assert exit_code_of(refused.value) is ExitCode.TOPIC
    assert await lag(broker, chosen.app) == 20
    assert not await sources(broker, chosen.app)


async def test_a_state_of_another_input_is_refused_and_left_alone(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    chosen = await prepared(broker, tmp_path, unique("other"), partitions=1)
    checkpoint = Checkpoint("elsewhere", 10, "w", None, 0)
    await put(broker, chosen.topics.state, encode_checkpoint(checkpoint), CHECKPOINT)
    await produce(broker, chosen.input, 0, 0, 20)
    with pytest.raises(TopicUnfit, match=r"the states of input 'elsewhere'.*streamrnn reset --state") as refused:
        async with serving(chosen) as worker:
            await until(lambda: ended(worker))
    assert exit_code_of(refused.value) is ExitCode.TOPIC
    assert await lag(broker, chosen.app) == 20
    assert not await sources(broker, chosen.app)
    assert len(await read_all(broker, chosen.topics.state)) == 1
