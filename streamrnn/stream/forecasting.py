"""What forecasting keeps per series, and the settings that its kernels are given: one place for the shapes of both.

Which experts a stream has decides which columns have room (`StreamSpec.experts`, of those that its seasons permit).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrnn.durations import format_ms
from streamrnn.kernels import remainder
from streamrnn.kernels.columns import (
    DEVIATIONS,
    EXPERTS,
    LEVELS,
    MOVES,
    PERSISTENCE,
    PROFILE,
    SEASON_AGO,
    STACK,
    Ladder,
    Plan,
    Seasons,
    cells_of,
    ladder_of,
    rungs_of,
    tracking_of,
)
from streamrnn.kernels.experts import deviations, mixing, moves, ridge, stack
from streamrnn.kernels.grid import NEVER
from streamrnn.kernels.rowviews import FIELDS, Shape
from streamrnn.kernels.scratch import Settings
from streamrnn.records import F32, F64, I64, U8
from streamrnn.season import Season
from streamrnn.spec import EXPERTS as EXPERT_NAMES
from streamrnn.spec import StreamSpec
from streamrnn.stream.table import Field, SeriesTable

# Beyond this many channels nothing is kept that grows with their square: neither the covariance that corrects fills by the
# other channels (16 channels: 1 KiB a series) nor the linear experts' look at them.
CROSS_CHANNELS_MAX = 16

# Upper half of a float32 that is no number.
NO_NUMBER = 0x7FC0

NAMES = {"season-ago": SEASON_AGO, "profile": PROFILE, "moves": MOVES, "deviations": DEVIATIONS, "stack": STACK}


def season_steps(spec: StreamSpec, season: int) -> int:
    """Steps in a season, about."""
    found = spec.seasons[season]
    return found.lag or max(1, round(found.cells / found.per_step))


def usable_experts(names: Sequence[str], seasons: Sequence[Season]) -> tuple[str, ...]:
    """Those of these experts that have something to say: none that follows a season where there is none, and "a season ago"
    only where the first one is a whole number of steps. Deviations are those from a profile, and a stack is one of others."""
    wanted = {NAMES[name] for name in names}
    if not seasons:
        wanted -= {SEASON_AGO, PROFILE, DEVIATIONS}
    elif not seasons[0].lag:
        wanted -= {SEASON_AGO}
    if DEVIATIONS in wanted:
        wanted |= {PROFILE}
    if not wanted & {MOVES, DEVIATIONS}:
        wanted -= {STACK}
    return tuple(name for name in EXPERT_NAMES if NAMES[name] in wanted)


def experts_of(spec: StreamSpec) -> set[int]:
    """The experts that a stream has, beside persistence."""
    return {NAMES[name] for name in usable_experts(spec.experts, spec.seasons)}


def used_experts(spec: StreamSpec) -> list[int]:
    """The experts in the order in which losses and weights are kept."""
    return sorted(experts_of(spec) | {PERSISTENCE})


def kept_experts(spec: StreamSpec) -> list[int]:
    """Those whose moves are kept until their targets come; what the others said is seen from the history."""
    return [expert for expert in used_experts(spec) if expert not in (PERSISTENCE, SEASON_AGO)]


def inputs_of(spec: StreamSpec) -> list[str]:
    """What a network is shown of each channel, by name."""
    experts, cross = used_experts(spec), len(spec.channels) <= CROSS_CHANNELS_MAX
    seasonal = [season.name for season in spec.seasons] if {PROFILE, SEASON_AGO} & set(experts) else []
    calendar = [format_ms(period) for period in spec.calendar_ms]
    return remainder.input_names(spec.channels, rungs_of(spec.horizon), experts, seasonal, calendar, cross)


def lags_of(spec: StreamSpec) -> list[int]:
    """Steps of the seasons."""
    return [season.lag for season in spec.seasons if season.lag]


def ring_of(spec: StreamSpec) -> int:
    """Frames whose values are kept."""
    experts, horizon = experts_of(spec), spec.horizon
    frames = horizon + (moves.LAGS if experts & {MOVES, DEVIATIONS} else 0) + 2
    if SEASON_AGO in experts:
        lag = spec.seasons[0].lag
        frames = max(frames, lag * -(-horizon // lag) + 2)
    return frames


def forecast_fields(spec: StreamSpec) -> list[Field]:
    """The columns of a stream, a row of each per series."""
    channels, horizon, levels = len(spec.channels), spec.horizon, len(spec.quantiles)
    experts = experts_of(spec)
    rungs, cells = len(rungs_of(horizon)), sum(cells_of(horizon, lags_of(spec)))
    correlated = channels if 1 < channels <= CROSS_CHANNELS_MAX else 0
    cross = channels <= CROSS_CHANNELS_MAX
    linear, seasonal, deviating = bool(experts & {MOVES, DEVIATIONS}), PROFILE in experts, DEVIATIONS in experts
    x = ring_of(spec)
    ring = horizon + deviations.LAGS + 2 if deviating else 0
    bins = sum(season.bins for season in spec.seasons) if seasonal else 0
    kept = len(kept_experts(spec))
    p = moves.features(channels, cross) if MOVES in experts else 0
    q = deviations.features(channels, cross) if deviating else 0
    members = (stack.TRIANGLE, stack.MEMBERS) if STACK in experts else (0, 0)
    nan = float("nan")
    f32 = np.float32
    # Columns for which the same numbers are possible (`stream.snapshot`) lie side by side, so that many are looked at at once.
    return [
        Field("anchor", (channels,), np.float64, nan),
        Field("born", (channels,), np.int64, -1),
        Field("unbroken", (), np.int64),
        Field("frame_step", (), np.int64, NEVER),
        Field("missed", (), np.int64, -1),
        # the history
        Field("x", (channels, x), f32),
        Field("deviation", (channels, ring), f32),
        Field("phases", (horizon + 1 if deviating else 0, len(spec.seasons)), f32),
        Field("profile", (channels, bins), f32),
        Field("means", (channels, 2, LEVELS if MOVES in experts else 0), f32),
        Field("deviation_means", (channels, 2, LEVELS if deviating else 0), f32),
        Field("next_move", (channels,), f32),
        Field("level_theta", (channels, rungs, levels), f32),
        Field("covariance", (correlated, correlated), f32),
        # the equations of linear experts and of the stack, and the guard's
        Field("moves_gram", (channels, ridge.packed(p)), f32),
        Field("moves_right", (channels, rungs, p), f32),
        Field("deviations_gram", (channels, ridge.packed(q)), f32),
        Field("deviations_right", (channels, rungs, q), f32),
        Field("stack_gram", (channels, rungs, members[0]), f32),
        Field("stack_right", (channels, rungs, members[1]), f32),
        Field("slope", (channels, rungs, 2), f32),
        Field("week", (channels, 3 if len(spec.seasons) > 1 and seasonal else 0), f32),
        Field("error_last", (channels, rungs), f32),
        Field("error_means", (channels, rungs, 2), f32),
        Field("network_worth", (channels, rungs, 2), f32),
        # their solutions
        Field("moves_weights", (channels, p, rungs), f32),
        Field("deviations_weights", (channels, q, rungs), f32),
        Field("stack_weight", (channels, rungs, members[1]), f32),
        # sizes
        Field("unit", (channels,), f32),
        Field("sizes", (channels, 3 if linear or seasonal else 0), f32),
        Field("moves_seen", (channels, 3 if p else 0), f32),
        Field("deviations_seen", (channels, 3 if q else 0), f32),
        Field("losses", (channels, rungs, 1 + len(experts)), f32),
        Field("weight", (channels, rungs, 2 + len(experts)), f32),
        Field("move_size", (channels, rungs), f32),
        Field("error_size", (channels, rungs), f32),
        Field("energy", (channels, rungs, 2), f32),
        Field("sigma", (channels, rungs), f32),
        Field("standing", (channels, rungs), f32),
        Field("quick", (channels,), f32),
        Field("one_step", (channels,), f32),
        Field("swing", (channels,), f32),
        Field("doubt", (channels,), f32),
        # what waits for its target, and fills
        Field("pend_mean", (channels, cells), f32, nan),
        Field("seen_range", (channels, 2), f32, nan),
        Field("fill_widths", (channels, 2), f32),
        Field("visits", (channels, bins), np.uint16),
        Field("pend_raw", (channels, cells), np.uint16),
        Field("pend_moves", (channels, cells, kept), np.uint16),
        Field("pend_said", (channels, cells), np.uint16, NO_NUMBER),
        Field("pend_added", (channels, cells), np.uint16),
        Field("pend_offsets", (channels, cells, levels), np.uint16),
        Field("known", (channels, -(-x // 8) if linear else 0), np.uint8),
        Field("ends", (channels, 2), np.uint8),
    ]


def shape_of(spec: StreamSpec, table: SeriesTable) -> tuple[U8, Shape]:
    """(bytes of the rows, what lies where in one), for the kernels; to be made anew when the table's arrays have moved."""
    column = table.columns
    block = next(block for block in table.blocks if "x" in block.columns)
    at: I64 = np.array([block.place(name) for name in FIELDS], dtype=np.int64)

    def length(name: str, axis: int) -> int:
        return int(column[name].shape[axis])

    return block.rows, Shape(
        at, block.size, len(spec.channels), length("x", 2), length("known", 2), length("deviation", 2), length("phases", 1),
        length("phases", 2), length("profile", 2), length("means", 3), length("deviation_means", 3), length("sizes", 2),
        length("week", 2),
        length("moves_right", 3), length("moves_gram", 2), length("moves_seen", 2),
        length("deviations_right", 3), length("deviations_gram", 2), length("deviations_seen", 2),
        length("losses", 2), length("losses", 3), length("stack_right", 3), length("stack_gram", 3), length("pend_mean", 2),
        length("pend_moves", 3), length("pend_offsets", 3), length("covariance", 1),
    )  # fmt: skip


