"""What a pass over frames is given beside the rows: settings, and room for one frame's numbers.

Some seventy small arrays. A call that is handed an array copies what describes it, and one that is handed all of these does more
copying than calculating. So a kernel is given one array of where they begin (`Given`), and makes views of those that it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from streamrnn.kernels import inlined
from streamrnn.kernels.columns import EXPERTS, Ladder, Plan, Seasons, Tracking
from streamrnn.kernels.rowviews import Shape
from streamrnn.kernels.views import part, views
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


f32, f64, i64 = np.float32, np.float64, np.int64
# The arrays that `given_of` was given.
settings_at: Callable[[Given, Shape], Settings] = views(
    "settings",
    part(
        Settings,
        ladder=part(
            Ladder,
            h=(i64, "rungs"),
            lower=(i64, "rungs"),
            stride=(i64, "rungs"),
            cells=(i64, "rungs"),
            begin=(i64, "rungs"),
            discount=(f64, "rungs"),
            fade=(f64, "rungs"),
            share=(f32, "horizon"),
        ),
        seasons=part(
            Seasons,
            bins=(i64, "seasons"),
            cells=(i64, "seasons"),
            per_step=(f64, "seasons"),
            lag=(i64, "seasons"),
            begin=(i64, "seasons"),
            keyed="keyed",
        ),
        plan=part(
            Plan,
            place=(i64, EXPERTS),
            kept=(i64, EXPERTS),
            wakes=(i64, EXPERTS),
            members=(i64, "members"),
            cross="cross",
        ),
        tracking=part(
            Tracking,
            level=(f64, "levels"),
            normal=(f64, "levels"),
            up=(f64, "levels"),
            furthest=(f64, "levels"),
            most=(f64, "levels"),
            limit=(f64, "rungs", "levels"),
            root=(f64, "rungs"),
            per_step=(f64, "rungs"),
            keeps=(f64, "rungs"),
        ),
        regular="regular",
        credit=(f32, "rungs", 2),
    ),
)
scratch_at: Callable[[Given, Shape], Scratch] = views(
    "scratch",
    part(
        Scratch,
        x=(f32, "channels"),
        came=(np.bool_, "channels"),
        seen=(i64, "channels"),
        said=(f32, EXPERTS),
        moves=(f32, "rungs"),
        labels=(f32, "rungs"),
        features=(f32, "widest"),
        wave=(f32, 4),
        wave_ago=(f32, 4),
        level=(f32, ("horizon", 1)),
        foreseen=(f32, EXPERTS, "horizon"),
        raw=(f32, "horizon"),
        mean=(f32, "channels", "horizon"),
        added=(f32, "horizon"),
        shown=(f32, "channels", "inputs"),
        calendar=(f32, "waves"),
        says=(f32, "channels", "rungs"),
        share=(f32, "channels", "rungs"),
        due=(i64, "rungs"),
        cell=(i64, "rungs"),
        newest=(i64, "rungs"),
        origin=(i64, "rungs"),
        turn=(i64, "rungs"),
        label_at=(i64, "rungs"),
        work=(f32, "widest", ("widest", "rungs")),
        inverse=(f32, "widest"),
        offsets=(f64, "levels", "horizon"),
        sigma=(f64, "rungs"),
        phases=(f32, 2),
        residual=(f64, "channels"),
        left=(f64, "channels", "channels"),
        part=(f64, "channels", "channels"),
        joint=(f64, "channels", "channels"),
        solved=(f64, "channels"),
        explained=(f64, "channels"),
        shifts=(f64, "channels"),
        apart=(f64, "channels"),
        noise=(f64, "channels"),
        bounds=(f64, "channels", 2),
        none=(f64, "channels"),
        known=(i64, "channels"),
        missing=(i64, "channels"),
        but=(i64, "channels"),
        everyone=(i64, "channels"),
    ),
    after="settings",
)
