"""What the worker reports of itself: Prometheus metrics, the rolling summary, health, recent points for the live page.

Everything is fed per batch, never per tick. Series' names are no labels: their number has no bound that a metrics
database would survive.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import structlog
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from streamrnn import __version__
from streamrnn.inputs import Numbering
from streamrnn.model.weights import WeightsMeta
from streamrnn.monitor.health import Health
from streamrnn.monitor.notices import HANDFUL, Learning, Notices, cold_share
from streamrnn.monitor.recent import History
from streamrnn.monitor.reported import Damage, Timing
from streamrnn.monitor.summary import Summary
from streamrnn.records import REASONS, SKIP_REASONS, Outputs, Rejected, SkipReason, TickBatch
from streamrnn.spec import StreamSpec
from streamrnn.stream.engine import NO_MODEL
from streamrnn.stream.frontend import FrontEnd
from streamrnn.transports.base import clock_s
from streamrnn.transports.kafka.errors import CONTENT
from streamrnn.wire.codec import Decoder, KeysSeen

log = structlog.get_logger(__name__)

BATCH_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
RESTORE_SECONDS = (0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
# Of a heartbeat, what becomes a metric.
TRAINER_FIGURES = (
    "round", "accepted", "refused", "steps_s", "loss", "rss_bytes", "ticks", "drifts", "shared", "series", "series_met",
)  # fmt: skip
KINDS = ("forecast", "imputation", "dead-letter")
# Label values that are known beforehand: their samples are there from the start, at zero, so that `rate` and alerts see the
# first event. (attribute of `Metrics`, values of its labels in their order)
CLOSED_SETS: tuple[tuple[str, *tuple[tuple[str, ...], ...]], ...] = (
    ("offsets_set", ("back", "ahead")),
    ("rejected", REASONS),
    ("input_skipped", SKIP_REASONS),
    ("outputs", KINDS),
    ("refused", KINDS, tuple(CONTENT.values())),
    ("batch", ("decode", "engine", "publish")),
    ("trainer", TRAINER_FIGURES),
    (
        "state_refused",
        ("digest", "held", "impossible", "layout-unknown", "not-a-state", "older", "partition", "series_max", "short"),
    ),
)
# Why a state was refused that was brought back: the table is full of newer ones.
TOO_MANY = "series_max"
# A worker that is given no partition for so long is a stand-by.
ALONE_S = 15.0
LAG_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


class Metrics:
    """The worker's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name = "streamrnn_"

        def counter(key: str, text: str, *labels: str) -> Counter:
            return Counter(name + key, text, labels, registry=self.registry)

        def gauge(key: str, text: str, *labels: str) -> Gauge:
            return Gauge(name + key, text, labels, registry=self.registry)

        def histogram(key: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(name + key, text, labels, registry=self.registry, buckets=tuple(buckets))

        self.ticks = counter("ticks_total", "Ticks that updated a series.")
        self.rejected = counter("rejected_total", "Records refused and dead-lettered.", "reason")
        self.input_skipped = counter(
            "input_skipped_total",
            "Records, and elements of records, that are none of this stream's (decode).",
            "reason",
        )
        self.refused_share = gauge("refused_share", "Share of the records that were refused, last minute.")
        self.partition_refused = gauge(
            "partition_refused_share", "Share of the partition's records that were refused, last minute.", "partition"
        )
        self.shared = counter("series_shared_total", "Times a series was met in another partition than before.")
        self.json_keys = counter("json_keys_total", "Records whose key names a series and is JSON text.")
        self.outputs = counter("outputs_total", "Records sent.", "kind")
        self.refused = counter(
            "outputs_refused_total", "Records the broker refuses for what they hold.", "kind", "error"
        )
        self.dead_letters_lost = counter(
            "dead_letters_lost_total", "Dead letters that their topic refuses however cut."
        )
        self.frames = counter("frames_total", "Steps taken, gaps included.")
        self.skipped = counter("gap_steps_skipped_total", "Steps of gaps beyond gap_max, not filled.")
        self.evicted = counter("series_evicted_total", "Series evicted because series_max was reached.")
        self.returned = counter(
            "series_returned_total", "Series that came back after they were evicted, and begin anew (series_max)."
        )
        self.series = gauge("series", "Series held.")
        self.cold_share = gauge("series_cold_share", "Share of the series held that have not taken warm_up steps.")
        self.partitions = gauge("partitions_owned", "Partitions this worker serves.")
        self.partitions_cold = gauge(
            "partitions_cold", "Owned partitions that were taken up without the state they should have had."
        )
        self.network_served = gauge("network_served", "1 while a network is in use, 0 before the first.")
        self.batch = histogram("batch_seconds", "Wall time of a batch by stage.", BATCH_SECONDS, "stage")
        self.processor = counter("batch_processor_seconds_total", "Processor time spent in batches.")
        self.commit = histogram("commit_seconds", "Round trip of an offset commit.", BATCH_SECONDS)
        self.lag = gauge("partition_lag", "Records behind the end of the partition.", "partition")
        self.position = gauge("partition_position", "Next offset to be processed.", "partition")
        self.committed = gauge("partition_committed", "Committed offset.", "partition")
        self.checkpoint = gauge("partition_checkpoint", "Input offset a restart would replay from.", "partition")
        self.state_rows = counter("state_rows_total", "Series' states written to the changelog.")
        self.state_bytes = counter("state_bytes_total", "Bytes written to the changelog, before compression.")
        self.checkpoint_interval = gauge(
            "checkpoint_interval_seconds",
            "How far apart a partition's checkpoints are, as checkpoint.bytes_per_second stretches them.",
        )
        self.restored = counter("state_rows_restored_total", "Series' states read back from the changelog.")
        self.restore = histogram("restore_seconds", "From assignment to a restored partition.", RESTORE_SECONDS)
        self.state_refused = counter("state_rows_refused_total", "States that could not be used.", "reason")
        self.offsets_set = counter(
            "offsets_set_total", "Times an operator's offset was honoured: back or ahead of the states.", "direction"
        )
        self.records_skipped = counter(
            "records_skipped_total", "Input records that an operator had skipped by an offset."
        )
        self.zombie_writes = counter(
            "state_strange_writes_total",
            "Times a zombie writer (a worker evicted from the group) wrote into an owned changelog.",
        )
        self.cold_starts = counter("cold_starts_total", "Partitions taken up without the state they should have had.")
        self.carried_rows = counter(
            "state_rows_carried_total", "Series' states carried over into a changed configuration."
        )
        self.cold_rows = counter(
            "state_rows_cold_total",
            "Series whose kept state nothing could be carried of, those of cold partitions included.",
        )
        self.buffer = gauge("buffer", "What waits in memory; its unit is in its name.", "buffer")
        self.buffer_max = gauge("buffer_max", "The bound of what waits.", "buffer")
        self.without_schema = gauge(
            "partitions_without_schema", "Partitions whose next records wait for a schema of the registry."
        )
        self.repartitioned = counter("ticks_repartitioned_total", "Ticks that the first stage has sent on.")
        self.topics = gauge("input_topics", "Topics of the input that are read.")
        self.topics_waiting = gauge(
            "input_topics_waiting", "Topics of the input that are not there, or have no place for their states."
        )
        self.unreadable = gauge("partitions_unreadable", "Partitions served only up to a damaged place in their log.")
        self.matured = counter("matured_targets_total", "Targets that came for forecasts made before.")
        self.gain = gauge(
            "network_gain", "Share of the mixture's mean absolute error that the network takes away, last minute."
        )
        self.coverage = gauge("coverage", "Share of targets inside the outer quantiles, last minute.")
        self.swaps = counter("weights_swaps_total", "Weights swapped in.")
        self.weights_refused = counter("weights_refused_total", "Weights that could not be served.")
        self.weights = gauge("weights_info", "1 for the weights in use.", "id")
        self.rebuilds = counter("client_rebuilds_total", "Times the Kafka clients were built anew after an error.")
        self.loop_lag = histogram("event_loop_lag_seconds", "How late the event loop runs what is due.", LAG_SECONDS)
        self.loop_blocked = counter(
            "event_loop_blocked_total", "Times it was late by half the session time-out or more."
        )
        self.trainer_up = gauge("trainer_up", "1 while the trainer says how it is, from its first heartbeat on.")
        self.trainer_restarts = counter("trainer_restarts_total", "Times the trainer was started again.")
        self.trainer = gauge("trainer", "What the trainer last said of itself.", "what")
        self.trainer_waits = gauge(
            "trainer_waits_seconds",
            "Until there is enough for a first round, at the rate of the last minute; +Inf: never, NaN: nothing is waited for.",
        )
        self.trainer_waits.set(np.nan)
        for family, *labels in CLOSED_SETS:
            for values in product(*labels):
                getattr(self, family).labels(*values)
        versions = {"version": __version__, "python": platform.python_version(), "torch": torch.__version__}
        Info(name + "build", "Versions of what runs.", registry=self.registry).info(versions)
        ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class WorkerObserver:
    """The pump's and the worker's listener; the HTTP server reads from it."""

    def __init__(
        self,
        spec: StreamSpec,
        effective: Mapping[str, Any] | None = None,
        ready_refused_max: float = 0.5,
        forecasting: Mapping[str, Any] | None = None,
    ) -> None:
        """`effective`: the whole configuration as it is shown. `ready_refused_max`: the share of a partition's records that
        may be refused in a minute. `forecasting`: `Settings.forecasting`."""
        self.spec = spec
        self._ready_refused_max = ready_refused_max
        self.metrics = Metrics()
        self.summary = Summary(spec)
        self.history = History(spec)
        self.health = Health()
        self.effective = dict(effective or {})
        made_by = {"season": [season.name for season in spec.seasons], "experts": list(spec.experts)}
        self.forecasting = {**made_by, **(forecasting or {})}
        self.model = NO_MODEL
        self.swaps = 0
        self.trainer: dict[str, Any] = {}
        self.started_s = time.monotonic()
        # Asked when metrics are scraped: name → (used, bound).
        self.buffers: Callable[[], Mapping[str, tuple[int, int]]] = dict
        self.rejected: Tally[str] = Tally()
        self.notices = Notices()
        self._keys = KeysSeen()
        self._front: FrontEnd | None = None
        self._keys_counted = self._shared_counted = 0
        self._returned_counted = self._evictions = 0
        self._series = 0
        self._label: Callable[[int], int | str] = lambda number: number
        self._restored: dict[int, int] = {}  # partition → series whose states were brought back
        self._serving_s: float | None = None
        self._introduced = False

    # ── the pump ─────────────────────────────────────────────────────────────────────────────────────────────────

    def batch(
        self,
        outputs: Outputs,
        batch: TickBatch,
        unread: Sequence[Rejected],
        sent: tuple[int, int, int],
        timing: Timing,
    ) -> None:
        metrics, now = self.metrics, time.monotonic()
        accepted = len(batch) - len(outputs.rejected)
        metrics.ticks.inc(accepted)
        reasons = Tally([item.reason for item in unread] + [reason for _, reason, _ in outputs.rejected])
        for reason, count in reasons.items():
            metrics.rejected.labels(reason).inc(count)
        self.rejected.update(reasons)
        for kind, count in zip(KINDS, sent, strict=True):
            if count:
                metrics.outputs.labels(kind).inc(count)
        metrics.frames.inc(outputs.frames)
        metrics.skipped.inc(outputs.skipped)
        metrics.evicted.inc(outputs.evicted)
        metrics.batch.labels("decode").observe(timing.decode_s)
        metrics.batch.labels("engine").observe(timing.engine_s)
        metrics.batch.labels("publish").observe(timing.publish_s)
        metrics.processor.inc(timing.processor_s)
        metrics.matured.inc(int(outputs.scores.count.sum()))
        self.summary.add(now, outputs.scores, accepted, sent, sum(reasons.values()))
        self.history.record(batch, outputs)
        self._evictions += outputs.evicted
        self.notices.batch(clock_s(), outputs, batch, unread)

    def skipped(self, counts: Mapping[SkipReason, int]) -> None:
        """Records, and elements of records, that are none of this stream's."""
        for reason, count in counts.items():
            self.metrics.input_skipped.labels(reason).inc(count)
        self.notices.nothing_used.add(counts)

    def refused(self, kind: str, error: str, count: int) -> None:
        """Outputs that the broker refuses for what they hold."""
        self.metrics.refused.labels(kind, error).inc(count)

    def dead_lettered(self, count: int) -> None:
        """Records dead-lettered because their outputs were refused."""
        self.metrics.rejected.labels("refused").inc(count)
        self.metrics.outputs.labels("dead-letter").inc(count)
        self.rejected["refused"] += count

    def dead_letters_lost(self, count: int) -> None:
        self.metrics.dead_letters_lost.inc(count)

    def progress(self, partition: int, position: int, lag: int | None) -> None:
        self.health.progress(partition, position, lag, time.monotonic())

    def committed(self, partition: int, offset: int, seconds: float) -> None:
        self.metrics.commit.observe(seconds)
        self.metrics.committed.labels(str(self._label(partition))).set(offset)
        self.health.committed()

    def waiting(self, seconds: float) -> None:
        self.health.waiting(seconds, time.monotonic())

    def carried(self, partition: int, carried: int, cold: int) -> None:
        """Of a partition's series: so many states of another meaning were carried, so many begin cold."""
        self.metrics.carried_rows.inc(carried)
        self.metrics.cold_rows.inc(cold)

    def assigned(self, partition: int, position: int, emit_from: int) -> None:
        self.health.assigned(partition, position, emit_from, time.monotonic())

    def restoring(self, partition: int) -> None:
        self.health.restoring.add(partition)

    def restored(self, partition: int, rows: int, refused: Mapping[str, int], seconds: float, why_cold: str) -> None:
        self.health.restoring.discard(partition)
        self.metrics.restored.inc(rows)
        self.metrics.restore.observe(seconds)
        for reason, count in refused.items():
            self.metrics.state_refused.labels(reason).inc(count)
        if why_cold:
            self.metrics.cold_starts.inc()
            self.health.cold[partition] = why_cold
        if self._front is not None:
            self._restored[partition] = len(self._front.table.series(partition))
            self._note_crowded(self._front, refused.get(TOO_MANY, 0))

    def _note_crowded(self, front: FrontEnd, too_many: int) -> None:
        """Where states found no place, or took that of others, series begin anew at each return and never get warm."""
        evicted, self._evictions = too_many + front.table.evictions - self._evictions, front.table.evictions
        if evicted > 0:
            log.warning(
                "the state topic holds more series than series_max: those that do not fit begin anew at each return. "
                "Set series_max to more than there are, or have more workers share the partitions",
                series_max=front.spec.series_max, partitions=len(self._restored), evicted=evicted,
                bytes_each=front.table.row_bytes(),
            )  # fmt: skip

    def checkpointed(self, partition: int, offset: int, interval_s: float) -> None:
        self.metrics.checkpoint.labels(str(self._label(partition))).set(offset)
        self.metrics.checkpoint_interval.set(interval_s)

    def states_appended(self, rows: int, size: int) -> None:
        self.metrics.state_rows.inc(rows)
        self.metrics.state_bytes.inc(size)

    def offsets_set(self, direction: str, records: int) -> None:
        self.metrics.offsets_set.labels(direction).inc()
        if direction == "ahead":
            self.metrics.records_skipped.inc(records)

    def written_by_another(self, partition: int) -> None:
        self.metrics.zombie_writes.inc()
        log.warning(
            "another worker, evicted from the group, wrote into our changelog; it is written anew",
            partition=self._label(partition),
        )

    def revoked(self, partition: int) -> None:
        self.health.revoked(partition)
        self.notices.last_minute.forget(partition)
        self._restored.pop(partition, None)
        metrics = self.metrics
        for gauge in (metrics.lag, metrics.position, metrics.committed, metrics.checkpoint, metrics.partition_refused):
            try:
                gauge.remove(str(self._label(partition)))
            except KeyError:
                continue

    # ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────

    def serving(self) -> None:
        self.health.serving = True
        self.health.trouble = ""
        self._serving_s = clock_s() if self._serving_s is None else self._serving_s

    def rebuilding(self, error: str) -> None:
        self.metrics.rebuilds.inc()
        self.health.rebuilding(error)

    def unreadable(self, found: Mapping[int, Damage]) -> None:
        self.metrics.unreadable.set(len(found))
        self.health.unreadable = {p: f"from offset {damage.offset} on, {damage.why}" for p, damage in found.items()}

    def input_topics(self, read: int, waiting: int) -> None:
        self.metrics.topics.set(read)
        self.metrics.topics_waiting.set(waiting)

    def without_schema(self, waiting: Mapping[int, str]) -> None:
        """Partitions whose next records wait for their schemas, and why."""
        self.metrics.without_schema.set(len(waiting))
        self.health.without_schema = dict(waiting)

    def registry_away(self, error: str) -> None:
        """At the start: the registry of the outputs' schemas is waited for; "": it is there."""
        self.health.trouble = f"outputs wait for their schemas: {error}" if error else "starting"

    def stopped(self) -> None:
        self.health.serving = False
        self.health.trouble = "stopped"

    def swapped(self, model: str, meta: WeightsMeta) -> None:
        self.metrics.weights.clear()
        self.metrics.weights.labels(model).set(1)
        self.metrics.swaps.inc()
        self.model, self.swaps = model, self.swaps + 1
        self.history.mark("swap", model)

    def weights_refused(self, model: str, error: str) -> None:
        self.metrics.weights_refused.inc()

    def loop_lag(self, seconds: float) -> None:
        self.metrics.loop_lag.observe(seconds)

    def loop_blocked(self) -> None:
        self.metrics.loop_blocked.inc()

    def trainer_state(self, up: bool, restarts: int, said: Mapping[str, Any]) -> None:
        self.metrics.trainer_up.set(up)
        missing = restarts - self.trainer.get("restarts", 0)
        if missing > 0:
            self.metrics.trainer_restarts.inc(missing)
        for what in TRAINER_FIGURES:
            value = said.get(what)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.metrics.trainer.labels(what).set(value)
        waits_s = said.get("waits_s")
        self.metrics.trainer_waits.set(np.nan if waits_s is None or not up else np.inf if waits_s < 0 else waits_s)
        if int(said.get("drifts", 0)) > int(self.trainer.get("drifts", 0)):
            self.history.mark("drift", "")
        self.trainer = {"up": up, "restarts": restarts, **said}

    def held(self, series: int) -> None:
        self._series = series
        self.metrics.series.set(series)

    def number_by(self, numbering: Numbering) -> None:
        """How the input's partitions are named here."""
        self._label = self.health.label = numbering.label
        self.notices.number_by(numbering)

    def first_stage(self) -> FirstStage:
        """Who listens to the first stage of `repartition: on`; readiness, lag and refusals are of both from now on."""
        return FirstStage(self)

    def watch(self, decoder: Decoder, front: FrontEnd) -> None:
        """Whose counts `look` reads."""
        self._keys, self._front = decoder.json_keys, front

    def look(self) -> None:
        """Says what is wrong where it is time to; to be called a few times a second."""
        now_s, front = clock_s(), self._front
        self._introduce(now_s)
        learning = Learning(self.served, self.trainer, self.summary.ticks)
        self.notices.look(now_s, self._keys, front, learning)
        self.health.refused = {
            partition: f"{share:.0%} of {records} records in the last minute, most as `{reason}`; "
            f"http.ready_refused_max is {self._ready_refused_max:g}"
            for partition, (share, records, reason) in self.notices.last_minute.shares(now_s).items()
            if share > self._ready_refused_max and share * records >= HANDFUL
        }
        self.metrics.json_keys.inc(self._keys.count - self._keys_counted)
        self._keys_counted = self._keys.count
        if front is not None:
            self.metrics.shared.inc(front.places.count - self._shared_counted)
            self.metrics.returned.inc(front.places.returned - self._returned_counted)
            self._shared_counted, self._returned_counted = front.places.count, front.places.returned

    @property
    def served(self) -> bool:
        """Whether a network is in use."""
        return self.model != NO_MODEL

    def _introduce(self, now_s: float) -> None:
        """One line of what runs, once the first partitions are there, or none has come for a while."""
        if self._introduced or self._serving_s is None or self.health.restoring:
            return
        if not self.health.partitions and now_s - self._serving_s < ALONE_S:
            return
        self._introduced = True
        chosen = self.effective
        log.info(
            "serving",
            version=__version__,
            app=chosen.get("app"),
            input=chosen.get("input"),
            channels=len(self.spec.channels),
            step=chosen.get("step"),
            horizon=self.spec.horizon,
            season=self.forecasting["season"],
            experts=self.forecasting["experts"],
            delivery=chosen.get("delivery"),
            train=chosen.get("train"),
            weights=self.model,
            partitions=[self._label(p) for p in sorted(self.health.partitions)],
            states_restored=sum(self._restored.values()),
            cold={self._label(p): why for p, why in sorted(self.health.cold.items())},
        )

    # ── for HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────

    def status(self) -> dict[str, Any]:
        """What the page and `streamrnn inspect` show of the worker."""
        first = self.health.first
        partitions = self.health.view() | (first.view() if first is not None else {})
        summary = self.summary.view(time.monotonic(), 20.0)
        return {
            "uptime_s": round(time.monotonic() - self.started_s, 1),
            "model": self.model,
            "swaps": self.swaps,
            "series": self._series,
            "channels": list(self.spec.channels),
            "forecasting": self.forecasting,
            "partitions": partitions,
            "lag": sum(entry["lag"] or 0 for entry in partitions.values()),
            "rejected": dict(self.rejected),
            "cold": {str(self._label(p)): why for p, why in sorted(self.health.cold.items())},
            "trainer": self.trainer,
            "summary": summary,
        }

    def metrics_text(self) -> bytes:
        first = self.health.first
        for partition, entry in (self.health.view() | (first.view() if first is not None else {})).items():
            self.metrics.position.labels(partition).set(entry["position"])
            if entry["lag"] is not None:
                self.metrics.lag.labels(partition).set(entry["lag"])
        self.metrics.partitions.set(len(self.health.partitions))
        self.metrics.partitions_cold.set(len(self.health.cold))
        for number, (share, *_) in self.notices.last_minute.shares(clock_s()).items():
            self.metrics.partition_refused.labels(str(self._label(number))).set(share)
        cold = cold_share(self._front) if self._front is not None else None
        self.metrics.cold_share.set(np.nan if cold is None else cold)
        self.metrics.network_served.set(self.served)
        for name, (used, bound) in self.buffers().items():
            self.metrics.buffer.labels(name).set(used)
            self.metrics.buffer_max.labels(name).set(bound)
        view = self.summary.view(time.monotonic(), 60.0)
        self.metrics.refused_share.set(np.nan if view["refused_share"] is None else view["refused_share"])
        self.metrics.gain.set(np.nan if view["network_gain"] is None else view["network_gain"])
        self.metrics.coverage.set(np.nan if view["coverage"] is None else view["coverage"])
        return self.metrics.text()


class FirstStage:
    """Observer of the first stage (`serving.repartition`), whose partitions are named with their topics."""

    def __init__(self, worker: WorkerObserver) -> None:
        self._worker = worker
        self._health = worker.health.first = Health()

    def number_by(self, label: Callable[[int], int | str]) -> None:
        self._health.label = label

    def repartitioned(self, ticks: int, unread: Sequence[Rejected], letters: int) -> None:
        """A batch was read and sent on."""
        metrics, reasons = self._worker.metrics, Tally([item.reason for item in unread])
        metrics.repartitioned.inc(ticks)
        for reason, count in reasons.items():
            metrics.rejected.labels(reason).inc(count)
        self._worker.rejected.update(reasons)
        if letters:
            metrics.outputs.labels("dead-letter").inc(letters)

    def skipped(self, counts: Mapping[SkipReason, int]) -> None:
        self._worker.skipped(counts)

    def refused(self, kind: str, error: str, count: int) -> None:
        self._worker.refused(kind, error, count)

    def dead_lettered(self, count: int) -> None:
        self._worker.dead_lettered(count)

    def dead_letters_lost(self, count: int) -> None:
        self._worker.dead_letters_lost(count)

    def assigned(self, partition: int, position: int, emit_from: int) -> None:
        self._health.assigned(partition, position, emit_from, time.monotonic())

    def revoked(self, partition: int) -> None:
        self._health.revoked(partition)
        metrics, label = self._worker.metrics, str(self._health.label(partition))
        for gauge in (metrics.lag, metrics.position, metrics.committed):
            with contextlib.suppress(KeyError):
                gauge.remove(label)

    def progress(self, partition: int, position: int, lag: int | None) -> None:
        self._health.progress(partition, position, lag, time.monotonic())

    def committed(self, partition: int, offset: int, seconds: float) -> None:
        self._worker.metrics.committed.labels(str(self._health.label(partition))).set(offset)
        self._health.committed()

    def waiting(self, seconds: float) -> None:
        self._health.waiting(seconds, time.monotonic())

    def without_schema(self, waiting: Mapping[int, str]) -> None:
        self._worker.metrics.without_schema.set(len(waiting))
        self._health.without_schema = dict(waiting)

    def serving(self) -> None:
        self._health.serving, self._health.trouble = True, ""

    def rebuilding(self, error: str) -> None:
        self._worker.metrics.rebuilds.inc()
        self._health.rebuilding(error)
