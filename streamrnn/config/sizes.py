"""How large everything becomes, computed from the configuration before anything has that size.

A series' state has columns for every channel, and some of them for every channel, horizon and quantile: a
configuration that reads harmlessly may ask for records that no topic takes, and for more memory than there is. What a
row takes is not estimated but asked of the table that the engine makes. Used by `validate`, `topics` and every start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamrnn.kernels import text
from streamrnn.model.network import Network
from streamrnn.spec import PLAIN, OutputSpec, StreamSpec
from streamrnn.stream.engine import Engine, engine_fields
from streamrnn.stream.snapshot import ROW_BYTES_MAX, Snapshots
from streamrnn.stream.table import Field
from streamrnn.transports.base import TopicNeed, TopicUnfit

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

# What Kafka takes as one batch unless somebody set another limit (max.message.bytes, message.max.bytes).
BATCH_BYTES = 1_048_588
# Around a record that is a batch of its own: the batch's head, the record's lengths, times and headers.
ENVELOPE_BYTES = 200
# A series' name, its entries in the index and the lists, a half of each in reserve (tests/benchmarks/memory.py).
NAME_BYTES = 300
# A number in a forecast has two digits and a comma or more, and mostly no more than this.
NUMBER_LEAST, NUMBER_USUAL = 3, 8
# A held tick beside its values: time, channel, and the step that it is held for.
HELD_BYTES = 40
# What a process has before the first series (interpreter, torch, compiled loops, clients).
PROCESS_BYTES = 400_000_000
# A batch's forecasts: each number as the network gives it, twice as a double, and as text.
BATCH_MEMORY_BYTES, NUMBER_MEMORY = 256 << 20, 4 + 16 + 8
# A flat record: its value, and its places in the lists that go to the client.
RECORD_MEMORY = 400
# The rate that the changelog's growth is stated for where none is known.
RATE = 1000.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes, of one configuration. `largest` is what no record exceeds, `usual` is for orientation."""

    series: int  # of memory, one series
    series_max: int  # how many there are at most
    state_usual: int  # a state record with no tick held back
    state_largest: int
    forecast_least: int  # no forecast of all channels is smaller
    forecast_usual: int
    forecast_largest: int
    forecast_records: int  # of one step of a series, where all channels have been seen
    checkpoint_s: float
    checkpoint_max_s: float
    checkpoint_bytes_s: float  # 0: no budget

    @property
    def memory(self) -> int:
        """Of all series of one worker, when there are `series_max`."""
        return self.series * self.series_max

    def changelog_bytes_s(self, ticks_s: float) -> float:
        """Written to the state topic a second at most, by one worker with so many ticks a second: each series that has
        spoken since the last checkpoint once."""
        return min(ticks_s, self.series_max / self.interval_s(ticks_s)) * self.state_usual

    def interval_s(self, ticks_s: float) -> float:
        """How far apart checkpoints are at most, with so many ticks a second: as the budget stretches them where all of
        `series_max` speak."""
        plain = min(ticks_s, self.series_max / self.checkpoint_s) * self.state_usual
        if self.checkpoint_bytes_s <= 0 or plain <= self.checkpoint_bytes_s:
            return self.checkpoint_s
        stretched = self.series_max * self.state_usual / self.checkpoint_bytes_s
        return max(self.checkpoint_s, min(stretched, self.checkpoint_max_s))

    def document(self, ticks_s: float | None, memory_limit: int) -> dict[str, int | float | None]:
        """For scripts."""
        rate = RATE if ticks_s is None else ticks_s
        return {
            "series_bytes": self.series,
            "series_max": self.series_max,
            "memory_bytes": self.memory,
            "memory_limit_bytes": memory_limit,
            "state_record_bytes": self.state_usual,
            "state_record_bytes_max": self.state_largest,
            "forecast_record_bytes": self.forecast_usual,
            "forecast_record_bytes_max": self.forecast_largest,
            "forecast_records_per_step": self.forecast_records,
            "ticks_per_second": ticks_s,
            "changelog_bytes_per_second": round(self.changelog_bytes_s(rate)),
            "changelog_for_ticks_per_second": rate,
            "checkpoint_interval_seconds": round(self.interval_s(rate), 1),
        }

    def lines(self, ticks_s: float | None, memory_limit: int) -> list[str]:
        """For people."""
        rate, at = (
            (RATE, "per 1,000 ticks/s") if ticks_s is None else (ticks_s, f"at the present {ticks_s:,.0f} ticks/s")
        )
        interval_s = self.interval_s(rate)
        why = "checkpoint.interval" if interval_s == self.checkpoint_s else "checkpoint.bytes_per_second"
        if self.checkpoint_s < interval_s == self.checkpoint_max_s:
            why = "checkpoint.interval_max"
        return [
            f"a series: {written(self.series)} of memory; {self.series_max:,} (series_max): {written(self.memory)} of "
            f"{written(memory_limit)}",
            f"a state record: {written(self.state_usual)}, at most {written(self.state_largest)}",
            f"a forecast record: about {written(self.forecast_usual)}, at most {written(self.forecast_largest)}"
            + (f"; {self.forecast_records} of them a step" if self.forecast_records > 1 else ""),
            f"changelog, a worker: at most {written(self.changelog_bytes_s(rate))}/s {at} "
            f"(a state for each series that spoke, every {interval_s:.3g} s: {why})",
            f"a restart replays up to {interval_s:.3g} s of the input, {rate * interval_s:,.0f} records, and what comes while "
            "a checkpoint is written",
        ]


