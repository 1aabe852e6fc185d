"""`streamrnn train`: a process of its own that reads the input topic, learns, and publishes what the gate accepts.

It needs nothing from the serving process but the models topic, so it may run on another machine, with a GPU. Several may
run: Kafka's group protocol gives the models topic's single partition to one of them, and that one leads; the others
stand by, reading along. Supervised, it writes one line of JSON a second on its standard output and ends when its
standard input closes: a worker that dies takes its trainer along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
import psutil
import structlog
import torch

from streamrnn.codec import Decoder
from streamrnn.model import device as devices
from streamrnn.model.tbptt import TrainSpec
from streamrnn.model.weights import WeightsError, WeightsMeta, build, pack
from streamrnn.stream.learner import Learner, LearnSpec, Round
from streamrnn.transports.base import Deadline, Listener, PartitionReader, Transport, TransportError
from streamrnn.transports.models import ModelsFollower, ModelsWriter

if TYPE_CHECKING:
    from streamrnn.service.config import Settings

log = structlog.get_logger(__name__)

POLL_MS = 200
RECORDS_MAX = 5000
HEARTBEAT_S = 1.0
EXIT_MEMORY = 70


class OutOfMemoryBound(Exception):
    """The process has grown beyond learn.memory_max_mb; ending is better than dragging the machine down."""


def learn_spec(settings: Settings) -> LearnSpec:
    learn = settings.learn
    train = TrainSpec(
        chunk_len=learn.chunk_len,
        burn_in=learn.burn_in,
        length=learn.length,
        batch_series=learn.batch_series,
        lr=learn.lr,
        weight_decay=learn.weight_decay,
        clip_norm=learn.clip_norm,
        seed=learn.seed,
    )
    return LearnSpec(
        train=train,
        window=learn.window,
        holdout=learn.holdout,
        series_max=learn.series_max,
        updates=learn.updates,
        min_steps=learn.min_steps,
        drift=learn.drift,
    )


class _Leadership(Listener):
    """Leads while partition 0 of the models topic is ours in the trainers' group."""

    def __init__(self, transport: Transport, topic: str, group: str) -> None:
        self.leads = False
        self._source = transport.source(topic, group)

    async def start(self) -> None:
        await self._source.start(self)

    async def keep(self) -> None:
        """Polls, paused: the client leaves a group whose member does not poll."""
        while True:
            await self._source.poll(0, 1)
            await asyncio.sleep(1.0)

    async def revoked(self, partitions: frozenset[int]) -> None:
        self.leads = False

    async def assigned(self, partitions: frozenset[int]) -> None:
        for partition, end in (await self._source.end_offsets(sorted(partitions))).items():
            self._source.seek(partition, end)
        self._source.pause(sorted(partitions))
        self.leads = 0 in partitions

    async def stop(self, deadline: Deadline) -> None:
        self.leads = False
        await self._source.stop(deadline)


