"""A state of one meaning as one of another: every column axis by axis, by the names of what lies along it.

What a column lacks starts as in a fresh row. Three things need more than a place along an axis:

Rings. A column over the last frames of a series has frame n at place n modulo its length; with another length each frame
moves to its new place (`FRAMES`, `KEPT`).

Pending offsets. The cells of a new horizon or level hold no forecast, but will be judged: the first frames that mature after
the change find a value to begin from. They get the offsets that a cold tracker would have put there: those of a normal
distribution around the last value, as wide as `kernels.forecast` guesses.

The recurrent state is of the numbers that the network was shown. Where these are no longer the same in the same places it is
dropped, and computed anew from the kept frames (`ring`), with a new channel as one that is missing, when the series is next
touched: that is what the network would have come to had the channel been there and silent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np

from streamrnn.kernels.features import FLOOR
from streamrnn.kernels.forecast import WIDE
from streamrnn.meaning import Change, Meaning
from streamrnn.records import F64, I64
from streamrnn.stream.table import Field

CHANNEL, LEVEL, HORIZON, CELL, FRAME, KEPT, INPUT, PLAIN = (
    "channel", "level", "horizon", "cell", "frame", "kept frame", "input", "plain",
)  # fmt: skip

# What lies along the axes of each column that has any. A column that is not named here and has another shape begins anew;
# `tests/stream/test_carrying.py` holds that every column with axes is named.
AXES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("last", "level", "level_spread", "move_scale", "fresh", "run", "still", "seen", "since"), (CHANNEL,)),
    **dict.fromkeys(("anchor", "carried", "fill_width"), (CHANNEL,)),
    "seen_range": (CHANNEL, PLAIN),
    "spread": (HORIZON, CHANNEL),
    "theta": (HORIZON, CHANNEL, LEVEL),
    "loss": (HORIZON, CHANNEL, PLAIN),
    "pend_base": (FRAME, CHANNEL),
    "pend_unit": (FRAME, CHANNEL),
    "pend_move": (CELL, CHANNEL),
    "pend_weight": (CELL, CHANNEL),
    "pend_off": (CELL, CHANNEL, LEVEL),
    "covariance": (CHANNEL, CHANNEL),
    "ring": (KEPT, INPUT),
}  # fmt: skip
# Decided by what a network is shown, not by an axis.
RECURRENT, GENERATION = "state", "generation"


def carried(name: str, values: Any, steps: I64, field: Field, change: Change) -> Any:
    """A column [row, …] of the meaning before in the shape that `field` has now. `steps` [row]: frames a series has had.

    The column is a fresh one where what lies along its axes is not known.
    """
    axes = AXES.get(name)
    made = np.empty((len(values), *field.shape), dtype=np.dtype(field.dtype).newbyteorder("<"))
    made[:] = field.fill
    if axes is None or len(axes) != len(field.shape) or len(axes) != values.ndim - 1:
        if values.shape == made.shape and not field.shape:
            made[:] = values
        return made
    if (
        name == "fill_width"
        and change.before.quantiles[:: len(change.before.quantiles) - 1 or 1]
        != (change.now.quantiles[:: len(change.now.quantiles) - 1 or 1])
    ):
        return made  # it widens the outermost interval, which is another one
    fill = np.nan if axes[0] == KEPT else field.fill  # a frame that is not kept is one in which nothing came
    made[:] = fill
    if axes[0] in (FRAME, KEPT):
        values = _turned(values, steps, field.shape[0], fill)
    maps = [_places(axis, values.shape[k + 1], field.shape[k], change) for k, axis in enumerate(axes)]
    to = [np.flatnonzero(places >= 0) for places in maps]
    whose = [places[places >= 0] for places in maps]
    rows = np.arange(len(values))
    made[np.ix_(rows, *to)] = values[np.ix_(rows, *whose)]
    if axes[-1] == INPUT:  # only moves and deviations can be missing
        rest = made[..., 2 * len(change.now.channels) :]
        rest[np.isnan(rest)] = 0.0
    return made


def _turned(values: Any, steps: I64, now: int, fill: float) -> Any:
    """A ring over the last frames, each frame at the place that it has in a ring of `now` frames."""
    before = values.shape[1]
    if before == now:
        return values
    made = np.full((len(values), now, *values.shape[2:]), fill, dtype=values.dtype)
    for back in range(1, min(before, now) + 1):
        frame = steps - back
        rows = np.flatnonzero(frame >= 0)
        made[rows, frame[rows] % now] = values[rows, frame[rows] % before]
    return made


def _places(axis: str, before: int, now: int, change: Change) -> I64:
    """For each place along an axis of now, the one that it was at before, or −1."""
    if axis == CHANNEL:
        named: Sequence[int] = change.channels
    elif axis == LEVEL:
        named = change.levels
    elif axis == INPUT:
        named = _inputs(change)
    else:
        named = range(min(before, now))
    places: I64 = np.full(now, -1, dtype=np.int64)
    count = min(now, len(named))
    places[:count] = list(named[:count])
    places[places >= before] = -1
    return places


def _inputs(change: Change) -> list[int]:
    """Along a network's input row: moves and deviations of the channels, the time passed, two numbers a calendar feature."""
    channels, before = change.channels, len(change.before.channels)
    places = [*channels, *(before + c if c >= 0 else -1 for c in channels), 2 * before]
    for place in change.calendar:
        at = 2 * before + 1 + 2 * place
        places += [at, at + 1] if place >= 0 else [-1, -1]
    return places


