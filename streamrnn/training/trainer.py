"""`streamrnn train`: a process of its own that reads the input topic, learns, and publishes what the gate accepts.

It needs nothing from the serving process but the models topic, so it may run on another machine, with a GPU. Several may
run: Kafka's group protocol gives the models topic's single partition to one of them, and that one leads; the others
stand by, reading along. Supervised, it writes one line of JSON a second on its standard output and ends when its
standard input closes: a worker that dies takes its trainer along.

An operator's rollback stands:

1. Training goes on from the weights that were rolled back to; a round that began before is thrown away.
2. Nothing is published for `learn.rollback_hold`. What comes then has been trained from those weights, and has beaten
   them at the gate.
3. Weights that were rolled back from are never published again, whoever comes to them.
4. A pointer that crossed the operator's on its way is taken back.

A process that hangs or grows without end ends itself (`training.process`): a turn may take as long as the budget of a round and
`learn.silence_max` together, memory is looked at at every update, and on the processor no allocation can take more than
`learn.memory_max_mb` either. One whose GPU fails becomes one that trains on the processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import structlog
import torch

from streamrnn.learning import LearnSpec
from streamrnn.model import device as devices
from streamrnn.model.weights import WeightsError, WeightsMeta, fitted, pack
from streamrnn.monitor.notices import SharedSeries
from streamrnn.records import Record
from streamrnn.serving.input_topics import to_be_read
from streamrnn.serving.members import refuse_other_inputs
from streamrnn.serving.schemas import fetcher_of
from streamrnn.stores.models import BY_OPERATOR, ModelsFollower, ModelsWriter, Pointer
from streamrnn.stream.forecasting import inputs_of
from streamrnn.stream.learner import Lack, Learner, Round
from streamrnn.stream.replay import WINDOW_LEAST, step_bytes
from streamrnn.training.leadership import Leadership
from streamrnn.training.pace import Pace
from streamrnn.training.waiting import Wait
from streamrnn.transports.base import (
    LONG_AGO_S,
    Deadline,
    NumberedAsTheyCome,
    PartitionReader,
    Transport,
    TransportError,
    clock_s,
    inputs_read,
)
from streamrnn.transports.registry import SchemaFetcher

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

log = structlog.get_logger(__name__)

POLL_MS = 200
SCHEMAS_LOOK_S = 0.1  # between two looks whether the schemas are there that records wait for
RECORDS_MAX = 5000
# Of learn.memory_max_mb, for the steps that are kept: they are copied when their number grows, and torch wants the rest.
MEMORY_SHARE = 0.25
# How often reading begins anew further back, and how much more than what would be enough if all series spoke alike.
REACH_BACK_MAX, REACH_BACK_MORE = 3, 1.25


class OutOfMemoryBound(Exception):
    """The process has grown beyond learn.memory_max_mb; ending is better than dragging the machine down."""


class DeviceFailed(Exception):
    """The GPU has failed, or is no longer there. After most such errors nothing in the process can use torch any more, even
    without it."""


def learn_spec(settings: Settings) -> LearnSpec:
    """As it is configured, but no more series than a part of `learn.memory_max_mb` holds."""
    spec, stream = settings.learn.spec(), settings.stream_spec()
    bytes_each = max(WINDOW_LEAST, 3 * spec.holdout) * step_bytes(stream, len(inputs_of(stream)))
    most = int(MEMORY_SHARE * (settings.learn.memory_max_mb << 20))
    spec = replace(spec, bytes_max=min(spec.bytes_max, most))
    series = max(1, most // bytes_each)
    if series >= spec.series_max:
        return spec
    log.info(
        "learning keeps fewer series than learn.series_max: their steps would take too much of learn.memory_max_mb",
        series=series, series_max=spec.series_max, megabytes_each=round(bytes_each / 1e6, 2),
    )  # fmt: skip
    return replace(spec, series_max=series)


class Trainer:
    """Feeds a Learner from the input topic and runs its rounds, in a thread of this process of its own."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        """`now_ms` is the time of day, by which an operator's word is recent. Raises DeviceFailed."""
        self.settings, self.transport, self._now_ms = settings, transport, now_ms
        self.spec, self.meaning = settings.stream_spec(), settings.meaning()
        self.device = choose_device(settings.learn.device)
        devices.full_precision()
        with on_device(self.device):
            self.device_name = devices.describe(self.device)
            self.learner = self._fresh_learner()
        self.decoder = settings.decoder()
        self.fetcher = fetcher_of(settings, self.decoder)
        self._polled: list[tuple[int, Sequence[Record]]] = []  # what waits for its schemas
        self.state = "starting"
        self.loss = 0.0
        self.steps_s = 0.0
        self.published = 0
        self.last = ""
        self._incumbent_id = ""
        self._stopping = asyncio.Event()
        self._pace = Pace(settings.learn.interval / 1000, settings.learn.ticks)
        self._publish_from_s = LONG_AGO_S
        self._pointer: Pointer | None = None
        self._turn_began_s: float | None = None
        self._shared = SharedSeries()
        self._wait = Wait()
        # Where reading began, and where the topic ended then; how often it began anew further back.
        self._input: str | NumberedAsTheyCome = settings.inputs.one
        self._began: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._reached_back = 0
        self._topics_s = clock_s()  # when the input's topics were looked at

    def _fresh_learner(self) -> Learner:
        return Learner(self.spec, self.settings.model_spec(), learn_spec(self.settings), self.device)

    def stop(self) -> None:
        self._stopping.set()

    def said(self) -> dict[str, Any]:
        """What a heartbeat holds."""
        learner = self.learner
        return {
            "state": self.state,
            "device": self.device_name,
            "round": learner.rounds,
            "accepted": learner.accepted,
            "refused": learner.refused,
            "drifts": learner.drifts,
            "shared": learner.front.places.count,
            "series": len(learner.sample),
            "series_met": learner.sample.population,
            **self._wait.said(),
            "loss": round(self.loss, 5),
            "steps_s": round(self.steps_s, 1),
            "ticks": learner.ticks,
            "last": self.last,
            "rss_bytes": psutil.Process().memory_info().rss,
        }

    def turn_s(self) -> float:
        """For how long the turn of the loop has gone on that is not over yet."""
        return 0.0 if self._turn_began_s is None else clock_s() - self._turn_began_s

    async def run(self) -> None:
        """Runs until `stop`. Raises TransportError when the broker fails, OutOfMemoryBound at the memory limit, and
        DeviceFailed."""
        settings = self.settings
        leadership = Leadership(self.transport, settings.topics.models, f"{settings.app}.trainer")
        follower = ModelsFollower(self.transport, settings.topics.models)
        reader = self.transport.reader()
        sink = self.transport.sink()
        keeper: asyncio.Task[None] | None = None
        fetching: asyncio.Task[None] | None = None
        try:
            await _refuse_other_inputs(self.transport, settings)
            await sink.start()
            await follower.start()
            self._follow(follower, await follower.catch_up())
            await self._start_reader(reader)
            await leadership.start()
            keeper = asyncio.create_task(leadership.keep())
            if self.fetcher is not None:
                fetching = asyncio.create_task(self.fetcher.run())
            writer = ModelsWriter(sink, settings.topics.models)
            while not self._stopping.is_set():
                self._turn_began_s = clock_s()
                with on_device(self.device):
                    await self._turn(reader, follower, writer, leadership)
                for task in (keeper, fetching):
                    if task is not None and task.done():
                        task.result()
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise OutOfMemoryBound(f"out of memory: {error}") from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # what torch says on the processor
                raise
            raise OutOfMemoryBound(f"out of memory: {error}") from error
        finally:
            self._turn_began_s = None
            for task in (keeper, fetching):
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
            deadline = Deadline(5.0)
            for part in (leadership, follower, reader, sink):
                with contextlib.suppress(TransportError):
                    await part.stop(deadline)

    async def _turn(
        self, reader: PartitionReader, follower: ModelsFollower, writer: ModelsWriter, leadership: Leadership
    ) -> None:
        await self._look_at_topics(reader)
        polled = self._polled or await reader.poll(POLL_MS, RECORDS_MAX)
        if self.fetcher is not None and not await self._with_schemas(self.fetcher, polled):
            return
        for _, records in polled:
            batch, _ = self.decoder.decode(records)
            self.learner.feed(batch)
            await asyncio.sleep(0)
        self._follow(follower, await follower.poll())
        check_memory(self.settings.learn.memory_max_mb)
        learner = self.learner
        lack = learner.lacks() if leadership.leads else None
        self._wait.look(clock_s(), lack, len(learner.sample), learner.sample.population)
        if leadership.leads:  # it reads all partitions, where each worker knows its own; one of all trainers says it
            front = learner.front
            numbering = inputs_read(self._input).numbering
            self._shared.look(clock_s(), front.places, front.table.names, numbering)
        if not leadership.leads:
            self.state = "standing-by"
        elif follower.overruled and self._pointer is not None:
            await writer.point(self._pointer)
        elif self._held():
            self.state = "held"
        elif lack is not None:
            self.state = "collecting"
            await self._reach_back(reader, lack)
        elif not self._due():
            self.state = "resting" if learner.rests else "waiting"
        else:
            await self._round(writer, follower)

    async def _with_schemas(self, fetcher: SchemaFetcher, polled: Sequence[tuple[int, Sequence[Record]]]) -> bool:
        """Whether the schemas of all of these are known; where they are not, they wait for the next turn."""
        schemas = self.decoder.schemas
        assert schemas is not None  # noqa: S101
        fetcher.look()
        missing = schemas.missing([record for _, records in polled for record in records])
        self._polled = list(polled) if missing else []
        if missing:
            self.state = "waiting-for-schemas"
            fetcher.want(missing)
            await asyncio.sleep(SCHEMAS_LOOK_S)
        return not missing

    async def _start_reader(self, reader: PartitionReader) -> None:
        self._input = await to_be_read(self.transport, self.settings)
        if not isinstance(self._input, str):
            self.decoder.number_by(self._input.numbering)
        await reader.start(self._input, None)
        begin, end = await reader.begin_offsets(), await reader.end_offsets()
        self._ended = end
        await self._begin_at(reader, begin, self.settings.learn.history)
        if not self.settings.learn.history:  # learn from what comes, that says
            self._reached_back = REACH_BACK_MAX

    async def _begin_at(self, reader: PartitionReader, begin: Mapping[int, int], records: int) -> None:
        """Reads so many records before the end, or what of them there is."""
        self._polled = []
        share = records // max(len(self._ended), 1)
        self._began = {p: max(begin[p], end - share) for p, end in self._ended.items()}
        if self._began == {p: begin[p] for p in self._ended}:
            self._reached_back = REACH_BACK_MAX  # there is no more
        await reader.stop(Deadline(5.0))
        await reader.start(self._input, self._began)

    async def _look_at_topics(self, reader: PartitionReader) -> None:
        """Topics of the input that came are read, too, and those that were deleted are not."""
        inputs, every_s = self._input, self.settings.kafka.metadata_max_age_ms / 1000
        if isinstance(inputs, str) or clock_s() - self._topics_s < every_s:
            return
        self._topics_s = clock_s()
        found = await to_be_read(self.transport, self.settings)
        if isinstance(found, str) or list(found.topics) == list(inputs.topics):
            return
        positions = {p: reader.position(p) for p in self._ended}
        log.info("the input's topics have changed", come=sorted(set(found.topics) - set(inputs.topics)),
                 left=sorted(set(inputs.topics) - set(found.topics)), topics=len(found.topics))  # fmt: skip
        inputs.topics = found.topics
        await reader.stop(Deadline(5.0))
        await reader.start(inputs, None)
        begin, end = await reader.begin_offsets(), await reader.end_offsets()
        share = self.settings.learn.history // max(len(end), 1)
        start = {p: min(positions.get(p, max(begin[p], end[p] - share)), end[p]) for p in end}
        self._began = {p: self._began.get(p, start[p]) for p in end}
        self._ended = {p: self._ended.get(p, end[p]) for p in end}
        self._polled = [(p, records) for p, records in self._polled if p in end]
        await reader.stop(Deadline(5.0))
        await reader.start(inputs, start)

    async def _reach_back(self, reader: PartitionReader, lack: Lack) -> None:
        """Begins anew further back, where `learn.history` holds too little of so many series for a first round, nothing
        serves that could be trained on, and the topic has more."""
        learner = self.learner
        if self._reached_back >= REACH_BACK_MAX or learner.incumbent is not None or not len(learner.sample):
            return
        if any(reader.position(p) < end for p, end in self._ended.items()):
            return
        begin = await reader.begin_offsets()
        self._reached_back += 1
        read = sum(self._ended[p] - self._began[p] for p in self._ended)
        steps = lack.need if lack.each else lack.need / len(learner.sample)
        records = max(2 * read, int(REACH_BACK_MORE * steps * learner.sample.population))
        log.info(
            "learning begins further back: learn.history is too little for a first network of so many series",
            series_met=learner.sample.population, learn_history=read, records=records,
        )  # fmt: skip
        self.learner, self._shared, self._wait = self._fresh_learner(), SharedSeries(), Wait()
        await self._begin_at(reader, begin, records)

    def _held(self) -> bool:
        """Whether an operator's rollback is too recent for anything else to take its place."""
        return self._pointer is not None and self._pointer.by == BY_OPERATOR and clock_s() < self._publish_from_s

    def _due(self) -> bool:
        now_s = clock_s()
        return now_s >= self._publish_from_s and self._pace.due(self.learner, now_s)

    async def _round(self, writer: ModelsWriter, follower: ModelsFollower) -> None:
        settings, learner = self.settings, self.learner
        learn = settings.learn
        self.state = "training"
        clock = asyncio.get_running_loop().time  # the round's thread has no loop
        begin = clock()
        until = begin + settings.learn.budget / 1000
        before = learner.incumbent

        def enough() -> bool:
            return clock() > until or self._stopping.is_set() or memory_mb() > learn.memory_max_mb

        done = await asyncio.to_thread(learner.round, enough)
        seconds = clock() - begin
        spec = learner.spec.train
        self.loss, self.last = done.loss, done.verdict.reason
        self.steps_s = done.updates * spec.batch_series * spec.chunk_len / max(seconds, 1e-6)
        self._pace.begun(learner)
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
        if learner.rests:
            log.info(
                "training rests: the network adds next to nothing to the mixture", gain=round(learner.worth.gain, 4),
                rounds=learner.worth.looks, again="after ten times the distance of two rounds, or at a drift",
            )  # fmt: skip
        accepted = learner.incumbent
        if done.network is not None and not await self._publish(done, writer, follower):
            self.last = "superseded"
            if learner.incumbent is accepted:
                learner.adopt(before)
        self._pace.ended(learner, clock())

    async def _publish(self, done: Round, writer: ModelsWriter, follower: ModelsFollower) -> bool:
        """False where what was current has changed while the round ran, or the candidate was once rolled back from."""
        assert done.network is not None and done.candidate is not None  # noqa: S101
        now_ms = self._now_ms()
        meta = WeightsMeta(
            base_id=self._incumbent_id,
            created_ms=now_ms,
            ticks=self.learner.ticks,
            round=done.number,
            loss=done.loss,
            gain=list(done.candidate.gain),
            device=self.device_name,
        )
        blob = pack(done.network, meta, self.meaning)
        # What comes between this look and our pointer is found by `base`.
        self._follow(follower, await follower.catch_up())
        known = self._pointer
        refused = known.refused if known is not None else ()
        if meta.base_id != self._incumbent_id or meta.id in refused or self._held():
            log.warning("weights are not published: an operator's rollback, or others, came first", model=meta.id)
            return False
        base = known.id if known is not None else ""
        await writer.publish(meta.id, blob, msgspec.structs.asdict(meta), now_ms, base, refused)
        self._incumbent_id = meta.id
        self._publish_from_s = clock_s() + self.settings.learn.swap_min / 1000
        self.published += 1
        await writer.retire(follower.surplus(self.settings.learn.keep, meta.id), now_ms)
        return True

    def _follow(self, follower: ModelsFollower, found: Iterable[tuple[str, bytes]]) -> None:
        """What came in the models topic: weights that became current, and who put them there."""
        for model, blob in found:
            self._adopt(model, blob)
        pointer = follower.pointer
        if pointer is None or pointer is self._pointer:
            return
        self._pointer = pointer
        if pointer.by == BY_OPERATOR:
            hold_ms = self.settings.learn.rollback_hold
            since_ms = self._now_ms() - pointer.at_ms
            self._publish_from_s = clock_s() + min(hold_ms, max(0, hold_ms - since_ms)) / 1000
        if pointer.id != self._incumbent_id:
            # No news to a follower that never saw our own pointer before one that goes back from it.
            whole = follower.blob(pointer.id)
            if whole is not None:
                self._adopt(pointer.id, whole)

    def _adopt(self, model: str, blob: bytes) -> None:
        """Weights that became current and are not our own: a rollback, another trainer's, or from before a restart."""
        if model == self._incumbent_id:
            return
        self._incumbent_id = model
        try:
            found = fitted(blob, self.meaning, self.learner.engine.inputs)
            if found.network.spec == self.learner.model_spec:
                if found.words:
                    log.info(
                        "training goes on from weights of another configuration", model=model, what=list(found.words)
                    )
                self.learner.adopt(found.network)
                return
            log.warning("the current weights have another shape; a new network is trained", model=model)
        except WeightsError as error:
            log.warning("the current weights cannot be used; a new network is trained", model=model, error=str(error))
        self.learner.adopt(None)


