"""Avro by Confluent's serializer on a real broker: a registry that goes away in the middle of it, a kill, exactly once; and what
is written as Avro, read by Confluent's deserializer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from broker import Broker
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from registry import serving
from service import Forked, command, configure, drained, read_all
from test_kafka_decode import send
from test_registry import AVRO, MILLIS, record_of

from streamrnn.runtime.exit_codes import ExitCode

pytestmark = pytest.mark.kafka

AT = datetime(2025, 11, 24, 16, tzinfo=UTC)
COUNT = 60


async def test_avro_through_a_registry_that_goes_away_and_a_kill_exactly_once(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    app = unique("avro")
    with serving() as registered:
        own = SchemaRegistryClient({"url": registered.url})

        def written(name: str, steps: range) -> list[bytes]:
            schema = record_of(("series", "string"), ("ts", MILLIS), ("temp", "double"), name=name)
            serializer = AvroSerializer(own, json.dumps(schema))
            context = SerializationContext(f"{app}.ticks", MessageField.VALUE)
            return [
                serializer({"series": "pump-7", "ts": AT + timedelta(seconds=i), "temp": i % 7 / 3}, context)
                for i in steps
            ]

        secret = tmp_path / "secret"
        secret.write_text("right\n")
        registry = {"url": registered.url, "username": "user", "password_file": str(secret)}
        config = configure(
            tmp_path,
            broker,
            app,
            channels=["temp"],
            decode={**AVRO, "values": "*"},
            registry=registry,
            delivery="exactly-once",
        )
        command("topics", "-c", config, "--create", "--partitions", "1")
        values = written("Before", range(COUNT // 2)) + written("After", range(COUNT // 2, COUNT))
        registered.password = "right"
        await send(broker, f"{app}.ticks", 0, values[: COUNT // 2])
        worker = Forked(tmp_path / "first.log", "run", "-c", config)
        await drained(broker, app)
        registered.away = True
        await send(broker, f"{app}.ticks", 0, values[COUNT // 2 :])
        worker.waits_for("records wait for their schemas")
        worker.kill()
        worker = Forked(tmp_path / "second.log", "run", "-c", config)
        worker.waits_for("records wait for their schemas")
        registered.away = False
        await drained(broker, app)
        assert worker.stop() == 0
        forecasts = [json.loads(r.value) for r in await read_all(broker, f"{app}.forecasts")]
        assert [f["source"]["offset"] for f in forecasts] == [*range(COUNT)]
        assert await read_all(broker, f"{app}.dlq") == []

        shown = command("decode", "--topic", f"{app}.ticks", "-c", config, "-n", "3", "--json").splitlines()
        assert json.loads(shown[0])["ticks"][0]["series"] == "pump-7"
        registered.password = "another"
        worker = Forked(tmp_path / "third.log", "run", "-c", config)
        worker.waits_for("does not let us in")
        assert worker._wait(60.0) == ExitCode.BROKER


@pytest.mark.parametrize("layout", [pytest.param("nested", marks=pytest.mark.kafka_long), "flat"])
async def test_what_is_written_as_avro_is_read_by_the_official_deserializer_and_is_what_json_says(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], layout: str
) -> None:
    """The same ticks as JSON beside it: every number the same as far as JSON has digits."""
    app, plain = unique("written"), unique("plain")
    ticks = [
        json.dumps({"series": "pump-7", "ts": 1_764_000_000_000 + 1000 * i, "values": {"temp": i % 7 / 3}}).encode()
        for i in range(COUNT)
        if i != COUNT // 2
    ]
    with serving() as registered:
        for name, output in ((app, {"format": "avro", "layout": layout}), (plain, {})):
            folder = tmp_path / name
            folder.mkdir()
            config = configure(
                folder, broker, name, channels=["temp"], registry={"url": registered.url}, output=output,
                delivery="exactly-once",
            )  # fmt: skip
            command("topics", "-c", config, "--create", "--partitions", "1")
            assert json.loads(command("validate", "-c", config, "--json"))["ok"]
            await send(broker, f"{name}.ticks", 0, ticks)
            worker = Forked(folder / "log", "run", "-c", config)
            await drained(broker, name)
            assert worker.stop() == 0
        read = AvroDeserializer(SchemaRegistryClient({"url": registered.url}))
        context = SerializationContext(f"{app}.forecasts", MessageField.VALUE)
        found = [read(record.value, context) for record in await read_all(broker, f"{app}.forecasts")]
        fills = [read(record.value, context) for record in await read_all(broker, f"{app}.imputed")]
    said = [json.loads(record.value) for record in await read_all(broker, f"{plain}.forecasts")]
    horizon = len(said[0]["channels"]["temp"]["mean"])
    assert len(found) == len(said) * (horizon if layout == "flat" else 1)
    for i, other in enumerate(said):
        channel = other["channels"]["temp"]
        if layout == "nested":
            assert found[i]["source"]["offset"] == other["source"]["offset"]
            assert found[i]["channels"]["temp"]["mean"] == pytest.approx(channel["mean"], abs=1e-3)
            continue
        rows = found[i * horizon : (i + 1) * horizon]
        assert [row["h"] for row in rows] == [*range(1, horizon + 1)]
        assert {row["cutoff"].timestamp() * 1000 for row in rows} == {other["ts"]}
        assert [row["yhat"] for row in rows] == pytest.approx(channel["mean"], abs=1e-3)
        assert [row["yhat_upper"] for row in rows] == pytest.approx([*channel["quantiles"].values()][-1], abs=1e-3)
    assert [fill["kind"] for fill in fills] == ["missing-tick"]
    assert fills[0]["source"] == {"topic": f"{app}.ticks", "partition": 0, "offset": COUNT // 2, "index": None}
    assert await read_all(broker, f"{app}.dlq") == []
