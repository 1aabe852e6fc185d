"""People's own topics on a real broker: from an unknown topic to forecasts, and records of many ticks through a kill."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from broker import Broker
from service import Forked, command, configure, drained, read_all

from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka.transport import KafkaSettings, KafkaTransport

pytestmark = pytest.mark.kafka

START = 1_764_000_000


def collectd(host: str, at_s: int, load: float) -> dict[str, Any]:
    return {
        "values": [load, load / 2, None], "dstypes": ["gauge"] * 3, "dsnames": ["shortterm", "midterm", "longterm"],
        "time": at_s + 0.25, "interval": 10.0,
        "host": host, "plugin": "load", "plugin_instance": "", "type": "load", "type_instance": "",
    }  # fmt: skip


async def send(broker: Broker, topic: str, partition: int, values: list[bytes]) -> None:
    sink = KafkaTransport(KafkaSettings(bootstrap_servers=broker.servers)).sink()
    await sink.start()
    keys: list[bytes | None] = [f"{i * 7919}".encode() for i in range(len(values))]  # collectd's: a new one each time
    await sink.append_many(topic, partition, keys, list(values), [1000 * (START + 10 * i) for i in range(len(values))])
    await (await sink.seal()).wait(Deadline(20.0))
    await sink.stop(Deadline(5.0))


async def test_from_an_unknown_topic_to_forecasts_in_two_commands(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("collectd")
    topic, config = f"{app}.ticks", tmp_path / "config.yaml"
    broker.create(topic, 1)
    count = 60
    records = [
        json.dumps([collectd("a", START + 10 * i, i % 7), collectd("b", START + 10 * i, i % 5)]) for i in range(count)
    ]
    other = json.dumps(
        [{**collectd("a", START, 1.0), "plugin": "uptime", "type": "uptime", "dsnames": ["value"], "values": [7]}]
    )
    await send(broker, topic, 0, [record.encode() for record in records] + [other.encode()])
    shown = command("decode", "--topic", topic, "--bootstrap-servers", broker.servers, "-n", "500")
    assert yaml.safe_load(shown)["decode"] == {"preset": "collectd"}
    sets = [part for word in (f"app={app}", "http.port=0", "train=off") for part in ("--set", word)]
    command("init", "--topic", topic, "--bootstrap-servers", broker.servers, "--out", config, *sets, "--create")
    mine = yaml.safe_load(config.read_text())
    assert (mine["step"], mine["channels"]) == ("10s", ["shortterm", "midterm", "longterm"])
    assert (mine["app"], mine["http"], mine["train"]) == (app, {"port": 0}, "off")
    worker = Forked(tmp_path / "run.log", "run", "-c", config)
    await drained(broker, app)
    assert worker.stop() == 0
    forecasts = [json.loads(r.value) for r in await read_all(broker, f"{app}.forecasts")]
    assert Counter(f["series"] for f in forecasts) == {"a/load": count, "b/load": count}
    assert {(f["source"]["offset"], f["source"]["index"]) for f in forecasts} == {
        (i, k) for i in range(count) for k in range(2)
    }
    assert await read_all(broker, f"{app}.dlq") == []


async def test_records_of_many_ticks_come_through_a_kill_exactly_once(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("many")
    sizes = [0, 1, 500, 3, 250, 500, 1, 0, 500, 40]
    config = configure(
        tmp_path, broker, app, channels=["shortterm", "midterm", "longterm"], step="10s", decode={"preset": "collectd"},
        delivery="exactly-once", batch_records_max=50,
    )  # fmt: skip
    command("topics", "-c", config, "--create", "--partitions", "1")
    records, expected = [], Counter[tuple[int, int]]()
    for i in range(40):
        size = sizes[i % len(sizes)]
        records.append(json.dumps([collectd(f"h{k}", START + 10 * i, k % 9) for k in range(size)]).encode())
        for k in range(size):
            expected[i, k if size > 1 else -1] += 1
    await send(broker, f"{app}.ticks", 0, records)
    for attempt in range(2):
        worker = Forked(tmp_path / f"run{attempt}.log", "run", "-c", config)
        worker.waits_for("partition assigned")
        if attempt < 1:
            # In the middle of the work, wherever that is.
            time.sleep(0.5)
            worker.kill()
    await drained(broker, app)
    assert worker.stop() == 0
    forecasts = [json.loads(r.value) for r in await read_all(broker, f"{app}.forecasts")]
    assert Counter((f["source"]["offset"], f["source"].get("index", -1)) for f in forecasts) == expected
    assert await read_all(broker, f"{app}.dlq") == []
