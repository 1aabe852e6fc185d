"""What a deployment is about, as plain frozen values that every floor may read.

The configuration file (floor 4) is turned into these once; nothing below ever sees YAML, environment
variables or defaults chosen elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamrnn.calendar import Align, CalendarStep, StepGrid, step_grid
from streamrnn.season import Season

Within = Literal["one", "last", "mean", "sum"]
Cell = Literal["rnn", "gru", "lstm", "gru-d", "wavenet"]
Head = Literal["sequence", "vector", "iterated", "encoder-decoder"]
Complete = Literal["record", "channels"]
Duplicates = Literal["keep", "refuse"]
Layout = Literal["nested", "flat"]
OutputFormat = Literal["json", "avro", "json-schema"]
# What a series can be forecast by beside its last value and the network, which are always there.
EXPERTS = ("season-ago", "profile", "moves", "deviations", "stack")

DAY_MS = 86_400_000
# Thirty years: seconds that are read as milliseconds are in 1970, and what a deployment replays is seldom older.
PAST_MAX_MS = 30 * 365 * DAY_MS


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """How forecasts and imputations are written. `horizons`: the steps ahead that a forecast says, from 1 on; empty: all."""

    layout: Layout = "nested"
    horizons: tuple[int, ...] = ()
    format: OutputFormat = "json"


PLAIN = OutputSpec()


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """The event-time grid, the channels and the bounds of one stream.

    `step_ms == 0` means irregular: every tick is a step. All times are milliseconds. `calendar_step` makes days, weeks,
    months or years of a time zone the steps; `step_ms` is then their mean length.
    """

    channels: tuple[str, ...]
    step_ms: int
    horizon: int
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95)
    within: Within = "one"
    lateness_ms: int = 0
    idle_after_ms: int = 60_000
    gap_max: int = 64
    future_max_ms: int = 60_000
    warm_up: int = 64
    series_max: int = 10_000
    # Ticks a series may hold back in steps not yet closed (`lateness` > 0, long records, aggregation).
    pending_max: int = 1024
    # Periods, in ms, whose phase the network is shown as sine and cosine (calendar features).
    calendar_ms: tuple[int, ...] = ()
    # Every n-th step of a series is forecast (on the grid: steps whose number divides by n).
    forecast_every: int = 1
    # The imputed topic carries the complete series, not only the steps with something filled.
    impute_all: bool = False
    # Decay per step of the running scale of differences, and of the running level and its spread.
    scale_decay: float = 0.99
    level_decay: float = 0.999
    calendar_step: CalendarStep | None = None
    # The zone whose local time the calendar features follow.
    timezone: str = "UTC"
    # floor: a tick belongs to the step it lies in; nearest: to the step whose begin is nearest.
    align: Align = "floor"
    # record: a wide record is its whole step; channels: several records with disjoint channels make one step.
    complete: Complete = "record"
    # With `within` last, mean or sum: whether ticks of equal time and channel are different events.
    duplicates: Duplicates = "keep"
    # A tick so far before its record's Kafka timestamp has a time in another unit, or none.
    past_max_ms: int = PAST_MAX_MS
    # What repeats, the shortest first; at most two.
    seasons: tuple[Season, ...] = ()
    # Of EXPERTS, in their order.
    experts: tuple[str, ...] = EXPERTS

    def grid(self) -> StepGrid:
        """Numbers and begins of the stream's steps."""
        return step_grid(self.step_ms, self.calendar_step, self.align)

    @property
    def irregular(self) -> bool:
        return self.step_ms == 0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The network's shape: everything needed to build it before its weights are loaded.

    `inputs` names what it is shown of each channel, `rungs` the horizons that it speaks of. `trunk`: width of the two layers
    before the recurrent ones.
    """

    inputs: tuple[str, ...]
    rungs: tuple[int, ...]
    cell: Cell = "gru"
    trunk: int = 128
    hidden: int = 32
    layers: int = 1
    layer_norm: bool = False
    dropout: float = 0.3
    conv: int = 0  # taps of a causal convolution before the recurrent layers; 0: none
    head: Head = "sequence"
