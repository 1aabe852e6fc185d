"""A record as large as the broker takes must not stop the service when it is refused: its dead letter is larger yet."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from broker import Broker
from clients import settings_for
from service import Process, command, configure, drained, sources

from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka


async def test_poison_as_large_as_the_broker_takes_is_buried_and_passed(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("oversize")
    config = configure(tmp_path, broker, app)
    command("topics", "-c", config, "--create", "--partitions", "1")
    now = int(time.time() * 1000)
    good = [json.dumps({"series": "p", "ts": now + i * 1000, "values": {"temp": 1.0}}).encode() for i in range(2)]
    sink = KafkaTransport(settings_for(broker)).sink()
    await sink.start()
    for value in (good[0], b"x" * 1_048_480, good[1]):
        await sink.append_many(f"{app}.ticks", 0, [None], [value], [now])
        await (await sink.seal()).wait(Deadline(10.0))
    await sink.stop(Deadline(5.0))
    (tmp_path / "run.log").touch()
    worker = Process(tmp_path / "run.log", "run", "-c", config)
    try:
        worker.waits_for("partition assigned")
        await drained(broker, app, timeout_s=10)
    finally:
        worker.stop()
    assert set(await sources(broker, app)) == {(0, 0), (0, 1), (0, 2)}
