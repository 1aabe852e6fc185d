"""From ticks and network outputs to calibrated forecasts: one pass over frames, series by series.

The order within a frame is what keeps the numbers honest:

1. Score (`score`): forecasts whose target is this frame's value are compared with it. That moves the losses by which experts
   are weighed, the stack, the guard (`experts.mixing`), and the quantiles (`intervals`) of their rung.
2. Fill (`filling`): a channel that did not come gets its forecast, corrected by those that came.
3. Learn (`learn`): values enter the history; the linear experts take in the frame that is a horizon old, whose labels are
   all there now.
4. Forecast (`say`): the experts speak, are mixed, quantiles are put around the mean; what waits for its target is kept.

Everything is kept per series and channel, in float32, in units of the channel's own scale (see `columns`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from streamrnn.kernels import filling as fills
from streamrnn.kernels import inlined, inner, lean, remainder
from streamrnn.kernels import network as networks
from streamrnn.kernels.columns import (
    DEVIATIONS,
    EXPERTS,
    MOVES,
    PROFILE,
    SEASON_AGO,
    STACK,
    Frames,
    Ladder,
    Mixture,
    Real,
    Regression,
    from_bits,
    to_bits,
    within,
)
from streamrnn.kernels.experts import deviations, mixing, moves, ridge, stack
from streamrnn.kernels.experts.history import (
    ANCHOR_COARSEST,
    ANCHOR_FINEST,
    ANCHOR_REACH,
    X_MAX,
    fits,
    forgotten,
    is_known,
    move_anchor,
    power_of_two,
    take_in,
)
from streamrnn.kernels.experts.profile import levels as levels_of
from streamrnn.kernels.experts.season_ago import season_ago
from streamrnn.kernels.features import REST
from streamrnn.kernels.intervals import SHRINK, SPREAD_FLOOR, opened, track
from streamrnn.kernels.network import Lanes, Layers
from streamrnn.kernels.rowviews import Shape, State, series_row
from streamrnn.kernels.scratch import Given, Rooms, Scratch, Settings, in_room, scratch_at, settings_at
from streamrnn.records import F32, F64, I64, Bool

SAID_MAX = np.float32(5.0)  # in usual errors: a network says no more
WEIGHTS_MAX = np.float32(1e12)  # of linear experts, together: more is learnt from no numbers
NO_NUMBER, NOTHING = np.uint16(0x7FC0), np.uint16(0)  # upper halves of float32
LABEL_CLIP = np.float32(10.0)  # in usual moves over the rung: the label of the expert of moves


class Network(NamedTuple):
    """The network in use (`layers` of no size: none), the recurrent `state` [row, channel · hidden] of the table, and whether
    what it is shown is computed at all: for itself (`speaks`) or to be `recorded`."""

    layers: Layers
    lanes: Lanes
    state: F32
    speaks: bool
    recorded: bool


class Recorded(NamedTuple):
    """What a network is trained on, [frame, channel, ...]; of no size where nothing is recorded. What it is shown (`seen`
    [.., input]), the `base` move and the `size` of its errors at the rungs, both in scales, and where the moves begin (`origin`,
    in scales from the frame's `base`)."""

    seen: F32
    base: F32
    size: F32
    origin: F32


class Written(NamedTuple):
    """Outputs: `mean` [row, channel, horizon], `quantiles` [row, channel, level, horizon], fills [row, channel]."""

    mean: F64
    quantiles: F64
    fill_value: F64
    fill_lower: F64
    fill_upper: F64
    filled: Bool


class Matured(NamedTuple):
    """Sums over what matured: see `records.Scores`."""

    total: I64
    abs_error: F64
    abs_persistence: F64
    abs_network: F64
    count_network: I64
    abs_base_network: F64
    below: I64
    inside: I64


@inner
def _begin_anew(c: int, regression: Regression) -> None:
    regression.gram[c] = 0.0
    regression.right[c] = 0.0
    regression.weights[c] = 0.0
    regression.seen[c] = 0.0


@inlined
def _usable(weights: F32) -> bool:
    """Whether a solution holds numbers: from equations that a foreign record brought it need not."""
    total = np.float32(0.0)
    for j in range(weights.shape[0]):
        for r in range(weights.shape[1]):
            total += abs(weights[j, r])
    return bool(total < WEIGHTS_MAX)


@inner
def _forget(c: int, n: int, address: int, shape: Shape) -> None:
    """Begins a channel with frame n: nothing of what was is used any more, but how its errors were."""
    state = series_row(address, shape)
    forgotten(c, n, state.history)
    for regression in (state.moves, state.deviations):
        _begin_anew(c, regression)
    mixture, pending = state.mixture, state.pending
    mixture.loss[c] = 0.0
    mixture.weight[c] = 0.0
    mixture.size[c] = 0.0
    mixture.energy[c] = 0.0
    mixture.slope[c] = 0.0
    mixture.stack_gram[c] = 0.0
    mixture.stack_right[c] = 0.0
    mixture.stack_weight[c] = 0.0
    pending.mean[c] = np.nan
    pending.next[c] = 0.0
    errors = state.errors
    errors.size[c] = 0.0
    errors.last[c] = 0.0
    errors.means[c] = 0.0
    errors.worth[c] = 0.0
    state.filling.error[c] = 0.0
    state.filling.swing[c] = 0.0
    state.filling.doubt[c] = 0.0


@inner
def _arrive(i: int, frames: Frames, address: int, shape: Shape, given: Given) -> None:
    """Writes each channel's value in its own numbers to `x`, whether it `came`, and whether it was ever `seen`."""
    n = frames.number[i]
    state, settings, scratch = series_row(address, shape), settings_at(given, shape), scratch_at(given, shape)
    x, came, seen = scratch.x, scratch.came, scratch.seen
    history, filling = state.history, state.filling
    # Frames to come are none that a channel was born with, whatever a foreign record says.
    history.unbroken[0] = min(history.unbroken[0], n)
    filling.missed[0] = min(filling.missed[0], n)
    if settings.regular and history.step[0] + 1 != frames.step[i]:
        history.unbroken[0] = n
    history.step[0] = frames.step[i]
    for c in range(x.shape[0]):
        base, value = frames.base[i, c], frames.values[i, c]
        x[c] = np.float32(np.nan)
        came[c] = value == value
        seen[c] = 0
        if base != base:
            continue
        seen[c] = 1
        scale = np.float64(frames.scale[i, c])
        nowhere = history.anchor[c] != history.anchor[c]
        if nowhere or not 0 <= history.born[c] < n or not fits(c, n, scale, frames.rest[i, c] <= REST, history):
            _forget(c, n, address, shape)
            if nowhere:
                history.anchor[c] = base
                filling.reach[c] = np.float32(np.nan)
            move_anchor(c, base, history, filling, settings.seasons)
        if scale > 0.0:
            if history.unit[c] == 0.0:
                history.unit[c] = power_of_two(scale)
            unit = np.float64(history.unit[c])
            reach = ANCHOR_REACH * min(max(scale, ANCHOR_FINEST * unit), ANCHOR_COARSEST * unit)
            before = np.float64(history.x[c, (n - 1) % history.x.shape[1]]) * unit
            # A spike is no reason: twice in a row it is a level.
            if abs(base - history.anchor[c]) > reach and abs(before) > reach:
                if not abs(base - history.anchor[c]) < X_MAX * unit:
                    # So far away that nothing of what was there has a digit left.
                    _forget(c, n, address, shape)
                move_anchor(c, base, history, filling, settings.seasons)
        if came[c]:
            away = value - history.anchor[c]
            unit = np.float64(history.unit[c])
            x[c] = within(np.float32(away / unit), X_MAX) if unit > 0.0 else np.float32(0.0)
            near = np.float32(away)
            for k in range(2):
                fills.note_end(c, k, near, filling)


@inlined
def _places(n: int, length: int, ladder: Ladder, due: I64, cell: I64, newest: I64, origin: I64, turn: I64) -> None:
    """By rung, for all channels of frame n: whether a forecast matures (`due`), in which `cell`; the cell of its newest one;
    where its `origin` lies in a ring of `length` frames; the number of the newest one."""
    for r in range(ladder.h.shape[0]):
        h, stride, cells, begin = ladder.h[r], ladder.stride[r], ladder.cells[r], ladder.begin[r]
        since = n - h
        if stride == 1:
            due[r], turn[r] = 1, n
            cell[r] = begin + since % cells
            newest[r] = begin + (n - 1) % cells
        else:
            number = since // stride
            due[r] = 1 if number * stride == since else 0
            turn[r] = n // stride
            cell[r] = begin + number % cells
            newest[r] = begin + ((n - 1) // stride) % cells
        origin[r] = since % length


@inner
def _score(i: int, frames: Frames, address: int, shape: Shape, given: Given, matured: Matured) -> None:
    n = frames.number[i]
    state, settings, scratch = series_row(address, shape), settings_at(given, shape), scratch_at(given, shape)
    ladder, plan, tracking = settings.ladder, settings.plan, settings.tracking
    history, pending, mixture, calibration = state.history, state.pending, state.mixture, state.calibration
    said, place, kept = scratch.said, plan.place, plan.kept
    due, cell, newest, at = scratch.due, scratch.cell, scratch.newest, scratch.origin
    levels = tracking.level.shape[0]
    ago = place[SEASON_AGO] >= 0
    lag = settings.seasons.lag[0] if ago else 0
    for c in range(scratch.x.shape[0]):
        if scratch.seen[c] == 0 or not scratch.came[c]:
            continue
        ring = history.x[c]
        since = max(history.born[c], history.unbroken[0])
        unit, size = np.float64(history.unit[c]), np.float64(frames.scale[i, c])
        per_size = 1.0 / size if size > 0.0 else 0.0
        x, age = scratch.x[c], n - history.born[c]
        now = history.sizes[c, 0] if history.sizes.shape[1] > 0 else np.float32(0.0)
        quiet = np.float32((size / unit) ** 2) if unit > 0.0 else np.float32(0.0)
        if now > np.float32(0.0) and x != ring[(n - 1) % ring.shape[0]]:
            history.sizes[c, 0] *= mixing.hurried(now, quiet)
            now = history.sizes[c, 0]
        before, still = np.float64(frames.age_before[i, c]), frames.rest[i, c]
        for r in range(ladder.h.shape[0]):
            h = ladder.h[r]
            mean = pending.mean[c, cell[r]]
            if due[r] == 0 or n - h < since or mean != mean:
                continue
            y = x - ring[at[r]]
            waited = pending.moves[c, cell[r]]
            said[0] = np.float32(0.0)
            if ago:
                said[SEASON_AGO] = season_ago(ring, n - h, h, lag, since)
            for k in range(PROFILE, EXPERTS):
                if kept[k] >= 0:
                    said[k] = from_bits(waited[kept[k]])
            says, added = from_bits(state.errors.said[c, cell[r]]), from_bits(state.errors.added[c, cell[r]])
            if age >= h + mixing.FIRST:
                mixing.score(
                    r, age, h, ladder.stride[r], scratch.turn[r], ladder.discount[r], ladder.fade[r], now, quiet, y,
                    said, from_bits(pending.raw[c, cell[r]]), mixture.loss[c, r], mixture.size[c], mixture.energy[c],
                    mixture.slope[c], mixture.stack_gram[c, r], mixture.stack_right[c, r], mixture.stack_weight[c, r],
                    place, plan.members, plan.wakes, scratch.work,
                )  # fmt: skip
                remainder.learn(
                    r, ladder.stride[r], (age - mixing.FIRST - h) // ladder.stride[r] + 1,
                    np.float32(ladder.fade[r] * ladder.fade[r]), y - mean, says, state.errors.size[c], state.errors.last[c],
                    state.errors.means[c], state.errors.worth[c],
                )  # fmt: skip
            error = np.float64(y - mean - added) * unit
            naive = np.float64(y) * unit * per_size
            matured.total[c, h - 1] += 1
            matured.abs_error[c, h - 1] += abs(error) * per_size
            matured.abs_persistence[c, h - 1] += abs(naive)
            if says == says:
                matured.count_network[c, h - 1] += 1
                matured.abs_network[c, h - 1] += abs(error) * per_size
                matured.abs_base_network[c, h - 1] += abs(np.float64(y - mean) * unit) * per_size
            hits = track(
                r, h, ladder.stride[r], pending.offsets[c, cell[r]], pending.offsets[c, newest[r]], error, size, before,
                scratch.noise[c], still,
                calibration.theta[c, r], calibration.sigma[c], calibration.standing[c], calibration.quick[c], tracking,
                matured.below[c, h - 1],
            )  # fmt: skip
            if 0 < hits < levels:
                matured.inside[c, h - 1] += 1


@inner
def _learn(i: int, frames: Frames, address: int, shape: Shape, given: Given) -> None:
    """The linear experts take in the frame that is a horizon old."""
    n = frames.number[i]
    state, settings, scratch = series_row(address, shape), settings_at(given, shape), scratch_at(given, shape)
    ladder, plan, history, seasons = settings.ladder, settings.plan, state.history, settings.seasons
    rungs, horizon, channels = ladder.h.shape[0], ladder.share.shape[0], scratch.x.shape[0]
    origin = n - horizon
    if origin < history.unbroken[0]:
        return
    length, labels, sizes = history.x.shape[1], scratch.labels, state.mixture.size
    at, ring = scratch.label_at, history.deviation.shape[1]
    for r in range(rungs):
        at[r] = (origin + ladder.h[r]) % length
    here = origin % length
    for expert in range(MOVES, DEVIATIONS + 1):
        if plan.place[expert] < 0:
            continue
        moving = expert == MOVES
        regression = state.moves if moving else state.deviations
        if not moving:
            phases = history.phases
            deviations.waves(np.float64(phases[origin % phases.shape[0], 0]), seasons.cells[0], scratch.wave_ago)
        features = scratch.features[: regression.right.shape[2]]
        for c in range(channels):
            samples = origin - history.born[c]
            if scratch.seen[c] == 0 or samples < 0 or (rungs == 1 and not is_known(history, c, at[0])):
                continue
            if moving:
                moves.look(c, here, 1, plan.cross, history, features)
            else:
                samples -= plan.wakes[PROFILE]
                if samples < 0:
                    continue
                deviations.look(c, here, origin % ring, 1, plan.cross, scratch.wave_ago, history, features)
            weights = regression.weights[c]
            x = history.x[c, here]
            missed, odd = False, ridge.ABSURD
            for r in range(rungs):
                usual = sizes[c, r]
                if not is_known(history, c, at[r]):
                    missed = True
                if moving:
                    y = history.x[c, at[r]] - x
                    if usual > np.float32(0.0):
                        y = within(y, LABEL_CLIP * np.sqrt(usual))
                else:
                    y = deviations.label(c, origin, ladder.h[r], history, seasons)
                    if usual > np.float32(0.0) and y * y > odd * usual:
                        odd = y * y / usual
                labels[r] = y
            if missed:
                # A label that never came is what the expert would have said: that moves nothing.
                ridge.say(weights, features, scratch.moves)
                for r in range(rungs):
                    if not is_known(history, c, at[r]):
                        labels[r] = scratch.moves[r]
            ridge.learn(
                regression.gram[c],
                regression.right[c],
                regression.seen[c],
                features,
                labels,
                not moving,
                ridge.ABSURD / odd,
                history.sizes[c, 0 if moving else 1],
            )
            if ridge.solves(n, c, samples):
                ridge.solve(
                    regression.gram[c], regression.right[c], regression.seen[c], weights, scratch.work, scratch.inverse
                )
                if not _usable(weights):
                    _begin_anew(c, regression)


@inlined
def _between(at_rungs: F32, ladder: Ladder, out: F32) -> None:
    """`out` [horizon] ← numbers at the rungs, on lines between them."""
    for r in range(ladder.h.shape[0]):
        low = at_rungs[r - 1] if r > 0 else at_rungs[r]
        rise = at_rungs[r] - low
        for h in range(ladder.lower[r], ladder.h[r]):
            out[h] = low + ladder.share[h] * rise


@inlined
def _experts_say(
    c: int,
    n: int,
    here: int,
    awake: bool,
    state: State,
    settings: Settings,
    scratch: Scratch,
    foreseen: F32,
) -> None:
    """`foreseen` [expert, horizon] ← the move that each expert of a channel foresees, not yet bounded."""
    ladder, plan, seasons, history = settings.ladder, settings.plan, settings.seasons, state.history
    place, horizon = plan.place, ladder.share.shape[0]
    ring = history.x[c]
    foreseen[:] = np.float32(0.0)
    if place[SEASON_AGO] >= 0:
        lag, since, length = seasons.lag[0], max(history.born[c], history.unbroken[0]), history.x.shape[1]
        x = ring[here]
        then = n + 1 - lag
        at = then % length
        for h in range(horizon):
            if then > n:  # more than a season ahead: the same one again
                then -= lag
                at = then % length
            if then >= since:
                foreseen[SEASON_AGO, h] = ring[at] - x
            then += 1
            at = at + 1 if at + 1 < length else 0
    if place[MOVES] >= 0:
        features = scratch.features[: state.moves.weights.shape[1]]
        moves.look(c, here, 0, plan.cross, history, features)
        ridge.say(state.moves.weights[c], features, scratch.moves)
        _between(scratch.moves, ladder, foreseen[MOVES])
    if awake:
        level = scratch.level
        now = level[0]
        if place[DEVIATIONS] >= 0:
            # As in the labels: what the profile has taken in of this frame's deviation, later.
            now = ring[here] - deviations.KEPT * history.deviation[c, n % history.deviation.shape[1]]
        for h in range(horizon):
            ahead = level[h + 1] - now
            foreseen[PROFILE, h] = ahead if ahead == ahead else np.float32(0.0)
        if place[DEVIATIONS] >= 0:
            features = scratch.features[: state.deviations.weights.shape[1]]
            deviations.look(c, here, n % history.deviation.shape[1], 0, plan.cross, scratch.wave, history, features)
            ridge.say(state.deviations.weights[c], features, scratch.moves)
            _between(scratch.moves, ladder, foreseen[DEVIATIONS])
            for h in range(horizon):
                foreseen[DEVIATIONS, h] += foreseen[PROFILE, h]


@inlined
def _weighed(c: int, age: int, mixture: Mixture, settings: Settings, turn: I64) -> None:
    """The weights of the experts and what is believed of their mixture, at each rung of a channel."""
    ladder, place = settings.ladder, settings.plan.place
    used = mixture.loss.shape[2]
    for r in range(ladder.h.shape[0]):
        weight = mixture.weight[c, r]
        known = age > ladder.h[r] + mixing.FIRST
        if age < mixing.YOUNG or turn[r] % mixing.SELDOM == 0:
            mixing.weigh(mixture.loss[c, r], weight, mixture.energy[c, r], known, place)
        weight[used] = mixing.believed(mixture.size[c, r], mixture.slope[c, r], known, ladder.cells[r])


@inlined
def _mixed(
    settled: bool,
    usual: Real,
    weight: F32,
    sizes: F32,
    stack_weight: F32,
    ladder: Ladder,
    place: I64,
    members: I64,
    foreseen: F32,
    raw: F32,
    mean: F32,
) -> None:
    """`raw` [horizon] ← the mixture of what the experts foresee, `mean` ← what of it is believed.

    No expert goes further than so many `usual` moves a step; once these are `settled`, than so many of the rung's own.
    """
    used = weight.shape[1] - 1
    stacks = place[STACK] >= 0
    raw[:] = np.float32(0.0)
    for r in range(ladder.h.shape[0]):
        below = r - 1 if r > 0 else 0
        begin, end = ladder.lower[r], ladder.h[r]
        shares, mixed = ladder.share[begin:end], raw[begin:end]
        limit = min(np.float32(mixing.BELIEVED * end) * usual, mixing.FARTHEST)
        if settled and sizes[r] > np.float32(0.0):
            limit = min(np.float32(mixing.BELIEVED) * np.sqrt(sizes[r]), mixing.FARTHEST)
        for member in range(members.shape[0]):
            k = members[member]
            at = place[k]
            moved = foreseen[k, begin:end]
            for h in range(moved.shape[0]):
                moved[h] = min(max(moved[h], -limit), limit)
            w = weight[below, at]
            rise = weight[r, at] - w
            if w != np.float32(0.0) or rise != np.float32(0.0):
                for h in range(moved.shape[0]):
                    mixed[h] += (w + shares[h] * rise) * moved[h]
        if stacks:
            at = place[STACK]
            w = weight[below, at]
            rise = weight[r, at] - w
            for k in range(shares.shape[0]):
                h = begin + k
                low, high, total = np.float32(0.0), np.float32(0.0), np.float32(0.0)
                share = shares[k]
                for member in range(members.shape[0]):
                    expert = members[member]
                    m = foreseen[expert, h]
                    v = stack_weight[below, expert - 1]
                    total += (v + share * (stack_weight[r, expert - 1] - v)) * m
                    low, high = min(low, m), max(high, m)
                beyond = stack.BEYOND * (high - low)
                total = min(max(total, low - beyond), high + beyond)
                foreseen[STACK, h] = total
                mixed[k] += (w + share * rise) * total
        w = weight[below, used]
        rise = weight[r, used] - w
        believed = mean[begin:end]
        for h in range(mixed.shape[0]):
            believed[h] = mixed[h] * (w + shares[h] * rise)


@inlined
def _foresee(i: int, frames: Frames, looks: bool, state: State, settings: Settings, scratch: Scratch) -> None:
    """The mixture's moves of all channels, and (`looks`) what a network is shown."""
    n = frames.number[i]
    ladder, plan, seasons = settings.ladder, settings.plan, settings.seasons
    history, mixture, pending, errors = state.history, state.mixture, state.pending, state.errors
    rungs, horizon = ladder.h.shape[0], ladder.share.shape[0]
    foreseen, raw = scratch.foreseen, scratch.raw
    place, kept = plan.place, plan.kept
    here = n % history.x.shape[1]
    seasonal = place[PROFILE] >= 0
    places = frames.phase[i]
    if place[DEVIATIONS] >= 0:
        deviations.waves(places[0], seasons.cells[0], scratch.wave)
    if looks and scratch.calendar.shape[0] > 0:
        remainder.waves(scratch.phases, seasons.cells, scratch.calendar)
    for c in range(scratch.x.shape[0]):
        if scratch.seen[c] == 0:
            if looks:
                scratch.shown[c] = np.float32(0.0)
            continue
        mean = scratch.mean[c]
        age = n - history.born[c]
        unit, size = np.float64(history.unit[c]), np.float64(frames.scale[i, c])
        per_unit = size / unit if unit > 0.0 else 0.0
        if plan.members.shape[0] == 0:
            # There is no expert but persistence: nothing moves.
            foreseen[:] = np.float32(0.0)
            raw[:] = np.float32(0.0)
            mean[:] = np.float32(0.0)
        else:
            awake = seasonal and age >= plan.wakes[PROFILE]
            if awake:
                levels_of(places, history.profile[c], history.visits[c], history.week[c], seasons, scratch.level)
                awake = scratch.level[0] == scratch.level[0]
            _experts_say(c, n, here, awake, state, settings, scratch, foreseen)
            _weighed(c, age, mixture, settings, scratch.turn)
            _mixed(
                age > mixing.FIRST + horizon + 30,
                np.float32(per_unit),
                mixture.weight[c],
                mixture.size[c],
                mixture.stack_weight[c],
                ladder,
                place,
                plan.members,
                foreseen,
                raw,
                mean,
            )
        pending.next[c] = raw[0]
        for r in range(rungs):
            if scratch.turn[r] * ladder.stride[r] != n:
                continue
            h = ladder.h[r] - 1
            cell = ladder.begin[r] + scratch.turn[r] % ladder.cells[r]
            pending.mean[c, cell] = mean[h]
            pending.raw[c, cell] = to_bits(raw[h])
            for k in range(PROFILE, EXPERTS):
                if kept[k] >= 0:
                    pending.moves[c, cell, kept[k]] = to_bits(foreseen[k, h])
        if looks:
            ratio = np.float32(per_unit) * np.float32(per_unit)
            usual = mixture.size[c, 0]
            volatility = np.float32(np.log(ratio / usual)) if ratio > 0.0 and usual > 0.0 else np.float32(0.0)
            remainder.look(
                c, n, here, frames.age[i, c], volatility, place, plan.cross, ladder.h, history, mixture.size, errors,
                scratch.calendar, frames.moment[i], foreseen, mean, scratch.shown[c],
            )  # fmt: skip


@inlined
def _record(i: int, frames: Frames, recorded: Recorded, state: State, settings: Settings, scratch: Scratch) -> None:
    """Writes down what a network is shown at frame i, and what its labels are made of."""
    ladder, history, errors = settings.ladder, state.history, state.errors
    here = frames.number[i] % history.x.shape[1]
    for c in range(scratch.x.shape[0]):
        for k in range(scratch.shown.shape[1]):
            recorded.seen[i, c, k] = scratch.shown[c, k]
        unit, size = np.float64(history.unit[c]), np.float64(frames.scale[i, c])
        if scratch.seen[c] == 0 or not (unit > 0.0 and size > 0.0):
            for r in range(ladder.h.shape[0]):
                recorded.size[i, c, r] = np.float32(0.0)
            continue
        of_size = np.float32(unit / size)
        from_base = (frames.base[i, c] - history.anchor[c]) / unit
        recorded.origin[i, c] = np.float32(np.float64(history.x[c, here]) - from_base) * of_size
        for r in range(ladder.h.shape[0]):
            recorded.base[i, c, r] = scratch.mean[c, ladder.h[r] - 1] * of_size
            recorded.size[i, c, r] = np.sqrt(errors.size[c, r]) * of_size


@inlined
def _add(state: State, settings: Settings, scratch: Scratch) -> None:
    """`scratch.share` [channel, rung] ← what is added to the mixture for what the network says."""
    ladder, errors = settings.ladder, state.errors
    for r in range(ladder.h.shape[0]):
        remainder.believed(r, ladder.cells[r], settings.credit[r], errors.worth, scratch.share)
        for c in range(scratch.share.shape[0]):
            s = np.sqrt(errors.size[c, r])
            added = scratch.share[c, r] * scratch.says[c, r] * s
            scratch.share[c, r] = from_bits(to_bits(added)) if abs(added) < mixing.FARTHEST else np.float32(0.0)


@inlined
def _emit(
    i: int, frames: Frames, speaks: bool, state: State, settings: Settings, written: Written, scratch: Scratch
) -> None:
    n = frames.number[i]
    row = frames.out_row[i]
    ladder, tracking = settings.ladder, settings.tracking
    history, pending, errors = state.history, state.pending, state.errors
    rungs, horizon, levels = ladder.h.shape[0], ladder.share.shape[0], tracking.level.shape[0]
    offsets, added = scratch.offsets, scratch.added
    here = n % history.x.shape[1]
    for c in range(scratch.x.shape[0]):
        if scratch.seen[c] == 0:
            if row >= 0:
                written.mean[row, c] = np.nan
                written.quantiles[row, c] = np.nan
            continue
        unit, size = np.float64(history.unit[c]), np.float64(frames.scale[i, c])
        x = np.float64(history.x[c, here])
        mean = scratch.mean[c]
        sigmas, theta = state.calibration.sigma[c], state.calibration.theta[c]
        standing, quick = state.calibration.standing[c], state.calibration.quick[c]
        one_step = max(np.float64(sigmas[0]), SPREAD_FLOOR * size)
        rest = frames.rest[i, c]
        shrunk = np.exp(SHRINK * rest) if rest > REST else 1.0
        for r in range(rungs):
            scratch.sigma[r] = opened(r, ladder.h[r], size, one_step, rest, shrunk, sigmas, standing, quick, tracking)
        # the intervals
        for r in range(rungs):
            below = r - 1 if r > 0 else 0
            begin, end = ladder.lower[r], ladder.h[r]
            sigma_low, sigma_high = scratch.sigma[below], scratch.sigma[r]
            shares = ladder.share[begin:end]
            for q in range(levels):
                low = (tracking.normal[q] + np.float64(theta[below, q])) * sigma_low
                rise = (tracking.normal[q] + np.float64(theta[r, q])) * sigma_high - low
                at = offsets[q, begin:end]
                for k in range(at.shape[0]):
                    at[k] = low + shares[k] * rise
        reached = np.float64(frames.age[i, c])
        if reached > 0.0:
            # A forecast from a value seen `age` steps ago reaches that much further.
            for h in range(horizon):
                wider = np.sqrt(1.0 + reached / (h + 1.0))
                for q in range(levels):
                    offsets[q, h] *= wider
        for r in range(rungs):
            if scratch.turn[r] * ladder.stride[r] != n:
                continue
            h = ladder.h[r] - 1
            cell = ladder.begin[r] + scratch.turn[r] % ladder.cells[r]
            errors.said[c, cell] = to_bits(scratch.says[c, r]) if speaks else NO_NUMBER
            errors.added[c, cell] = to_bits(scratch.share[c, r]) if speaks else NOTHING
            for q in range(levels):
                # What is judged later is what is sent now: the kept, rounded numbers.
                bits = to_bits(offsets[q, h])
                pending.offsets[c, cell, q] = bits
                offsets[q, h] = np.float64(from_bits(bits))
        if row < 0:
            continue
        center = history.anchor[c] + x * unit
        means = written.mean[row, c]
        for h in range(horizon):
            means[h] = center + np.float64(mean[h]) * unit
        if speaks:
            _between(scratch.share[c], ladder, added)
            for h in range(horizon):
                means[h] += np.float64(added[h]) * unit
        crossed = False
        for q in range(1, levels):
            lower, upper = offsets[q - 1], offsets[q]
            for h in range(horizon):
                crossed |= lower[h] > upper[h]
        if crossed:
            _sorted(offsets)
        for q in range(levels):
            out, at = written.quantiles[row, c, q], offsets[q]
            for h in range(horizon):
                out[h] = means[h] + at[h]


@inner
def _sorted(offsets: F64) -> None:
    """Sorts the levels of each horizon. Each level is tracked by itself, so neighbours may cross: sorting never makes the pinball
    loss worse (Chernozhukov, Fernández-Val, Galichon, 2010)."""
    for h in range(offsets.shape[1]):
        for q in range(1, offsets.shape[0]):
            one = offsets[q, h]
            k = q - 1
            while k >= 0 and offsets[k, h] > one:
                offsets[k + 1, h] = offsets[k, h]
                k -= 1
            offsets[k + 1, h] = one


@inner
def _expect(i: int, frames: Frames, net: Network, recorded: Recorded, address: int, shape: Shape, given: Given) -> None:
    """The mixture at frame i, and what a network is asked."""
    state, settings, scratch = series_row(address, shape), settings_at(given, shape), scratch_at(given, shape)
    _foresee(i, frames, net.speaks or net.recorded, state, settings, scratch)
    if net.recorded:
        _record(i, frames, recorded, state, settings, scratch)


@inner
def _say(i: int, frames: Frames, speaks: bool, address: int, shape: Shape, given: Given, written: Written) -> None:
    """What is said at frame i, with the network's numbers where it `speaks`."""
    state, settings, scratch = series_row(address, shape), settings_at(given, shape), scratch_at(given, shape)
    if speaks:
        _add(state, settings, scratch)
    _emit(i, frames, speaks, state, settings, written, scratch)


@inlined
def _before(
    i: int, frames: Frames, address: int, shape: Shape, given: Given, written: Written, matured: Matured
) -> None:
    """All of frame i but what is said."""
    settings, scratch = settings_at(given, shape), scratch_at(given, shape)
    seasons, phases = settings.seasons, scratch.phases
    n, history = frames.number[i], series_row(address, shape).history
    _arrive(i, frames, address, shape, given)
    _places(n, shape.x, settings.ladder, scratch.due, scratch.cell, scratch.newest, scratch.origin, scratch.turn)
    fills.prepare(address, shape, given)
    _score(i, frames, address, shape, given, matured)
    fills.fill(
        i, frames, address, shape, given, written.fill_value, written.fill_lower, written.fill_upper, written.filled
    )
    for k in range(len(seasons.bins)):
        # Rounded, a place just before a season's end would be past it.
        phases[k] = min(np.float32(frames.phase[i, k]), np.float32(seasons.bins[k] * (1.0 - 1e-7)))
        if history.phases.shape[0] > 0:
            history.phases[n % history.phases.shape[0], k] = phases[k]
    take_in(n, scratch.x, scratch.came, scratch.seen, given.horizon, phases, history, seasons)
    row = frames.fill_row[i]
    if row >= 0:
        for c in range(shape.channels):
            if scratch.seen[c] == 0 or scratch.came[c]:
                written.filled[row, c] = False
                written.fill_value[row, c] = frames.values[i, c]
                written.fill_lower[row, c] = frames.values[i, c]
                written.fill_upper[row, c] = frames.values[i, c]
    if settings.plan.place[MOVES] >= 0 or settings.plan.place[DEVIATIONS] >= 0:
        _learn(i, frames, address, shape, given)


@lean
def advance(
    address: int,
    shape: Shape,
    frames: Frames,
    runs: I64,
    net: Network,
    recorded: Recorded,
    given: Given,
    rooms: Rooms,
    written: Written,
    matured: Matured,
) -> None:
    """One pass over frames, each series' in the order of time; `runs` [series, (slot, first, end)].

    Where a network speaks some series walk abreast, so that its weights are read once for them. `address`: where the block of
    rows begins that `shape` describes.
    """
    abreast = rooms.frame.shape[0] if net.speaks else 1
    for first in range(0, runs.shape[0], abreast):
        end = min(first + abreast, runs.shape[0])
        k, count = 0, 1
        while count > 0:
            count = 0
            for run in range(first, end):
                i = runs[run, 1] + k
                if i < runs[run, 2]:
                    at, room = address + frames.slot[i] * shape.size, in_room(given, rooms, count)
                    _before(i, frames, at, shape, room, written, matured)
                    _expect(i, frames, net, recorded, at, shape, room)
                    rooms.frame[count], rooms.slot[count] = i, frames.slot[i]
                    count += 1
            if net.speaks:
                networks.step(
                    count,
                    rooms.slot,
                    shape.channels,
                    rooms.shown,
                    net.state,
                    net.layers,
                    net.lanes,
                    SAID_MAX,
                    rooms.says,
                )
            for place in range(count):
                at, room = address + rooms.slot[place] * shape.size, in_room(given, rooms, place)
                _say(rooms.frame[place], frames, net.speaks, at, shape, room, written)
            k += 1


@lean
def ask(
    address: int,
    shape: Shape,
    frames: Frames,
    net: Network,
    recorded: Recorded,
    given: Given,
    written: Written,
    matured: Matured,
    chosen: I64,
    shown: F32,
    moves: F32,
) -> None:
    """The first half of `advance` for the frames `chosen` [k], one of each series, where the network is none that is compiled:
    what it is asked (`shown` [k, channel, input]) and the mixture's `moves` [k, channel, horizon]."""
    scratch = scratch_at(given, shape)
    for k in range(chosen.shape[0]):
        i = chosen[k]
        at = address + frames.slot[i] * shape.size
        _before(i, frames, at, shape, given, written, matured)
        _expect(i, frames, net, recorded, at, shape, given)
        for c in range(shown.shape[1]):
            for j in range(shown.shape[2]):
                shown[k, c, j] = scratch.shown[c, j]
            for h in range(moves.shape[2]):
                moves[k, c, h] = scratch.mean[c, h]


@lean
def answer(
    address: int,
    shape: Shape,
    frames: Frames,
    speaks: bool,
    given: Given,
    written: Written,
    chosen: I64,
    said: F32,
    moves: F32,
) -> None:
    """The second half, with what the network has `said` [k, channel, rung]. `speaks` is true: as a constant it would have `_say`
    compiled once more."""
    settings, scratch = settings_at(given, shape), scratch_at(given, shape)
    for k in range(chosen.shape[0]):
        i = chosen[k]
        _places(
            frames.number[i],
            shape.x,
            settings.ladder,
            scratch.due,
            scratch.cell,
            scratch.newest,
            scratch.origin,
            scratch.turn,
        )
        for c in range(moves.shape[1]):
            scratch.seen[c] = 1 if frames.base[i, c] == frames.base[i, c] else 0
            for h in range(moves.shape[2]):
                scratch.mean[c, h] = moves[k, c, h]
            for r in range(said.shape[2]):
                # A number that is none says nothing.
                says = said[k, c, r]
                scratch.says[c, r] = within(says, SAID_MAX) if says == says else np.float32(0.0)
        _say(i, frames, speaks, address + frames.slot[i] * shape.size, shape, given, written)


def compile_ahead(
    address: int,
    shape: Shape,
    frames: Frames,
    runs: I64,
    net: Network,
    recorded: Recorded,
    given: Given,
    rooms: Rooms,
    written: Written,
    matured: Matured,
) -> None:
    """Compiles the largest parts of `advance`, in the order in which it comes to them, which a process that comes to them later
    finds kept. Arguments as there; only their types are looked at."""
    parts: tuple[tuple[Any, tuple[Any, ...]], ...] = (
        (_learn, (0, frames, 0, shape, given)),
        (_expect, (0, frames, net, recorded, 0, shape, given)),
        (_say, (0, frames, True, 0, shape, given, written)),
    )
    for part, arguments in parts:
        part.compile(tuple(map(numba.typeof, arguments)))
