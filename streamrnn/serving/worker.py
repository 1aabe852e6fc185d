"""The worker: one process that serves the partitions it is given. Wires the parts, keeps them alive, ends cleanly.

Who owns what: the Pump owns the partitions and the current batch; the Engine all series' state; ServedWeights the weights in
use; the Supervisor the trainer's process; the Observer metrics, health and history.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog
import torch

from streamrnn.app.warm_up import warm_up_kernels
from streamrnn.config.sizes import batch_records, refuse_impossible, sizes_of
from streamrnn.monitor.http import HttpServer
from streamrnn.monitor.observer import WorkerObserver
from streamrnn.runtime.background import BackgroundTasks
from streamrnn.runtime.signals import stop_on_signals
from streamrnn.serving.checkpoint import Checkpointer, CheckpointSettings
from streamrnn.serving.input_topics import TopicsWatch, inputs_for, waiting_of
from streamrnn.serving.members import refuse_other_inputs
from streamrnn.serving.outbox import AtLeastOnce, ExactlyOnce, Outbox
from streamrnn.serving.partition import Partitions
from streamrnn.serving.parts import Parts, pump_settings
from streamrnn.serving.publish import Publisher, Written, wall_ms
from streamrnn.serving.pump import Pump
from streamrnn.serving.refused import RefusedOutputs
from streamrnn.serving.repartition import Repartitioner
from streamrnn.serving.restore import Restorer
from streamrnn.serving.schemas import fetcher_of, register
from streamrnn.serving.served_weights import ServedWeights, SwapSettings
from streamrnn.serving.start_checks import check_topics, report_experts, report_sizes
from streamrnn.serving.supervisor import WITHOUT_GPU, Supervisor, train_command
from streamrnn.serving.unreadable import UnreadablePartitions
from streamrnn.serving.watch import Stalled
from streamrnn.stores.models import ModelsFollower
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Snapshots
from streamrnn.transports.base import (
    Deadline,
    Inputs,
    OneTopic,
    OperatorNeeded,
    Source,
    Transport,
    TransportError,
    Unreadable,
    clock_s,
)
from streamrnn.transports.kafka.transport import KafkaTransport
from streamrnn.wire.output_schemas import What

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

log = structlog.get_logger(__name__)

# Rebuilding that has not helped for so long will not: exit and let the operator's supervisor decide (systemd and Kubernetes
# restart with back-off). Clients helped that served for SERVED_OK_S and committed, or for all of that time with nothing to do.
GIVE_UP_S = 600.0
SERVED_OK_S = 10.0
BACKOFF_S = (0.2, 10.0)
LOOP_PROBE_S = 0.25
COLLECT_S = 30.0
RETRY_LOOK_S = 5.0
# How long it is asked who else is in the group, after the join: nothing is read until then.
JOINED_S = 5.0
# How long broken clients are given to leave in good order.
LEAVING_S = 2.0
# What of the grace is kept for closing the clients, and how far past their deadline they take when nobody answers.
CLOSING_SHARE, CLOSING_S, OVERTIME_S = 1 / 3, 5.0, 1.7


class GaveUp(TransportError):
    """The broker could not be brought back by rebuilding the clients."""


class Worker:
    """Serves until stopped. `transport` is Kafka in production, memory in tests."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        observer: WorkerObserver,
        on_serving: Callable[[], None] = lambda: None,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        """`now_ms`: the time of day, for the times of records."""
        self.settings = settings
        self.sizes = sizes_of(settings)
        refuse_impossible(settings, self.sizes)
        self._now_ms = now_ms
        self._refused: RefusedOutputs | None = None
        self.transport = transport
        self.observer = observer
        self._on_serving = on_serving
        self.spec = settings.stream_spec()
        self.engine = Engine(self.spec)
        self.snapshots = Snapshots(self.engine, settings.meaning())
        self.decoder = settings.decoder()
        self.fetcher = fetcher_of(settings, self.decoder)
        staged = settings.repartition == "on"
        self.first = Repartitioner(settings, transport, observer.first_stage(), now_ms) if staged else None
        # Of one topic until it is known what is there.
        self.inputs: Inputs = OneTopic(settings.inputs.one)
        self.unreadable = UnreadablePartitions(transport, self.inputs, settings.batch_records_max)
        self._schema_ids: Mapping[What, int] = {}  # of what is written
        self.weights: ServedWeights | None = None
        self.pump: Pump | None = None
        self._source: Source | None = None  # of the present clients
        self._stopping = asyncio.Event()
        self._limit: asyncio.Timeout | None = None  # of `run`, from `stop` on
        self._end: Deadline | None = None
        self._memory_told = False
        self._alone = False  # nobody who reads another input is in our group
        self._failures = 0  # in a row, of clients that were no help
        self._failing_s = clock_s()  # since when; set anew with the first of them
        self._serving_s: float | None = None  # since when the present clients are there

    def stop(self) -> None:
        """Asks for a clean end: the current batch is delivered and committed, then `run` returns.

        It does so within `shutdown_grace`, whatever the broker does.
        """
        if self._end is None:
            self._end = Deadline(self.settings.shutdown_grace_s)
            self._limit_run()
        self._stopping.set()
        if self.first is not None:
            self.first.stop()
        if self.pump is not None:
            self.pump.stop()

    async def run(self) -> None:
        """Runs until `stop`. Raises OperatorNeeded, GaveUp or another TransportError; ends no process by itself."""
        limit = self._limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limit_run()
                await self._run()
        except TimeoutError:
            if not limit.expired():
                raise
            log.warning("stopped at the end of the grace: the broker did not answer; the last batch comes again")
        finally:
            self._limit = None

    def _limit_run(self) -> None:
        if self._limit is not None and self._end is not None:
            closing_s = min(CLOSING_S, CLOSING_SHARE * self.settings.shutdown_grace_s)
            self._limit.reschedule(asyncio.get_running_loop().time() + self._end.remaining_s() - closing_s)

    async def _run(self) -> None:
        self.observer.watch(self.decoder, self.engine.front)
        report_sizes(self.settings, self.sizes)
        report_experts(self.settings)
        directory = await check_topics(self.transport, self.settings, self.sizes)
        if not await self._schemas_registered():
            return
        await self._take_up_inputs(directory is not None)
        weights = self.weights = self._served_weights()
        await weights.start()
        try:
            await weights.catch_up()
            weights.swap_if_due()
            watch = TopicsWatch(self.inputs, self.settings.kafka.metadata_max_age_ms / 1000)
            beside = [weights.follow(), self._probe_loop(), self._retry_unreadable(), watch.run(lambda: self._source)]
            if self.fetcher is not None:
                beside.append(self.fetcher.run())
            if self.first is not None:
                beside.append(self.first.run())
            async with BackgroundTasks(self.stop, *beside):
                await self._serve(weights)
                if self.first is not None:
                    await self.first.ended(Deadline(self.settings.shutdown_grace_s))
        finally:
            await weights.stop(self._closing())
            self.observer.stopped()

    async def _take_up_inputs(self, directory: bool) -> None:
        """Raises TopicMissing, TopicUnfit, NotPermitted, TransportError."""
        self.inputs = await inputs_for(self.transport, self.settings, directory, self._now_ms)
        self.decoder.number_by(self.inputs.numbering)
        self.observer.number_by(self.inputs.numbering)
        self.unreadable = UnreadablePartitions(self.transport, self.inputs, self.settings.batch_records_max)

    async def _schemas_registered(self) -> bool:
        """What is written has its schemas; False where it is asked to stop before."""
        if self.settings.output.format == "json":
            return True
        registering = asyncio.ensure_future(register(self.settings, self.observer.registry_away))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((registering, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not registering.done():
                return False
            self._schema_ids = registering.result()
            return True
        finally:
            stopping.cancel()
            registering.cancel()

    # ── serving ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _look_who_else_joined(self) -> None:
        """Two that started at the same time have not seen each other before. Once is enough: whoever comes later sees us."""
        if self._alone:
            return
        admin = self.transport.admin()
        try:
            async with asyncio.timeout(JOINED_S):
                await admin.start()
                await refuse_other_inputs(admin, self.settings)
            self._alone = True
        except OperatorNeeded:
            raise
        except (TransportError, TimeoutError):
            return  # asked again with the next clients, if there are any
        finally:
            await admin.stop()

    async def _serve(self, weights: ServedWeights) -> None:
        while not self._stopping.is_set():
            self._serving_s = None
            source = self._source = self.transport.source(self.inputs, self.settings.app)
            outbox = self._outbox()
            partitions = Partitions(self.inputs.numbering)
            restorer = Restorer(self.transport, self.settings.topics.state, partitions, self.engine, self.snapshots)
            try:
                publisher = self._publisher(outbox)
                await publisher.check(await outbox.start())
                parts = Parts(
                    source, outbox, self.decoder, self.engine, publisher, self.observer, partitions, restorer,
                    self._checkpointer(partitions), weights, self.fetcher,
                )  # fmt: skip
                self.pump = Pump(parts, pump_settings(self.settings, batch_records(self.spec)))
                self.observer.buffers = self.pump.buffers
                self.pump.limit(self.unreadable.limits)
                if self._stopping.is_set():
                    self.pump.stop()
                await source.start(self.pump)
                await self._look_who_else_joined()
                self.observer.serving()
                self._on_serving()
                self._serving_s = clock_s()
                await self.pump.run()
            except OperatorNeeded:
                raise
            except TransportError as error:
                if self._stopping.is_set():
                    log.warning("stopped with the broker away; the last batch comes again", error=str(error))
                    return
                await self._roll_back(error)
            finally:
                self._source = None
                await self._close(source, outbox, restorer)

    async def _close(self, *parts: Source | Outbox | Restorer) -> None:
        """All at once: without a broker each takes all the time that it is given."""
        deadline = self._closing()
        for error in await asyncio.gather(*(part.stop(deadline) for part in parts), return_exceptions=True):
            if error is not None and not isinstance(error, TransportError):
                raise error

    def _closing(self) -> Deadline:
        if self._end is None:
            return Deadline(LEAVING_S)
        return Deadline(max(0.0, min(CLOSING_S, self._end.remaining_s() - OVERTIME_S)))

    async def _roll_back(self, error: TransportError) -> None:
        """Drops all state with the broken clients; raises GaveUp when that has not helped for long."""
        now = clock_s()
        served_s = now - self._serving_s if self._serving_s is not None else 0.0
        committed = self.pump is not None and self.pump.has_committed
        if served_s > GIVE_UP_S or (served_s > SERVED_OK_S and committed):
            self._failures = 0
        if not self._failures:
            self._failing_s = now
        self._failures += 1
        self.observer.rebuilding(str(error))
        positions: dict[int, int] = {}
        if self.pump is not None:
            positions = {partition: position for partition, (position, _) in self.pump.positions().items()}
            self.pump.abandon()
        if now - self._failing_s > GIVE_UP_S:
            tried = f"{self._failures - 1} rebuilds of the clients in {now - self._failing_s:.0f} s did not help"
            raise GaveUp(f"{tried}; the last error: {error}")
        least, most = BACKOFF_S
        wait_s = min(most, least * 2 ** min(self._failures - 1, 16)) * random.uniform(0.5, 1.0)  # noqa: S311
        log.warning("clients are rebuilt after an error", error=str(error), wait_s=round(wait_s, 2))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), wait_s)
        if isinstance(error, (Unreadable, Stalled)):
            with contextlib.suppress(TransportError):  # the broker is away: that is seen soon enough
                await self.unreadable.examine(positions)
            self.observer.unreadable(self.unreadable.found)

    def _publisher(self, outbox: Outbox) -> Publisher:
        topics, output = self.settings.topics, self.settings.output
        if self._refused is None:
            self._refused = RefusedOutputs(self.observer)
        written = Written(
            topics.forecasts, topics.imputed, topics.dlq, output.timestamp, output.spec(), self._schema_ids
        )
        numbering, passed = self.inputs.numbering, self.first is not None
        return Publisher(self.spec, numbering, written, outbox.sink, self._refused, self._now_ms, passed)

    def _served_weights(self) -> ServedWeights:
        settings = self.settings
        return ServedWeights(
            self.engine, self.snapshots, ModelsFollower(self.transport, settings.topics.models), self.observer,
            SwapSettings(settings.delivery_timeout_s, settings.learn.swap_min / 1000),
        )  # fmt: skip

    def _outbox(self) -> AtLeastOnce | ExactlyOnce:
        if self.settings.delivery == "exactly-once":
            return ExactlyOnce(self.transport, self.settings.app, self.inputs.numbering)
        return AtLeastOnce(self.transport)

    def _checkpointer(self, partitions: Partitions) -> Checkpointer:
        settings, chosen = self.settings, self.settings.checkpoint
        return Checkpointer(
            self.engine, self.snapshots, settings.topics.state,
            CheckpointSettings(
                chosen.interval / 1000, chosen.records, chosen.bytes_per_second, chosen.interval_max / 1000,
                # A replay needs the weights in use since the checkpoint, and those that come next push older ones out.
                swaps_max=max(1, settings.learn.keep - 2),
            ),
            partitions, self.observer, self.decoder.carried,
        )  # fmt: skip

    # ── by the clock ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _retry_unreadable(self) -> None:
        while True:
            await asyncio.sleep(RETRY_LOOK_S)
            with contextlib.suppress(TransportError):
                if await self.unreadable.retry() and self.pump is not None:
                    self.pump.limit(self.unreadable.limits)
                    self.observer.unreadable(self.unreadable.found)

    async def _probe_loop(self) -> None:
        """How late the event loop runs what is due: the first sign of a blocked process.

        Heartbeats are late by as much. Beyond half the session's time, a little more would have cost the membership.
        """
        alarm_s = self.settings.kafka.session_timeout_ms / 2000
        while True:
            due = clock_s() + LOOP_PROBE_S
            await asyncio.sleep(LOOP_PROBE_S)
            late_s = max(0.0, clock_s() - due)
            self.observer.loop_lag(late_s)
            if late_s > alarm_s:
                self.observer.loop_blocked()
                log.warning(
                    "the event loop was blocked; beyond kafka.session_timeout_ms the group evicts this member",
                    seconds=round(late_s, 2),
                    session_timeout_ms=self.settings.kafka.session_timeout_ms,
                )
            self.observer.held(len(self.engine.table))
            self.observer.input_topics(len(self.inputs.topics), waiting_of(self.inputs))
            self._report_memory()
            self.observer.look()
            if self._refused is not None:
                self._refused.report()

    def _report_memory(self) -> None:
        table = self.engine.table
        if table.short_of_memory and not self._memory_told:
            self._memory_told = True
            log.error(
                "no memory for more series: from here on the coldest make room, as at series_max",
                series=table.rows_max, series_max=self.spec.series_max, series_bytes=self.sizes.series,
            )  # fmt: skip


