"""What one engine says and keeps that is never interrupted, beside what a run left in its topics.

The reference takes the same input records with the same weights. Where weights were swapped while workers came and
went, the run itself decided at which record: the model named in the last forecast of a record is the one whose work was
committed, and the reference swaps there, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, NamedTuple

import msgspec
import torch
import xxhash
from broker import Broker
from partitions import restoring
from service import Output, committed, each, read_all

from streamrnn.config.settings import Settings
from streamrnn.inputs import of_topic
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, build, pack, weights_id
from streamrnn.records import Record
from streamrnn.serving.partition import Partitions
from streamrnn.serving.restore import Restoration, Restorer
from streamrnn.stores.models import ModelsWriter
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Snapshots
from streamrnn.transports.base import Deadline
from streamrnn.transports.kafka.transport import KafkaTransport
from streamrnn.wire.codec import Decoder
from streamrnn.wire.encode import Encoder

CHUNK = 2000


class Key(NamedTuple):
    """What an output is about: the record that led to it, and the step."""

    topic: str
    partition: int
    offset: int
    ts: int = 0
    series: str = ""


class Saying(NamedTuple):
    """One output; imputations and dead letters name no model."""

    digest: int
    model: str = ""


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────


def weights(settings: Settings, seed: int) -> tuple[str, bytes]:
    """A network that has learnt nothing and forecasts all the same: (id, bytes)."""
    torch.manual_seed(seed)
    network = Network(settings.model_spec())
    torch.nn.init.normal_(network.out.weight, 0.0, 0.05)
    return weights_id(network), pack(network, WeightsMeta())


async def publish(settings: Settings, model: str, blob: bytes) -> None:
    sink = KafkaTransport(settings.kafka_settings()).sink()
    await sink.start()
    await ModelsWriter(sink, settings.topics.models).publish(model, blob, {}, 0)
    await sink.stop(Deadline(10.0))


def loaded(settings: Settings, blobs: Mapping[str, bytes]) -> Engine:
    engine = Engine(settings.stream_spec())
    for model, blob in blobs.items():
        network, _ = build(blob)
        engine.load(network, model)
    return engine


# ── what the run left ────────────────────────────────────────────────────────────────────────────────────────────


async def said(broker: Broker, settings: Settings) -> dict[Key, list[Saying]]:
    """All outputs, in the order of their topics; of transactions the committed ones."""
    found: dict[Key, list[Saying]] = defaultdict(list)
    decoder = msgspec.json.Decoder(Output)
    for topic in (settings.topics.forecasts, settings.topics.imputed):
        async for record in each(broker, topic):
            out = decoder.decode(record.value)
            key = Key(topic, out.source.partition, out.source.offset, out.ts, out.series)
            found[key].append(Saying(xxhash.xxh3_64_intdigest(record.value), out.model))
    async for record in each(broker, settings.topics.dlq):
        _, partition, offset = dict(record.headers)["streamrnn-source"].decode().split("/")
        digest = xxhash.xxh3_64_intdigest(record.value or b"")
        found[Key(settings.topics.dlq, int(partition), int(offset))].append(Saying(digest))
    return found


async def kept(settings: Settings, blobs: Mapping[str, bytes], partitions: int) -> tuple[Engine, list[Restoration]]:
    """The states in the changelog, as a new owner would read them."""
    engine = loaded(settings, blobs)
    found = Partitions(of_topic(settings.input))
    restoring(found, engine.spec, range(partitions))
    restorer = Restorer(
        KafkaTransport(settings.kafka_settings()), settings.topics.state, found, engine, Snapshots(engine)
    )
    done: list[Restoration] = []
    while restorer.active:
        await restorer.read()
        done += restorer.apply()
    await restorer.stop(Deadline(5.0))
    return engine, done


# ── what an uninterrupted run would have left ────────────────────────────────────────────────────────────────────


def uninterrupted(
    settings: Settings, inputs: Iterable[Record], blobs: Mapping[str, bytes], swaps: Mapping[tuple[int, int], str]
) -> tuple[dict[Key, int], Engine]:
    """(digest of every output, the engine behind it). `swaps`: (partition, offset) of the first record of a model."""
    engine, stream = loaded(settings, blobs), settings.stream_spec()
    decoder, encoder = Decoder(stream, settings.decode_spec()), Encoder(stream, settings.input)
    topics, rows = settings.topics, dict[Key, int]()
    first = next(iter(blobs))
    model = {"": first}

    def serving(record: Record) -> tuple[int, str]:
        if record.offset == 0:
            model[""] = first
        model[""] = swaps.get((record.partition, record.offset), model[""])
        return record.partition, model[""]

    for (partition, used), group in groupby(sorted(inputs, key=lambda r: (r.partition, r.offset)), serving):
        engine.use(used)
        while chunk := list(islice(group, CHUNK)):
            batch, unread = decoder.decode(chunk)
            outputs = engine.process(batch)
            for topic, part, values in (
                (topics.forecasts, outputs.forecasts, encoder.forecasts(outputs.forecasts, batch)),
                (topics.imputed, outputs.imputations, encoder.imputations(outputs.imputations, batch)),
            ):
                for tick, ts, series, value in zip(part.tick, part.ts_us // 1000, part.series, values, strict=True):
                    key = Key(topic, partition, int(batch.offset[tick]), int(ts), series)
                    rows[key] = xxhash.xxh3_64_intdigest(value)
            refused = [item.record for item in unread] + [batch.records[tick] for tick, _, _ in outputs.rejected]
            for record in refused:
                rows[Key(topics.dlq, partition, record.offset)] = xxhash.xxh3_64_intdigest(record.value or b"")
    return rows, engine


# ── side by side ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Verdict:
    """What a run did, all of which must be right but the repeats, which only exactly-once forbids."""

    records: int = 0
    outputs: int = 0
    lost: list[Key] = field(default_factory=list)
    invented: list[Key] = field(default_factory=list)
    repeated: list[Key] = field(default_factory=list)
    # Said again with the same weights, in other bytes; or said at last in bytes that no uninterrupted run has.
    unlike: list[Key] = field(default_factory=list)
    models: int = 0
    states: int = 0
    states_unlike: list[str] = field(default_factory=list)
    commits: int = 0

    def assert_sound(self, exactly_once: bool) -> None:
        for what in ("lost", "invented", "unlike", "states_unlike", *(["repeated"] if exactly_once else [])):
            found = getattr(self, what)
            assert not found, f"{what}: {len(found)}, {found[:5]}"

    def __str__(self) -> str:
        again = len({(key.partition, key.offset) for key in self.repeated})
        return (
            f"{self.records} records, {self.outputs} outputs, {len(self.lost)} lost, records said more than once {again}, "
            f"{self.models} weights, {self.states} states equal bit for bit"
        )


async def judged(broker: Broker, settings: Settings, blobs: Mapping[str, bytes]) -> Verdict:
    """Everything of a run that has come to its end: all committed, all workers stopped."""
    inputs = await read_all(broker, settings.input)
    ends: dict[int, int] = defaultdict(int)
    for record in inputs:
        ends[record.partition] = max(ends[record.partition], record.offset + 1)
    verdict = Verdict(records=len(inputs))
    found = await said(broker, settings)
    served = _models(settings, found)
    wanted, engine = uninterrupted(settings, inputs, blobs, _swaps(served))
    verdict.outputs, verdict.models = len(found), len({model for models in served.values() for model in models})
    verdict.lost, verdict.invented = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    for key, sayings in found.items():
        if len(sayings) > 1:
            verdict.repeated.append(key)
        # Between two models the same record may have been said by both; an imputation does not say by which.
        one = len(served.get((key.partition, key.offset), ())) < 2
        first: dict[str, int] = {}
        same = all(first.setdefault(saying.model, saying.digest) == saying.digest for saying in sayings)
        if key in wanted and (sayings[-1].digest != wanted[key] or (one and not same)):
            verdict.unlike.append(key)
    await _judge_states(verdict, settings, blobs, engine, dict(ends))
    history = await committed(broker, settings.app)
    verdict.commits = sum(len(offsets) for offsets in history.values())
    assert {p: offsets[-1] for p, offsets in history.items()} == ends
    for partition, offsets in history.items():
        back = [
            (at, offsets[max(0, at - 3) : at + 3]) for at in range(1, len(offsets)) if offsets[at] < offsets[at - 1]
        ]
        assert not back, f"partition {partition}: offsets were committed by somebody no longer the owner: {back}"
    return verdict


def _models(settings: Settings, found: Mapping[Key, Sequence[Saying]]) -> dict[tuple[int, int], list[str]]:
    """Per record the models that spoke of it, in their order."""
    served: dict[tuple[int, int], list[str]] = {}
    for key, sayings in found.items():
        if key.topic == settings.topics.forecasts:
            models = served.setdefault((key.partition, key.offset), [])
            models += [saying.model for saying in sayings if saying.model not in models[-1:]]
    return served


def _swaps(served: Mapping[tuple[int, int], Sequence[str]]) -> dict[tuple[int, int], str]:
    swaps: dict[tuple[int, int], str] = {}
    last: dict[int, str] = {}
    for (partition, offset), models in sorted(served.items()):
        if last.get(partition) != models[-1]:
            swaps[partition, offset] = last[partition] = models[-1]
    return swaps


async def _judge_states(
    verdict: Verdict, settings: Settings, blobs: Mapping[str, bytes], engine: Engine, ends: Mapping[int, int]
) -> None:
    restored, found = await kept(settings, blobs, len(ends))
    for done in found:
        assert done.checkpoint is not None, done.why
        assert done.checkpoint.offset == ends[done.partition], "the last checkpoint is not at the input's end"
        assert not done.found.refused, done.found.refused
        assert not done.orphans, done.orphans
        mine, theirs = restored.table, engine.table
        rows, wanted = mine.series(done.partition), theirs.series(done.partition)
        verdict.states_unlike += sorted(rows.keys() ^ wanted.keys())
        for name in rows.keys() & wanted.keys():
            verdict.states += 1
            unlike = [
                column
                for column, values in mine.columns.items()
                if column != "applied" and not _same(values[rows[name]], theirs.columns[column][wanted[name]])
            ]
            if unlike:
                verdict.states_unlike.append(f"{done.partition}/{name}: {unlike}")


def _same(one: Any, other: Any) -> bool:
    return bool(one.tobytes() == other.tobytes())