def cold_offsets(made: Any, change: Change, horizon_before: int) -> None:
    """Puts the offsets of a cold tracker where a new horizon or a new level has none; `made` are rows with all else carried."""
    offsets = made["pend_off"]  # [row, cell, channel, level]
    horizon = made["spread"].shape[1]
    if horizon <= horizon_before and all(place >= 0 for place in change.levels):
        return
    normal: F64 = np.array([NormalDist().inv_cdf(level) for level in change.now.quantiles])
    size = np.maximum(made["move_scale"].astype(np.float64), FLOOR * np.abs(made["last"]))  # [row, channel]
    new = [q for q, place in enumerate(change.levels) if place < 0]
    for h in range(horizon):
        cells = slice(h * (h + 1) // 2, (h + 1) * (h + 2) // 2)
        which = list(range(len(normal))) if h >= horizon_before else new
        if not which:
            continue
        known = made["spread"][:, h].astype(np.float64)
        sigma = np.where(known > 0.0, known, WIDE * size * np.sqrt(h + 1.0))
        for q in which:
            offsets[:, cells, :, q] = _bits(normal[q] * sigma)[:, None, :]


def _bits(values: F64) -> Any:
    """See kernels.forecast.to_bits."""
    return ((values.astype(np.float32).view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint16)


def carried_ticks(
    held: bytes, change: Change, ts_unit_us: int, step_of: Callable[[int], int], closed: int
) -> tuple[bytes, int]:
    """Ticks held back in open steps, with their values by channels of now, in the steps they belong to now; and how many of
    them are lost, because their step (`step_of` a time in microseconds) is not behind the `closed` one.

    `ts_unit_us`: 1000 where times were written in milliseconds. Raises ValueError where these are no ticks.
    """
    try:
        kept = msgspec.msgpack.decode(held, type=list[tuple[int, list[tuple[int, int, bytes]]]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error
    to = {place: c for c, place in enumerate(change.channels) if place >= 0}
    made: dict[int, list[tuple[int, int, bytes]]] = {}
    lost = 0
    for _, ticks in kept:
        for ts, channel, packed in ticks:
            values = np.frombuffer(packed, dtype=np.float64)
            if len(values) != len(change.before.channels) or abs(ts) >= 1 << 52:
                raise ValueError("not ticks of this stream")
            mine: F64 = np.array([values[place] if place >= 0 else np.nan for place in change.channels])
            if np.isnan(mine).all() or (channel >= 0 and channel not in to):
                continue  # of channels that are no more
            step = step_of(ts * ts_unit_us)
            if step <= closed:
                lost += 1
                continue
            made.setdefault(step, []).append(
                (ts * ts_unit_us, to[channel] if channel >= 0 else channel, mine.tobytes())
            )
    return (msgspec.msgpack.encode(sorted(made.items())) if made else b""), lost


def inferred(columns: Mapping[str, tuple[int, ...]], own: Meaning) -> Meaning | None:
    """What states mean that say nothing of it (earlier versions wrote none), by the shapes of their columns.

    They are taken for this configuration's as far as their shapes agree with it; None where they have another number of
    channels, which cannot be told by name.
    """
    theta, last = columns.get("theta"), columns.get("last")
    if theta is None or last is None or len(theta) != 3 or last != (len(own.channels),) or theta[1] != last[0]:
        return None
    horizon, _, levels = theta
    quantiles = own.quantiles if levels == len(own.quantiles) else tuple(-1.0 - level for level in range(levels))
    return own if horizon == own.horizon and quantiles is own.quantiles else _with(own, horizon, quantiles)


def _with(own: Meaning, horizon: int, quantiles: tuple[float, ...]) -> Meaning:
    return msgspec.structs.replace(own, horizon=max(1, horizon), quantiles=quantiles)