def settings_of(spec: StreamSpec) -> Settings:
    """What is settled with the stream's settings."""
    experts = experts_of(spec)
    ladder = ladder_of(spec.horizon, lags_of(spec), mixing.DISCOUNT, mixing.FADE)
    seasonal = PROFILE in experts or SEASON_AGO in experts
    found = spec.seasons if seasonal else ()
    bins: I64 = np.array([season.bins for season in found], dtype=np.int64)
    per_step: F64 = np.array([season.per_step for season in found], dtype=np.float64)
    seasons = Seasons(
        bins,
        np.array([season.cells for season in found], dtype=np.int64),
        per_step,
        np.array([season.lag for season in found], dtype=np.int64),
        np.cumsum(bins) - bins,
        any(season.keyed for season in found),
    )
    tracking = tracking_of(spec.quantiles, ladder)
    credit: F32 = np.zeros((len(ladder.h), 2), dtype=np.float32)
    return Settings(ladder, seasons, _plan(spec, experts, ladder), tracking, not spec.irregular, credit)


def _plan(spec: StreamSpec, experts: set[int], ladder: Ladder) -> Plan:
    horizon = spec.horizon
    used, waiting = used_experts(spec), kept_experts(spec)
    place: I64 = np.full(EXPERTS, -1, dtype=np.int64)
    place[used] = np.arange(len(used))
    kept: I64 = np.full(EXPERTS, -1, dtype=np.int64)
    kept[waiting] = np.arange(len(waiting))
    season = season_steps(spec, 0) if spec.seasons else 0
    wakes: I64 = np.zeros(EXPERTS, dtype=np.int64)
    wakes[[SEASON_AGO, PROFILE]] = season
    wakes[MOVES], wakes[DEVIATIONS], wakes[STACK] = horizon + 16, season + horizon + 16, horizon + 32
    members: I64 = np.array([expert for expert in used if expert not in (PERSISTENCE, STACK)], dtype=np.int64)
    return Plan(place, kept, wakes, members, len(spec.channels) <= CROSS_CHANNELS_MAX)
