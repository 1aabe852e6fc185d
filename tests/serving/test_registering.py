"""Outputs with a schema registry: registered at the start, waited for, refused with the reason; flat records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from registry import Registered, serving
from running import all_committed, ended, logs, made, of, send, until, worker
from typer.testing import CliRunner

from streamrnn.cli import app
from streamrnn.config.settings import ConfigError, load
from streamrnn.config.sizes import batch_records, sizes_of
from streamrnn.runtime.exit_codes import ExitCode, exit_code_of
from streamrnn.serving.schemas import look_at_own, register
from streamrnn.spec import OutputSpec
from streamrnn.transports.base import clock_s
from streamrnn.transports.memory.broker import Appended
from streamrnn.transports.memory.transport import MemoryBroker
from streamrnn.transports.registry import RegistryRefuses, SchemaRefused


def chosen_for(registered: Registered, output: dict[str, Any], **changes: Any) -> Any:
    return made(registry={"url": registered.url}, output=output, train="off", **changes)


def values(broker: MemoryBroker, topic: str) -> list[Any]:
    return [record for log in broker.topics[topic] for record in log if record.value is not None]


@pytest.mark.parametrize("layout", ["nested", "flat"])
async def test_avro_is_written_by_a_schema_that_the_start_registers(layout: str) -> None:
    with serving() as registered, logs() as lines:
        chosen, broker = chosen_for(registered, {"format": "avro", "layout": layout, "horizons": [1, 3]})
        send(broker, 9)
        async with worker(chosen, broker):
            await until(lambda: all_committed(broker))
        assert set(registered.versions) == {"app.forecasts-value", "app.imputed-value"}
        assert len(of(lines, "outputs have schemas")) == 1
        read = AvroDeserializer(SchemaRegistryClient({"url": registered.url}))
        records = values(broker, "app.forecasts")
        assert len(records) == 4 * 9 * (1 if layout == "nested" else 2 * 2)
        found = [read(r.value, SerializationContext("app.forecasts", MessageField.VALUE)) for r in records]
        if layout == "flat":
            rows = {(row["unique_id"], row["cutoff"], row["h"]) for row in found}
            assert len(rows) == len(found) and {row["h"] for row in found} == {1, 3}
            assert all(
                row["unique_id"].startswith(record.key.decode()) for row, record in zip(found, records, strict=True)
            )
            said = {dict(record.headers)["streamrnn-source"] for record in records}
            assert len(said) == 4 * 9
        else:
            assert all(row["horizons"] == [1, 3] for row in found)
            assert len({(row["source"]["partition"], row["source"]["offset"]) for row in found}) == 4 * 9
        # The next start finds them, and registers nothing.
        asked = len(registered.asked)
        assert len(await register(chosen, lambda _: None)) == 2
        assert not [path for path in registered.asked[asked:] if path.endswith("/versions")]


async def test_a_registry_that_is_away_at_the_start_is_waited_for() -> None:
    with serving() as registered, logs() as lines:
        chosen, broker = chosen_for(registered, {"format": "json-schema"})
        send(broker, 3)
        registered.away = True
        async with worker(chosen, broker) as running:
            health = running.observer.health
            await until(lambda: "outputs wait for their schemas" in health.trouble)
            ready, why = health.ready(clock_s())
            assert not ready and registered.url in why
            assert health.live(clock_s())[0] and not values(broker, "app.forecasts")
            registered.away = False
            await until(lambda: all_committed(broker) and health.ready(clock_s())[0])
        assert (
            len(of(lines, "outputs wait for their schemas")) == len(of(lines, "the schema registry answers again")) == 1
        )
        assert all(record.value[:1] == b"\x00" for record in values(broker, "app.forecasts"))
        assert len(values(broker, "app.forecasts")) == 12


async def test_who_waits_for_the_registry_can_be_stopped() -> None:
    with serving() as registered:
        chosen, broker = chosen_for(registered, {"format": "avro"})
        registered.away = True
        async with worker(chosen, broker) as running:
            await until(lambda: "outputs wait" in running.observer.health.trouble)


async def test_a_wrong_password_ends_the_worker_with_the_reason() -> None:
    with serving() as registered:
        registered.password = "right"
        registry = {"url": registered.url, "username": "user", "password": "wrong"}
        chosen, broker = made(registry=registry, output={"format": "avro"})
        with pytest.raises(RegistryRefuses, match="does not let us in") as refused:
            async with worker(chosen, broker) as running:
                await until(lambda: ended(running))
        assert exit_code_of(refused.value) == ExitCode.BROKER


@pytest.mark.parametrize("why", ["not compatible", "not permitted"])
async def test_a_schema_that_is_not_taken_ends_the_worker_with_the_reason(why: str) -> None:
    with serving() as registered:
        registered.strict, registered.closed = True, why == "not permitted"
        chosen, broker = chosen_for(registered, {"format": "avro"})
        if why == "not compatible":
            registered.register("app.forecasts-value", {"schema": '{"type":"record","name":"Another","fields":[]}'})
        said = {
            "not compatible": "does not take our schema for app.forecasts-value",
            "not permitted": "does not permit us",
        }
        with pytest.raises(RegistryRefuses, match=said[why]):
            async with worker(chosen, broker) as running:
                await until(lambda: ended(running))


def test_validate_and_topics_ask_the_registry() -> None:
    with serving() as registered:
        chosen, _ = chosen_for(registered, {"format": "avro"})
        assert [str(each) for each in look_at_own(chosen)] == ["not registered yet: the start does it"] * 2
        assert [each.id for each in look_at_own(chosen, create=True)] == [1, 2]
        assert [str(each) for each in look_at_own(chosen)] == ["registered as 1", "registered as 2"]
        flat, _ = chosen_for(registered, {"format": "avro", "layout": "flat"})
        forecasts, imputed = look_at_own(flat, create=True)
        assert "app.forecasts-value" in forecasts.fault and "another topic" in forecasts.fault and forecasts.id is None
        assert imputed.id == 2 and registered.versions == {"app.forecasts-value": [1], "app.imputed-value": [2]}


def test_the_command_says_which_schema_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import streamrnn.cli.topics as module

    async def asked(*_: Any) -> Any:
        return [], [], [], None, []

    monkeypatch.setattr(module, "_asked", asked)
    with serving() as registered:
        arguments = ["validate", "--set", "input=t", "--set", "channels=[a]", "--set", "step=1s", "--set", "horizon=3"]
        arguments += ["--set", f"registry.url={registered.url}", "--set", "output.format=avro", "--json"]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert [row["subject"] for row in json.loads(done.output)["schemas"]] == [
            "streamrnn.forecasts-value",
            "streamrnn.imputed-value",
        ]
        registered.register("streamrnn.imputed-value", {"schema": '"string"'})
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == exit_code_of(SchemaRefused("")) and not json.loads(done.output)["ok"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": {"horizons": [1, 6]}}, "output.horizons: 6 is beyond horizon: 3"),
        ({"output": {"horizons": [2, 1]}}, "steps ahead must rise"),
        ({"output": {"layout": "flat"}, "quantiles": [0.5]}, "flat needs two quantiles"),
        ({"output": {"format": "avro"}}, "registry.url: is needed for output.format: avro"),
        ({"output": {"format": "arvo"}}, "output.format"),
    ],
)
def test_what_cannot_be_written_is_refused_with_the_setting(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load([], {"input": "t", "channels": ["a"], "step": "1s", "horizon": 3, **changes}, {})


@pytest.mark.parametrize("format", ["json", "avro", "json-schema"])
@pytest.mark.parametrize("layout", ["nested", "flat"])
async def test_sizes_of_records_are_as_they_are_said(layout: str, format: str) -> None:
    with serving() as registered:
        chosen, broker = chosen_for(registered, {"layout": layout, "format": format, "horizons": [1, 2]})
        said = sizes_of(chosen)
        send(broker, 12)
        async with worker(chosen, broker):
            await until(lambda: all_committed(broker))
        found = [
            len(r.key) + len(r.value) + sum(len(name) + len(content) for name, content in r.headers)
            for r in values(broker, "app.forecasts")
        ]
        assert said.forecast_records == len(found) / 48 == (4 if layout == "flat" else 1)
        assert said.forecast_least < min(found) and max(found) < said.forecast_largest
        assert 0.4 < sum(found) / len(found) / said.forecast_usual < 2.5


def test_a_batch_of_flat_records_has_a_bound_of_its_own() -> None:
    chosen, _ = made(horizon=96, channels=[f"c{i}" for i in range(20)])
    spec = chosen.stream_spec()
    assert batch_records(spec, OutputSpec("flat")) < batch_records(spec) / 3


async def test_a_flat_record_that_the_broker_refuses_costs_its_tick_alone() -> None:
    chosen, broker = made(output={"layout": "flat"}, train="off", partitions=1)

    def refuses(topic: str, partition: int, record: Appended) -> str:
        refused = topic == "app.forecasts" and record[0] == b"a0" and b'"h":2' in (record[1] or b"")
        return "MESSAGE_TOO_LARGE" if refused else ""

    broker.refuses = refuses
    send(broker, 5, partitions=1)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    letters = values(broker, "app.dlq")
    sources = [dict(letter.headers)["streamrnn-source"] for letter in letters]
    assert sources == [b"ticks/0/%d" % offset for offset in range(0, 10, 2)]
    assert all(dict(letter.headers)["streamrnn-reason"] == b"refused" for letter in letters)
    assert len([r for r in values(broker, "app.forecasts") if r.key == b"b0"]) == 5 * 2 * 3
