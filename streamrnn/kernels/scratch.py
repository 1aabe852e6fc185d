"""What a pass over frames is given beside the rows: settings, and room for one frame's numbers.

Some seventy small arrays. A call that is handed an array copies what describes it, and one that is handed all of these does more
copying than calculating. So a kernel is given one array of where they begin (`Given`), and makes views of those that it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamrnn.kernels import inlined
from streamrnn.kernels.columns import EXPERTS, Ladder, Plan, Seasons, Tracking
from streamrnn.kernels.rowviews import Shape, array_at
from streamrnn.records import F32, F64, I64, Bool


class Settings(NamedTuple):
    """What is settled with the stream's settings. `regular`: steps are numbered, so a jump of their numbers is seen. `credit`
    [rung, (Σ f y, Σ f²)] is that of the network in use (`remainder`)."""

    ladder: Ladder
    seasons: Seasons
    plan: Plan
    tracking: Tracking
    regular: bool
    credit: F32


class Scratch(NamedTuple):
    """Room for one frame's numbers."""

    x: F32
    came: Bool
    seen: I64
    said: F32  # [expert]
    moves: F32  # [rung]
    labels: F32
    features: F32
    wave: F32
    wave_ago: F32
    level: F32  # [1 + horizon]
    foreseen: F32  # [expert, horizon]
    raw: F32  # [horizon]
    mean: F32  # [channel, horizon]
    added: F32  # [horizon]
    shown: F32  # [channel, input]
    calendar: F32
    says: F32  # [channel, rung]
    share: F32
    due: I64  # [rung]
    cell: I64
    newest: I64
    origin: I64
    turn: I64
    label_at: I64
    work: F32
    inverse: F32
    offsets: F64  # [level, horizon]
    sigma: F64  # [rung]
    phases: F32  # [season]
    residual: F64
    left: F64
    part: F64
    joint: F64
    solved: F64
    explained: F64
    shifts: F64
    apart: F64
    noise: F64
    bounds: F64
    none: F64
    known: I64
    missing: I64
    but: I64
    everyone: I64


def scratch_of(shape: Shape, horizon: int, inputs: int, waves: int) -> Scratch:
    """Room for a frame's numbers, to be made once. `inputs` of a network, of which so many are `waves` of the calendar."""
    channels, rungs, widest = shape.channels, shape.rungs, max(shape.moves, shape.deviations, 8)
    f32 = np.float32

    def whole(count: int) -> I64:
        return np.zeros(count, dtype=np.int64)

    return Scratch(
        x=np.zeros(channels, dtype=f32),
        came=np.zeros(channels, dtype=np.bool_),
        seen=whole(channels),
        said=np.zeros(EXPERTS, dtype=f32),
        moves=np.zeros(rungs, dtype=f32),
        labels=np.zeros(rungs, dtype=f32),
        features=np.zeros(widest, dtype=f32),
        wave=np.zeros(4, dtype=f32),
        wave_ago=np.zeros(4, dtype=f32),
        level=np.zeros(1 + horizon, dtype=f32),
        foreseen=np.zeros((EXPERTS, horizon), dtype=f32),
        raw=np.zeros(horizon, dtype=f32),
        mean=np.zeros((channels, horizon), dtype=f32),
        added=np.zeros(horizon, dtype=f32),
        shown=np.zeros((channels, inputs), dtype=f32),
        calendar=np.zeros(waves, dtype=f32),
        says=np.zeros((channels, rungs), dtype=f32),
        share=np.zeros((channels, rungs), dtype=f32),
        due=whole(rungs),
        cell=whole(rungs),
        newest=whole(rungs),
        origin=whole(rungs),
        turn=whole(rungs),
        label_at=whole(rungs),
        work=np.zeros((widest, widest + rungs), dtype=f32),
        inverse=np.zeros(widest, dtype=f32),
        offsets=np.zeros((shape.levels, horizon)),
        sigma=np.zeros(rungs),
        phases=np.zeros(2, dtype=f32),
        residual=np.zeros(channels),
        left=np.zeros((channels, channels)),
        part=np.zeros((channels, channels)),
        joint=np.zeros((channels, channels)),
        solved=np.zeros(channels),
        explained=np.zeros(channels),
        shifts=np.zeros(channels),
        apart=np.zeros(channels),
        noise=np.zeros(channels),
        bounds=np.zeros((channels, 2)),
        none=np.zeros(channels),
        known=whole(channels),
        missing=whole(channels),
        but=whole(channels),
        everyone=np.arange(channels, dtype=np.int64),
    )


class Given(NamedTuple):
    """Where each array of `Settings` and `Scratch` begins (`where`), their lengths, and what is no array of `Settings`.

    The arrays must live as long as this is used.
    """

    where: I64
    horizon: int
    widest: int
    inputs: int
    waves: int
    seasons: int
    members: int
    keyed: bool
    cross: bool
    regular: bool


def given_of(settings: Settings, scratch: Scratch) -> Given:
    """For the kernels; the caller keeps `settings` and `scratch`."""
    ladder, seasons, plan, tracking = settings.ladder, settings.seasons, settings.plan, settings.tracking
    parts = (*ladder, *seasons, *plan, *tracking, settings.credit, *scratch)
    where: I64 = np.array([part.ctypes.data for part in parts if isinstance(part, np.ndarray)], dtype=np.int64)
    return Given(
        where,
        len(ladder.share),
        len(scratch.features),
        scratch.shown.shape[1],
        len(scratch.calendar),
        len(seasons.bins),
        len(plan.members),
        seasons.keyed,
        plan.cross,
        settings.regular,
    )