def sizes_of(settings: Settings) -> Sizes:
    """Asks the table that this configuration leads to; with a network as `model` describes it."""
    spec = settings.stream_spec()
    # Not even one row of what no record can hold is made.
    row = record = sum(field.size for field in engine_fields(spec))
    if record <= ROW_BYTES_MAX:
        engine = Engine(replace(spec, series_max=1))
        engine.table.replace(Field("state", (state_numbers(settings),), np.float32))
        row, record = engine.table.row_bytes(), Snapshots(engine).record_bytes()
    least, usual, largest = _forecast_record(settings)
    return Sizes(
        series=row + NAME_BYTES,
        series_max=spec.series_max,
        state_usual=record,
        state_largest=record + settings.decode.series_bytes_max + ENVELOPE_BYTES + _held(spec),
        forecast_least=least,
        forecast_usual=usual,
        forecast_largest=largest + ENVELOPE_BYTES,
        forecast_records=len(spec.channels) * _steps_said(settings) if settings.output.layout == "flat" else 1,
        checkpoint_s=settings.checkpoint.interval / 1000,
        checkpoint_max_s=settings.checkpoint.interval_max / 1000,
        checkpoint_bytes_s=settings.checkpoint.bytes_per_second,
    )


def _steps_said(settings: Settings) -> int:
    """Steps ahead that a forecast says."""
    return len(settings.output.horizons or range(settings.horizon))


def _forecast_record(settings: Settings) -> tuple[int, int, int]:
    """Bytes of one forecast's record: (no smaller, mostly, no larger), the name of its series as long as is permitted."""
    spec, output, name = settings.stream_spec(), settings.output, settings.decode.series_bytes_max
    binary = output.format == "avro"
    if output.layout == "flat":
        # In headers: the input's topic, coordinates, the weights' id.
        longest = name + max(len(channel.encode()) for channel in spec.channels)
        around = len(settings.input) + 200 + name  # and the key
        if binary:
            return 40, 180, around + longest + 64
        return 100, 280, around + 6 * longest + 150 + 3 * text.NUMBER_BYTES
    numbers = len(spec.channels) * _steps_said(settings) * (1 + len(spec.quantiles))
    horizons = 5 * len(output.horizons or ())
    # Names, levels, brackets; a character may be written as `\uXXXX`.
    names = sum(6 * len(name) + 40 + 30 * len(spec.quantiles) for name in spec.channels)
    around = names + 6 * name + 600 + horizons
    if binary:
        return 8 * numbers, 8 * numbers + 100 + names // 6, 8 * numbers + around
    return numbers * NUMBER_LEAST, numbers * NUMBER_USUAL + 200, numbers * (text.NUMBER_BYTES + 1) + around


def state_numbers(settings: Settings) -> int:
    """Of a network as `model` describes it, for all channels."""
    with torch.device("meta"):  # no weights, and no random numbers drawn
        return len(settings.channels) * Network(settings.model_spec()).state_size