def choose_device(name: str) -> torch.device:
    """The device that is asked for; the processor where it is no longer there."""
    if name == "auto":
        return devices.choose()
    if name != "cpu" and devices.choose().type != name:
        log.warning("there is no such device (any more): training on the processor", device=name)
        return torch.device("cpu")
    return torch.device(name)


@contextlib.contextmanager
def on_device(device: torch.device) -> Iterator[None]:
    """What torch raises here is the device's fault, unless it is the processor. Raises DeviceFailed."""
    try:
        yield
    except RuntimeError as error:
        if device.type == "cpu":
            raise
        raise DeviceFailed(f"{device.type}: {error}") from error


def memory_mb() -> int:
    """In use by this process."""
    return int(psutil.Process().memory_info().rss) >> 20


def check_memory(most_mb: int) -> None:
    """Raises OutOfMemoryBound."""
    used = memory_mb()
    if used > most_mb:
        raise OutOfMemoryBound(f"{used} MB in use, learn.memory_max_mb is {most_mb}")


async def _refuse_other_inputs(transport: Transport, settings: Settings) -> None:
    """Raises TopicUnfit where workers of this `app` read another input: its models topic is theirs."""
    admin = transport.admin()
    await admin.start()
    try:
        await refuse_other_inputs(admin, settings)
    finally:
        await admin.stop()