class Rooms(NamedTuple):
    """Room for frames of several series that walk abreast: where the arrays of each lie (`where` [room, part], as `Given.where`);
    those of them that lie side by side, `shown` [room · channel, input] and `says` [room · channel, rung]; and the `frame`
    [room] and its series' `slot` [room] that are in each now."""

    where: I64
    shown: F32
    says: F32
    frame: I64
    slot: I64


def rooms_of(settings: Settings, scratches: Sequence[Scratch]) -> Rooms:
    """For the kernels; the caller keeps `settings` and `scratches`. Those are given the arrays that lie side by side."""
    count = len(scratches)
    shown, says = (np.concatenate([getattr(each, name) for each in scratches]) for name in ("shown", "says"))
    channels = len(scratches[0].shown)
    where = np.array(
        [
            given_of(settings, each._replace(shown=shown[room], says=says[room])).where
            for each, room in ((each, slice(k * channels, (k + 1) * channels)) for k, each in enumerate(scratches))
        ]
    )
    return Rooms(where, shown, says, np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64))


@inlined
def in_room(given: Given, rooms: Rooms, room: int) -> Given:
    """As `given`, with another room for the frame."""
    return Given(
        rooms.where[room], given.horizon, given.widest, given.inputs, given.waves, given.seasons, given.members,
        given.keyed, given.cross, given.regular,
    )  # fmt: skip


@inlined
def settings_at(given: Given, shape: Shape) -> Settings:
    """The arrays that `given_of` was given."""
    where, horizon, k, r, q = given.where, given.horizon, given.seasons, shape.rungs, shape.levels
    f32, f64, i64 = np.float32, np.float64, np.int64
    return Settings(
        Ladder(
            array_at(where[0], (r,), i64),
            array_at(where[1], (r,), i64),
            array_at(where[2], (r,), i64),
            array_at(where[3], (r,), i64),
            array_at(where[4], (r,), i64),
            array_at(where[5], (r,), f64),
            array_at(where[6], (r,), f64),
            array_at(where[7], (horizon,), f32),
        ),
        Seasons(
            array_at(where[8], (k,), i64),
            array_at(where[9], (k,), i64),
            array_at(where[10], (k,), f64),
            array_at(where[11], (k,), i64),
            array_at(where[12], (k,), i64),
            given.keyed,
        ),
        Plan(
            array_at(where[13], (EXPERTS,), i64),
            array_at(where[14], (EXPERTS,), i64),
            array_at(where[15], (EXPERTS,), i64),
            array_at(where[16], (given.members,), i64),
            given.cross,
        ),
        Tracking(
            array_at(where[17], (q,), f64),
            array_at(where[18], (q,), f64),
            array_at(where[19], (q,), f64),
            array_at(where[20], (q,), f64),
            array_at(where[21], (q,), f64),
            array_at(where[22], (r, q), f64),
            array_at(where[23], (r,), f64),
            array_at(where[24], (r,), f64),
            array_at(where[25], (r,), f64),
        ),
        given.regular,
        array_at(where[26], (r, 2), f32),
    )


@inlined
def scratch_at(given: Given, shape: Shape) -> Scratch:
    """The arrays that `given_of` was given."""
    where, horizon, widest, channels, rungs = given.where, given.horizon, given.widest, shape.channels, shape.rungs
    f32, f64, i64 = np.float32, np.float64, np.int64
    return Scratch(
        array_at(where[27], (channels,), f32),
        array_at(where[28], (channels,), np.bool_),
        array_at(where[29], (channels,), i64),
        array_at(where[30], (EXPERTS,), f32),
        array_at(where[31], (rungs,), f32),
        array_at(where[32], (rungs,), f32),
        array_at(where[33], (widest,), f32),
        array_at(where[34], (4,), f32),
        array_at(where[35], (4,), f32),
        array_at(where[36], (1 + horizon,), f32),
        array_at(where[37], (EXPERTS, horizon), f32),
        array_at(where[38], (horizon,), f32),
        array_at(where[39], (channels, horizon), f32),
        array_at(where[40], (horizon,), f32),
        array_at(where[41], (channels, given.inputs), f32),
        array_at(where[42], (given.waves,), f32),
        array_at(where[43], (channels, rungs), f32),
        array_at(where[44], (channels, rungs), f32),
        array_at(where[45], (rungs,), i64),
        array_at(where[46], (rungs,), i64),
        array_at(where[47], (rungs,), i64),
        array_at(where[48], (rungs,), i64),
        array_at(where[49], (rungs,), i64),
        array_at(where[50], (rungs,), i64),
        array_at(where[51], (widest, widest + rungs), f32),
        array_at(where[52], (widest,), f32),
        array_at(where[53], (shape.levels, horizon), f64),
        array_at(where[54], (rungs,), f64),
        array_at(where[55], (2,), f32),
        array_at(where[56], (channels,), f64),
        array_at(where[57], (channels, channels), f64),
        array_at(where[58], (channels, channels), f64),
        array_at(where[59], (channels, channels), f64),
        array_at(where[60], (channels,), f64),
        array_at(where[61], (channels,), f64),
        array_at(where[62], (channels,), f64),
        array_at(where[63], (channels,), f64),
        array_at(where[64], (channels,), f64),
        array_at(where[65], (channels, 2), f64),
        array_at(where[66], (channels,), f64),
        array_at(where[67], (channels,), i64),
        array_at(where[68], (channels,), i64),
        array_at(where[69], (channels,), i64),
        array_at(where[70], (channels,), i64),
    )