def _held(spec: StreamSpec) -> int:
    """Of the ticks that a series may hold back in steps that are not closed."""
    channels = len(spec.channels)
    # Without lateness a step of single values is closed by the next one: each channel once.
    waits = spec.lateness_ms > 0 or spec.within != "one"
    ticks = spec.pending_max if waits else min(spec.pending_max, channels)
    return ticks * (8 * channels + HELD_BYTES)


def needs_with_limits(needs: Sequence[TopicNeed], settings: Settings, sizes: Sizes) -> list[TopicNeed]:
    """The topics as they must be made: those whose largest record Kafka would not take by default with a limit of their
    own, and some room."""
    largest = {settings.topics.state: sizes.state_largest, settings.topics.forecasts: sizes.forecast_largest}
    return [
        replace(need, config={**need.config, "max.message.bytes": str(limit_for(largest[need.name]))})
        if largest.get(need.name, 0) > BATCH_BYTES
        else need
        for need in needs
    ]


def limit_for(largest: int) -> int:
    """A topic's max.message.bytes for records of this size, rounded up to a number that can be read."""
    step = 1 << 18
    return max(BATCH_BYTES, -(-largest // step) * step)


def refuse_impossible(settings: Settings, sizes: Sizes) -> None:
    """Raises TopicUnfit where no topic can be made to take the states."""
    if sizes.state_largest > ROW_BYTES_MAX:
        raise TopicUnfit(
            f"{settings.topics.state}: no topic takes a state record of {written(sizes.state_largest)}: "
            f"{written(ROW_BYTES_MAX)} at most. The configuration needs less of {shrinking(settings)}"
        )


def batch_records(spec: StreamSpec, output: OutputSpec = PLAIN) -> int:
    """Records that one batch may have so that its forecasts, as numbers and as text, stay within BATCH_MEMORY_BYTES. How
    ticks are cut into batches changes no result."""
    numbers = len(spec.channels) * spec.horizon * (1 + len(spec.quantiles))
    steps = len(output.horizons) or spec.horizon
    records = len(spec.channels) * steps * RECORD_MEMORY if output.layout == "flat" else 0
    return max(1, BATCH_MEMORY_BYTES // (numbers * NUMBER_MEMORY + records))


def shrinking(settings: Settings) -> str:
    """What makes a state record smaller, in the words of the configuration."""
    spec = settings.stream_spec()
    kept = [f"channels ({len(spec.channels)})", f"horizon ({spec.horizon})", f"quantiles ({len(spec.quantiles)})"]
    kept += [f"model.hidden ({settings.model.hidden})"]
    if settings.model.conv:
        kept.append(f"model.conv ({settings.model.conv})")
    if settings.model.cell == "wavenet":
        kept.append(f"model.trunk ({settings.model.trunk})")
    if spec.experts:
        kept.append(f"experts ({settings.expert_choice().kind})")
    if _held(spec) > _held(replace(spec, lateness_ms=0, within="one")):
        kept.append(f"pending_max ({spec.pending_max})")
    return ", ".join(kept)


def too_much_memory(settings: Settings, sizes: Sizes, limit: int) -> str:
    """What to say where `series_max` series take more than there is; "" where they do not."""
    if sizes.memory + PROCESS_BYTES <= limit:
        return ""
    fits, series = sizes.series_max, sizes.series
    # With `experts: auto` fewer series have more experts, and then fewer fit.
    while fits and fits * series + PROCESS_BYTES > limit:
        fits = max(0, (limit - PROCESS_BYTES) // series)
        series = sizes_of(settings.model_copy(update={"series_max": fits})).series if fits else series
    return (
        f"series_max={sizes.series_max} series of {written(sizes.series)} take {written(sizes.memory)} beside the process's "
        f"own {written(PROCESS_BYTES)}, and there are {written(limit)}: memory is taken as series come, so about {fits} fit. "
        f"Set series_max to that, give the process more, or spread the partitions over more workers"
    )


def written(size: float) -> str:
    """Bytes as people read them: 6.3 kB, 1.23 MB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 999.5 * factor else f"{size / factor:,.0f} {unit}"
    return f"{size:.0f} B"