def prepare_process() -> None:
    """Settings of torch and the collector for a serving process; to be called once, before any tensor exists.

    One thread: the model's steps are small, more threads only burn cores (pytorch #80777). Denormals as zero: decaying
    states would otherwise slow down a hundredfold. The collector comes by the clock (`collect_garbage`): the
    hot path makes no cycles.
    """
    torch.set_num_threads(1)
    with contextlib.suppress(RuntimeError):
        torch.set_num_interop_threads(1)
    torch.set_flush_denormal(True)
    gc.set_threshold(50_000, 20, 50)


def settle_memory() -> None:
    """What was made by now lives on: the collector need not walk it again."""
    gc.collect()
    gc.freeze()


async def collect_garbage(every_s: float = COLLECT_S) -> None:
    """Collects what came since the process settled.

    asyncio's closed connections are cycles (a transport keeps a method of its own), and with the thresholds of
    `prepare_process` a scrape a second would have them stay for hours.
    """
    while True:
        await asyncio.sleep(every_s)
        gc.collect()


def run(settings: Settings, config_arguments: Sequence[str] = ()) -> None:
    """The `streamrnn run` process. `config_arguments` are handed on to the trainer it supervises.

    Raises ConfigError, OperatorNeeded, GaveUp, TransportError, ExposedError or OSError (the HTTP port is taken).
    """
    prepare_process()
    refuse_impossible(settings, sizes_of(settings))
    for hint in settings.hints():
        log.warning("a setting has no effect", hint=hint)
    warm_up_kernels(settings)
    asyncio.run(_run(settings, config_arguments))


