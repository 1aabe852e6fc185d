"""A signal and a plan of faults turned into records in the wire format, with the truth kept aside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from simulators.faults import DUPLICATE, FATES, LATE, MISSING, PLAIN, FaultPlan, Faults, decide
from simulators.poison import Poison, poisons
from simulators.signal import BLOCK, Signal, Values

# Far enough ahead that no clock explains it, near enough that it is a valid time (a year).
FUTURE_MS = 365 * 86_400_000

# A spike, in standard deviations of the channel's last minute or so.
SPIKE_SIZE = 20.0


class SimRecord(msgspec.Struct, frozen=True, gc=False):
    """One record to produce. `ts_ms` is its step's event time; `expect` is the refusal it should meet ("" for a good
    tick): of the words of streamrnn.records.REASONS."""

    key: bytes | None
    value: bytes | None
    ts_ms: int
    expect: str = ""
    headers: tuple[tuple[str, bytes], ...] = ()


class Truth(msgspec.Struct, frozen=True):
    """What a step of a series really was, and what was done to it. Its JSON is a wide tick too, with more fields.

    `values` are what the sensors would have shown without faults. `fate` is one of faults.FATES, `delay_steps` how much
    later the tick arrives. `missing` and `spikes` (channel to value sent) are about the tick as sent; `expect` has
    the reason of every record to be refused that this step adds to the stream: its own, a copy, poison, a future tick.
    """

    series: str
    ts: int
    step: int
    values: dict[str, float]
    fate: str
    delay_steps: int
    missing: list[str]
    spikes: dict[str, float]
    expect: list[str]


@dataclass
class _Chunk:
    """BLOCK steps (fewer at the end), flat: tick i is series i mod S of the chunk's step i div S."""

    first: int  # step
    ticks: int
    records: list[SimRecord]  # `width` a tick, also those that are not sent
    keep: list[bool] | None  # of records: False where a long record's value is missing; None: all
    width: int
    true: list[list[float]]
    sent: list[list[float]]
    faults: Faults | None
    altered: list[bool]  # ticks with a missing value or a spike; empty where no truth is wanted or nothing is done


