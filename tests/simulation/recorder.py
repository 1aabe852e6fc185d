"""Looks over the workers' shoulders: which weights moved which series' state at which input offsets.

A state in the changelog has a history of its own: it may have been written by a worker that then died with a batch
uncommitted, whose records another worker processed with other weights. So each state's lineage is kept with it from
worker to worker, and at the end an uninterrupted engine that swaps weights at the very same offsets must come to the
same bytes. And what a replay uses must be what was used when its records were committed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from oracle import Lineage
from stream import PARTITIONS

from streamrnn.records import I64, Outputs, TickBatch
from streamrnn.serving.worker import Worker
from streamrnn.stream.snapshot import Restored
from streamrnn.wire.packed import Packed as Block

Fail = Callable[[str], None]

# Of a state that knows an input which has been deleted.
FORMER: Lineage = ((-1, "former"),)


@dataclass(frozen=True, slots=True)
class Packed:
    """A record of the changelog: whose lineage it carries, which life it is of, which input offset it has come to."""

    lineage: Lineage
    life: int
    applied: int
    configuration: str = ""  # of the worker that wrote it


class Recorder:
    """What is known of all workers of a run. `fail` reports a violation, `packed` is in the changelog already."""

    def __init__(self, fail: Fail, packed: Mapping[bytes, Packed]) -> None:
        self.fail = fail
        self.packed = dict(packed)
        # Every lineage that any state ever had: outputs may have been said from it.
        self.lineages: dict[int, dict[Lineage, None]] = {p: {} for p in range(PARTITIONS)}
        self.used: dict[int, dict[int, str]] = {p: {} for p in range(PARTITIONS)}  # weights by committed offset
        self.available: Callable[[str], bool] = lambda model: True
        self.watches: dict[str, Watch] = {}
        self.refused = 0  # outputs that workers have counted as refused for what they hold
        # Partitions that once began without their state behind the begin of the input, as they may where the changelog is
        # damaged: their series warm up anew, and are not what an uninterrupted run has.
        self.inexact: set[int] = set()

    def committed(self, client: str, partition: int, since: int, until: int) -> None:
        """The ledger saw it; whoever commits has processed these records last.

        One who began without a state ran the records before them through weights of his own choice: from his commit on,
        which names them, those are the weights that they had.
        """
        watch = self.watches.get(client)
        if watch is not None:
            used = watch.used[partition]
            self.used[partition] |= watch.begun_anew[partition]
            self.used[partition].update((at, used[at]) for at in range(since, until) if at in used)


class Watch:
    """One worker process; also its observer."""

    def __init__(self, recorder: Recorder, client: str, worker: Worker, configuration: str, first: str) -> None:
        """`first`: the configuration that all began with."""
        self._recorder, self._worker = recorder, worker
        self._configuration = configuration
        self._begin: Lineage = () if configuration == first else ((0, configuration),)
        self.rows: dict[tuple[int, str], Lineage] = {}
        self.used: dict[int, dict[int, str]] = {p: {} for p in range(PARTITIONS)}
        self.begun_anew: dict[int, dict[int, str]] = defaultdict(dict)  # weights by offset, replayed without a state
        self.models: list[str] = []  # swapped in, in order
        self.buffers: Callable[[], Mapping[str, tuple[int, int]]] = dict  # the worker sets it
        self._ranks: dict[tuple[int, str], tuple[Restored, tuple[int, int]]] = {}
        self._next: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))  # the least offset that may be emitted now
        self._cold: set[int] = set()
        self._begins_cold: set[int] = set()  # restored just now, without a state
        recorder.watches[client] = self
        engine, snapshots = worker.engine, worker.snapshots
        self._process, self._pack, self._restore = engine.process, snapshots.pack, snapshots.restore
        engine.process, snapshots.pack, snapshots.restore = self.process, self.pack, self.restore  # type: ignore[method-assign]
        worker.observer = self  # type: ignore[assignment]

    # ── the engine ───────────────────────────────────────────────────────────────────────────────────────────────

    def process(self, batch: TickBatch, emit_from: Mapping[int, int] | None = None) -> Outputs:
        engine, table = self._worker.engine, self._worker.engine.table
        model, applied = engine.model, table.columns["applied"]
        held: dict[int, set[str]] = {}
        for partition in np.unique(batch.partition).tolist():
            offsets = batch.offset[batch.partition == partition].tolist()
            if emit_from and partition in emit_from:
                if partition in self._cold:  # without a checkpoint nothing is known of the weights of the time
                    self.begun_anew[partition].update(dict.fromkeys(offsets, model))
                else:
                    self._check_replay(partition, offsets, model)
            else:
                self.used[partition].update(dict.fromkeys(offsets, model))
            for name, row in table.series(partition).items():
                if self.rows[partition, name][:1] == FORMER:
                    self._recorder.fail(f"I4 replay: {name} of partition {partition} is of an input that is no more")
                if applied[row] <= offsets[-1]:
                    self._moved(partition, name, max(offsets[0], int(applied[row])), model)
            held[partition] = set(table.series(partition))
        outputs = self._process(batch, emit_from)
        for partition, names in held.items():
            lineages = self._recorder.lineages[partition]
            for name in table.series(partition):
                if name not in names:
                    self.rows[partition, name] = (*self._begin, (0, model))
                lineages[self.rows[partition, name]] = None
        return outputs

    def _moved(self, partition: int, name: str, offset: int, model: str) -> None:
        lineage = self.rows[partition, name]
        if lineage[-1][1] != model:
            self.rows[partition, name] = (*lineage, (offset, model))

    def _check_replay(self, partition: int, offsets: Sequence[int], model: str) -> None:
        for offset in offsets:
            used = self._recorder.used[partition].get(offset, model)
            if used != model and self._recorder.available(used):
                self._recorder.fail(
                    f"I4 replay: {offset} of partition {partition} had {used} and is replayed with {model}"
                )

    # ── the changelog ────────────────────────────────────────────────────────────────────────────────────────────

    def pack(self, partition: int, rows: I64, position: int, life: int) -> tuple[list[bytes], list[bytes]]:
        names, records = self._pack(partition, rows, position, life)
        applied = self._worker.engine.table.columns["applied"][rows].tolist()
        for name, record, reached in zip(names, records, applied, strict=True):
            self._recorder.packed[record] = Packed(
                self.rows[partition, name.decode()], life, reached, self._configuration
            )
        return names, records

    def restore(self, partition: int, states: Block, out: Restored) -> None:
        table = self._worker.engine.table
        there = set(table.series(partition))
        self._restore(partition, states, out)
        for record in states:
            assert record.key is not None and record.value is not None
            packed, where = self._recorder.packed[record.value], (partition, record.key.decode())
            of, rank = self._ranks.get(where, (None, (0, 0)))
            if of is not out or where[1] not in there or rank <= (packed.life, packed.applied):
                self._ranks[where] = out, (packed.life, packed.applied)
                carried = packed.configuration != self._configuration
                self.rows[where] = (
                    (*packed.lineage, (packed.applied, self._configuration)) if carried else packed.lineage
                )
                there.add(where[1])

    # ── what the worker reports of itself ──────────────────────────────────────────────────────────────────────────

    def assigned(self, partition: int, position: int, emit_from: int) -> None:
        self._next[partition] = emit_from, 0
        if partition in self._begins_cold and position > 0:  # not one that is given back
            self._recorder.inexact.add(partition)
        self._begins_cold.discard(partition)

    def restored(self, partition: int, rows: int, refused: Mapping[str, int], seconds: float, why_cold: str) -> None:
        if "`" in why_cold or "layout" in why_cold:  # all that changes here can be carried
            self._recorder.fail(f"I11 identity: partition {partition} begins cold: {why_cold}")
        for cold in (self._cold, self._begins_cold):
            (cold.add if why_cold else cold.discard)(partition)
        self.begun_anew[partition].clear()

    def batch(self, outputs: Outputs, batch: TickBatch, *_: Any) -> None:
        if len(outputs.forecasts):
            self._check_order(batch, sorted({int(tick) for tick in outputs.forecasts.tick}))
        for name, (used, bound) in self.buffers().items():
            if used > bound:
                self._recorder.fail(f"I6 bounds: {used} {name}, and no more than {bound} may be")

    def _check_order(self, batch: TickBatch, emitted: Sequence[int]) -> None:
        """Within one ownership, forecasts follow the input."""
        for tick in emitted:
            partition, offset = int(batch.partition[tick]), int(batch.offset[tick])
            index = int(batch.index[tick]) if len(batch.index) else -1
            if (offset, max(index, 0)) < self._next[partition]:
                self._recorder.fail(
                    f"I2 order: {offset} ({index}) of partition {partition} is said after {self._next[partition]}"
                )
            self._next[partition] = (offset, index + 1) if index >= 0 else (offset + 1, 0)

    def refused(self, kind: str, error: str, count: int) -> None:
        if kind != "dead-letter":
            self._recorder.refused += count

    def swapped(self, model: str, meta: object) -> None:
        self.models.append(model)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """The rest is metrics."""
        return lambda *_, **__: None