class Trainer:
    """Feeds a Learner from the input topic and runs its rounds, in a thread of this process of its own."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self.settings, self.transport = settings, transport
        self.spec = settings.stream_spec()
        self.device = choose_device(settings.learn.device)
        self.learner = Learner(self.spec, settings.model_spec(), learn_spec(settings), self.device)
        self.decoder = Decoder(self.spec, settings.decode_spec())
        self.state = "starting"
        self.loss = 0.0
        self.steps_s = 0.0
        self.published = 0
        self.last = ""
        self._incumbent_id = ""
        self._stopping = asyncio.Event()
        self._next_round_s = 0.0
        self._ticks_at_round = 0

    def stop(self) -> None:
        self._stopping.set()

    def said(self) -> dict[str, Any]:
        """What a heartbeat holds."""
        learner = self.learner
        return {
            "state": self.state,
            "device": devices.describe(self.device),
            "round": learner.rounds,
            "accepted": learner.accepted,
            "refused": learner.refused,
            "drifts": learner.drifts,
            "loss": round(self.loss, 5),
            "steps_s": round(self.steps_s, 1),
            "ticks": learner.ticks,
            "last": self.last,
            "rss_bytes": psutil.Process().memory_info().rss,
        }

    async def run(self) -> None:
        """Runs until `stop`. Raises TransportError when the broker fails, OutOfMemoryBound at the memory limit."""
        settings = self.settings
        leadership = _Leadership(self.transport, settings.topics.models, f"{settings.app}.trainer")
        follower = ModelsFollower(self.transport, settings.topics.models)
        reader = self.transport.reader()
        sink = self.transport.sink()
        keeper: asyncio.Task[None] | None = None
        try:
            await sink.start()
            await follower.start()
            for found in await follower.catch_up():
                self._adopt(*found)
            await self._start_reader(reader)
            await leadership.start()
            keeper = asyncio.create_task(leadership.keep())
            writer = ModelsWriter(sink, settings.topics.models)
            while not self._stopping.is_set():
                await self._turn(reader, follower, writer, leadership)
                if keeper.done():
                    keeper.result()
        finally:
            if keeper is not None:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
            deadline = Deadline(5.0)
            for part in (leadership, follower, reader, sink):
                with contextlib.suppress(TransportError):
                    await part.stop(deadline)

    async def _turn(
        self, reader: PartitionReader, follower: ModelsFollower, writer: ModelsWriter, leadership: _Leadership
    ) -> None:
        polled = await reader.poll(POLL_MS, RECORDS_MAX)
        for _, records in polled:
            batch, _ = self.decoder.decode(records)
            self.learner.feed(batch)
            await asyncio.sleep(0)
        for found in await follower.poll():
            self._adopt(*found)
        self._check_memory()
        if not leadership.leads:
            self.state = "standing-by"
        elif not self.learner.ready():
            self.state = "collecting"
        elif not self._due():
            self.state = "waiting"
        else:
            await self._round(writer, follower)

    async def _start_reader(self, reader: PartitionReader) -> None:
        topic = self.settings.input
        await reader.start(topic, None)
        begin, end = await reader.begin_offsets(), await reader.end_offsets()
        share = self.settings.learn.history // max(len(end), 1)
        await reader.stop(Deadline(5.0))
        await reader.start(topic, {p: max(begin[p], end[p] - share) for p in end})

    def _due(self) -> bool:
        learner = self.learner
        if learner.rounds == 0 or learner.drifted:
            return True
        news = learner.ticks - self._ticks_at_round
        return news > 0 and (time.monotonic() >= self._next_round_s or news >= self.settings.learn.ticks)

    async def _round(self, writer: ModelsWriter, follower: ModelsFollower) -> None:
        settings, learner = self.settings, self.learner
        self.state = "training"
        begin = time.monotonic()
        until = begin + settings.learn.budget / 1000
        done = await asyncio.to_thread(learner.round, lambda: time.monotonic() > until or self._stopping.is_set())
        seconds = time.monotonic() - begin
        spec = learner.spec.train
        self.loss, self.last = done.loss, done.verdict.reason
        self.steps_s = done.updates * spec.batch_series * spec.chunk_len / max(seconds, 1e-6)
        self._ticks_at_round = learner.ticks
        log.info(
            "round",
            number=done.number,
            verdict=done.verdict.reason,
            updates=done.updates,
            loss=round(done.loss, 4),
            score=done.candidate and round(done.candidate.score, 4),
            incumbent=done.incumbent and round(done.incumbent.score, 4),
            seconds=round(seconds, 1),
        )
        if done.network is not None:
            await self._publish(done, writer, follower)
        # Until a first network serves there is nothing to lose by trying again at once with what came meanwhile.
        first = learner.incumbent is None
        self._next_round_s = time.monotonic() + (1.0 if first else settings.learn.interval / 1000)

    async def _publish(self, done: Round, writer: ModelsWriter, follower: ModelsFollower) -> None:
        assert done.network is not None and done.candidate is not None  # noqa: S101
        now_ms = int(time.time() * 1000)
        meta = WeightsMeta(
            base_id=self._incumbent_id,
            created_ms=now_ms,
            ticks=self.learner.ticks,
            round=done.number,
            loss=done.loss,
            skill=done.candidate.skill(),
            device=devices.describe(self.device),
        )
        blob = pack(done.network, meta)
        await writer.publish(meta.id, blob, asdict_struct(meta), now_ms)
        self._incumbent_id = meta.id
        self.published += 1
        kept = list(follower.manifests.values())
        current = {meta.id, follower.pointer.id if follower.pointer else ""}
        old = [m for m in kept if m.id not in current][: max(0, len(kept) + 1 - self.settings.learn.keep)]
        await writer.retire(old, now_ms)

    def _adopt(self, model: str, blob: bytes) -> None:
        """Weights that became current and are not our own: a rollback, another trainer's, or from before a restart."""
        if model == self._incumbent_id:
            return
        try:
            network, _ = build(blob)
            if network.spec != self.learner.model_spec:
                log.warning("the current weights have another shape; a new network is trained", model=model)
                return
            self.learner.adopt(network)
        except WeightsError as error:
            log.warning("the current weights cannot be read", model=model, error=str(error))
            return
        self._incumbent_id = model

    def _check_memory(self) -> None:
        used = psutil.Process().memory_info().rss
        if used > self.settings.learn.memory_max_mb * 1024 * 1024:
            raise OutOfMemoryBound(
                f"{used >> 20} MB in use, learn.memory_max_mb is {self.settings.learn.memory_max_mb}"
            )


def asdict_struct(meta: WeightsMeta) -> dict[str, object]:
    return {name: getattr(meta, name) for name in meta.__struct_fields__}


def choose_device(name: str) -> torch.device:
    return devices.choose() if name == "auto" else torch.device(name)


async def heartbeats(trainer: Trainer) -> None:
    """A line a second on standard output, as long as somebody reads it."""
    while True:
        line = orjson.dumps(trainer.said()) + b"\n"
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            trainer.stop()
            return
        await asyncio.sleep(HEARTBEAT_S)


async def end_with_parent(trainer: Trainer) -> None:
    """Ends when standard input closes: the supervisor holds its other end and never writes."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), sys.stdin)
    await stream.read()
    trainer.stop()
    await asyncio.sleep(30.0)
    os._exit(1)  # a round that does not end must not outlive its worker


def run(settings: Settings, supervised: bool = False) -> None:
    """The whole process. Raises TransportError, OutOfMemoryBound."""
    from streamrnn.service.signals import stop_on_signals
    from streamrnn.transports.kafka import KafkaTransport

    learn = settings.learn
    os.nice(learn.nice)
    torch.set_num_threads(learn.threads or max(1, (psutil.cpu_count(logical=False) or os.cpu_count() or 2) - 1))
    torch.set_flush_denormal(True)

    async def main() -> None:
        trainer = Trainer(settings, KafkaTransport(settings.kafka_settings()))
        stop_on_signals(trainer.stop)
        beside = [asyncio.create_task(heartbeats(trainer)), asyncio.create_task(end_with_parent(trainer))]
        try:
            await trainer.run()
        finally:
            for task in beside:
                task.cancel()

    async def alone() -> None:
        trainer = Trainer(settings, KafkaTransport(settings.kafka_settings()))
        stop_on_signals(trainer.stop)
        log.info("training", device=devices.describe(trainer.device), learn=asdict(trainer.learner.spec.train))
        await trainer.run()

    asyncio.run(main() if supervised else alone())