async def _run(settings: Settings, config_arguments: Sequence[str]) -> None:
    observer = WorkerObserver(
        settings.stream_spec(), settings.effective(), settings.http.ready_refused_max, settings.forecasting()
    )
    worker = Worker(settings, KafkaTransport(settings.kafka_settings()), observer, settle_memory)
    supervisor: Supervisor | None = None
    ending: asyncio.Task[None] | None = None

    def stop() -> None:
        nonlocal ending
        worker.stop()
        if supervisor is not None and ending is None:
            ending = asyncio.create_task(supervisor.stop(Deadline(settings.shutdown_grace_s)))

    stop_on_signals(stop)
    server = HttpServer(observer, settings.http.host, settings.http.port, settings.http_token())
    await server.start()
    log.info("serving HTTP", url=f"http://{settings.http.host}:{server.port}/")
    beside = [collect_garbage()]
    if settings.train == "auto":
        command = train_command(config_arguments)
        silence_max_s = settings.learn.silence_max / 1000
        supervisor = Supervisor(command, observer.trainer_state, silence_max_s, without_gpu=WITHOUT_GPU)
        supervisor.start()
        beside.append(supervisor.ended())
    try:
        async with BackgroundTasks(stop, *beside):
            await worker.run()
    finally:
        if ending is not None:
            await ending
        elif supervisor is not None:
            await supervisor.stop(Deadline(5.0))
        await server.stop()