@dataclass
class Ticks:
    """The records of all series, step after step, endless or for `steps` steps.

    Iterating begins anew every time, with the same result. Truth goes to `on_truth` and, with `keep_truth`, into
    `truth`, each step as its place in the stream is reached, so that what was not reached yet is not in it. (Ticks on
    their way late are: with `steps`, none is still on its way at the end.)

    `digits` is how many significant digits a channel's typical value has in the first steps; its resolution is the
    same ever after, as a sensor's.
    """

    signal: Signal
    plan: FaultPlan
    start_ms: int
    step_ms: int
    long: bool = False
    digits: int = 6
    keep_truth: bool = False
    truth: list[Truth] = field(default_factory=list)
    steps: int | None = None
    on_truth: Callable[[Truth], None] | None = None

    def __iter__(self) -> Iterator[SimRecord]:
        """In order of arrival: event time, then series, unless the plan says otherwise."""
        self.truth.clear()
        wire = _Wire(self.signal, self.long)
        bad = poisons(self.signal.channels)
        due: dict[int, list[SimRecord]] = {}  # records to come, by the tick (counted from the beginning) they follow
        decimals: NDArray[np.float64] | None = None
        first = 0
        while self.steps is None or first < self.steps:
            n = BLOCK if self.steps is None else min(BLOCK, self.steps - first)
            block = self.signal.block(first, n)  # [series, step, channel]
            if decimals is None:
                decimals = _resolution(block, self.digits)
            yield from self._records(self._chunk(first, block, decimals, wire), wire, bad, due)
            first += n

    def _chunk(self, first: int, block: Values, factor: NDArray[np.float64], wire: _Wire) -> _Chunk:
        series, n, channels = block.shape
        true = np.rint(block * factor) / factor
        sent, faults = true, None
        if self.plan != FaultPlan(seed=self.plan.seed):
            faults = self._decide(first, n, series, channels)
            if self.plan.spikes:
                spread = np.maximum(block.std(axis=1, keepdims=True), 1e-3 * np.abs(block).max(axis=1, keepdims=True))
                spiked = block + SPIKE_SIZE * (spread + 1e-9) * faults.spike.transpose(1, 0, 2)
                sent = np.where(faults.spike.transpose(1, 0, 2) != 0, np.rint(spiked * factor) / factor, true)
        rows = sent.transpose(1, 0, 2)  # [step, series, channel]
        gone = faults.gone if faults is not None and faults.gone.any() else None
        shown = rows if gone is None else np.where(gone, np.nan, rows)
        ts = [self.start_ms + (first + k) * self.step_ms for k in range(n)]
        records = wire.records(shown, ts)
        keep: list[bool] | None = (~gone).ravel().tolist() if gone is not None and self.long else None
        want = self.keep_truth or self.on_truth is not None or faults is not None
        return _Chunk(
            first,
            n * series,
            records,
            keep,
            channels if self.long else 1,
            true.transpose(1, 0, 2).reshape(-1, channels).tolist() if want else [],
            rows.reshape(-1, channels).tolist() if want else [],
            faults,
            (faults.gone | (faults.spike != 0)).any(axis=2).ravel().tolist() if faults is not None and want else [],
        )

    def _decide(self, first: int, n: int, series: int, channels: int) -> Faults:
        """The plan's decisions, flat, without those that cannot be carried out; spike and gone stay [step, series, …]."""
        f = decide(self.plan, first // BLOCK, series, channels)
        fate, delay, gone = f.fate[:n].copy(), f.delay[:n].copy(), f.gone[:n]
        if self.steps is not None:  # it would arrive after the end
            over = (np.arange(first, first + n)[:, None] + delay) >= self.steps
            fate[over & (delay > 0)] = PLAIN
            delay[over] = 0
        if self.long:  # no value, no record
            nothing = gone.all(axis=2)
            fate[nothing] = MISSING
            delay[nothing] = 0
        spike = np.where(gone, 0, f.spike[:n]).astype(np.int8)
        return Faults(fate.ravel(), delay.ravel(), gone, spike, f.poison[:n].ravel(), f.future[:n].ravel())

    def _records(
        self, chunk: _Chunk, wire: _Wire, bad: Sequence[Poison], due: dict[int, list[SimRecord]]
    ) -> Iterator[SimRecord]:
        """The chunk's records in order of arrival; what is delayed beyond its end stays in `due`."""
        series = len(wire.keys)
        begin = chunk.first * series
        faults = chunk.faults
        if faults is None:
            yield from self._run(chunk, 0, chunk.ticks, wire)
            return
        for i in np.flatnonzero(faults.delay).tolist():
            expect = "late" if faults.fate[i] == LATE else ""
            after = begin + i + int(faults.delay[i]) * series
            due.setdefault(after, []).extend(_expecting(_own(chunk, i), expect))
        special = np.flatnonzero((faults.fate != PLAIN) | (faults.poison >= 0) | faults.future).tolist()
        arrivals = [tick - begin for tick in due if tick < begin + chunk.ticks]
        at = 0
        for i in sorted({*special, *arrivals}):
            yield from self._run(chunk, at, i, wire)
            at = i + 1
            self._note(chunk, i, wire, bad)
            ts = self.start_ms + (chunk.first + i // series) * self.step_ms
            if faults.poison[i] >= 0:
                poison = bad[int(faults.poison[i]) % len(bad)]
                yield SimRecord(wire.keys[i % series] if poison.keyed else None, poison.value, ts, poison.reason)
            if faults.future[i]:
                yield wire.future(i % series, chunk.sent[i], ts)
            if faults.fate[i] in (PLAIN, DUPLICATE):
                yield from _own(chunk, i)
            if faults.fate[i] == DUPLICATE:
                yield from _expecting(_own(chunk, i), "duplicate")
            yield from due.pop(begin + i, ())
        yield from self._run(chunk, at, chunk.ticks, wire)

    def _run(self, chunk: _Chunk, begin: int, end: int, wire: _Wire) -> Iterable[SimRecord]:
        """Ticks begin..end, to which nothing happens but missing values and spikes."""
        if self.keep_truth or self.on_truth is not None:
            return self._noted(chunk, begin, end, wire)
        return _own(chunk, begin, end)

    def _noted(self, chunk: _Chunk, begin: int, end: int, wire: _Wire) -> Iterator[SimRecord]:
        for i in range(begin, end):
            self._note(chunk, i, wire, ())
            yield from _own(chunk, i)

    def _note(self, chunk: _Chunk, i: int, wire: _Wire, bad: Sequence[Poison]) -> None:
        """Writes down the truth of the chunk's tick i."""
        if not self.keep_truth and self.on_truth is None:
            return
        k, s = divmod(i, len(wire.keys))
        channels, faults = self.signal.channels, chunk.faults
        fate, delay = PLAIN, 0
        missing: list[str] = []
        spikes: dict[str, float] = {}
        expect: list[str] = []
        if faults is not None:
            fate, delay = int(faults.fate[i]), int(faults.delay[i])
            if chunk.altered[i]:
                missing = [name for c, name in enumerate(channels) if faults.gone[k, s, c]]
                spikes = {name: chunk.sent[i][c] for c, name in enumerate(channels) if faults.spike[k, s, c]}
            if faults.poison[i] >= 0:
                expect.append(bad[int(faults.poison[i]) % len(bad)].reason)
            if faults.future[i]:
                expect.append("future")
            if fate in (LATE, DUPLICATE):
                expect += [FATES[fate]] * len(list(_own(chunk, i)))
        step = chunk.first + k
        truth = Truth(
            self.signal.series[s],
            self.start_ms + step * self.step_ms,
            step,
            dict(zip(channels, chunk.true[i], strict=True)),
            FATES[fate],
            delay,
            missing,
            spikes if fate != MISSING else {},
            expect,
        )
        if self.keep_truth:
            self.truth.append(truth)
        if self.on_truth is not None:
            self.on_truth(truth)


def _own(chunk: _Chunk, begin: int, end: int | None = None) -> Iterable[SimRecord]:
    """The records of the chunk's ticks begin..end (by default one tick)."""
    span = slice(begin * chunk.width, (begin + 1 if end is None else end) * chunk.width)
    return chunk.records[span] if chunk.keep is None else compress(chunk.records[span], chunk.keep[span])


def _expecting(records: Iterable[SimRecord], expect: str) -> list[SimRecord]:
    return [SimRecord(r.key, r.value, r.ts_ms, expect) for r in records]


def _resolution(block: Values, digits: int) -> NDArray[np.float64]:
    """Per series and channel [series, 1, channel] the power of ten that leaves the largest value `digits` digits."""
    size = np.abs(block).max(axis=1, keepdims=True, initial=1e-12)
    factor: NDArray[np.float64] = 10.0 ** np.clip(digits - 1 - np.floor(np.log10(size)), 0, 15)
    return factor


class _Wire:
    """Writes ticks as JSON: numbers by orjson, a whole chunk in one call, set into templates."""

    def __init__(self, signal: Signal, long: bool) -> None:
        self.long = long
        self.keys = [name.encode() for name in signal.series]
        self._heads = [b'{"series":' + orjson.dumps(name) + b',"ts":' for name in signal.series]
        names = [orjson.dumps(channel).replace(b"%", b"%%") for channel in signal.channels]
        self._wide = b'%b%d,"values":{' + b",".join(name + b":%b" for name in names) + b"}}"
        self._long = [b'%b%d,"channel":' + name + b',"value":%b}' for name in names]

    def records(self, shown: Any, ts: list[int]) -> list[SimRecord]:
        """Of all ticks [step, series, channel], NaN for missing; long: also of the missing values, as null."""
        series, channels = len(self.keys), len(self._long)
        flat = np.ascontiguousarray(shown).reshape(-1)
        text = iter(orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b","))
        per = channels if self.long else 1
        heads = [head for head in self._heads for _ in range(per)] * len(ts)
        keys = [key for key in self.keys for _ in range(per)] * len(ts)
        times = [t for t in ts for _ in range(series * per)]
        if self.long:
            templates = self._long * (len(ts) * series)
            values = [f % row for f, row in zip(templates, zip(heads, times, text, strict=True), strict=True)]
        else:
            template = self._wide
            values = [template % row for row in zip(heads, times, *([text] * channels), strict=True)]
        return list(map(SimRecord, keys, values, times))

    def future(self, s: int, values: list[float], ts: int) -> SimRecord:
        """A tick of series s dated FUTURE_MS ahead (long: of the first channel)."""
        numbers = [orjson.dumps(value) for value in values]
        if self.long:
            value = self._long[0] % (self._heads[s], ts + FUTURE_MS, numbers[0])
        else:
            value = self._wide % (self._heads[s], ts + FUTURE_MS, *numbers)
        return SimRecord(self.keys[s], value, ts, "future")
