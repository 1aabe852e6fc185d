"""Where a step stands in the seasons of a stream, in cells from their begins; what a season is: `streamrnn.season`."""

from __future__ import annotations

import numpy as np

from streamrnn.calendar import DAY_US, zone_offsets
from streamrnn.durations import parse_ms
from streamrnn.kernels.steps import local_times
from streamrnn.records import F64, I64
from streamrnn.season import Season, months_of, step_months_of
from streamrnn.spec import StreamSpec

_MONDAY_US = 4 * DAY_US  # 1970-01-05


class Phases:
    """Positions of steps in the seasons of a stream. Pure: they depend on nothing but the step."""

    def __init__(self, spec: StreamSpec) -> None:
        self._seasons = spec.seasons
        self._grid = spec.grid()
        self._ahead: I64 = np.arange(spec.horizon + 1, dtype=np.int64)
        zone = spec.calendar_step.timezone if spec.calendar_step is not None else spec.timezone
        self._zone = zone_offsets(zone) if spec.seasons else zone_offsets("UTC")
        self._step_us = self._grid.step_us
        self._step_months = step_months_of(spec.calendar_step)
        self._holidays: I64 = np.array([day for season in spec.seasons for day in season.holidays], dtype=np.int64)
        self._months = [months_of(season.name) for season in spec.seasons]
        self._period_us = [
            DAY_US if season.keyed else 0 if months else parse_ms(season.name) * 1000
            for season, months in zip(spec.seasons, self._months, strict=True)
        ]
        self.keyed = any(season.keyed for season in spec.seasons)

    def of(self, ts_us: I64) -> F64:
        """Positions [frame, season] in cells, each in [0, bins); `ts_us` [frame]: where the frames' steps begin, in UTC."""
        out: F64 = np.empty((len(ts_us), len(self._seasons)))
        if out.size:
            local = local_times(ts_us, *self._zone) if len(self._zone[0]) else ts_us
            for k in range(len(self._seasons)):
                out[:, k] = self._positions(k, local)
        return out

    def ahead(self, step: I64) -> F64:
        """Positions [frame, 1 + horizon] of the frames' steps and of those ahead, in the season that has a key.

        `step` [frame]: numbers of steps. Equal steps are looked up once.
        """
        which = next(k for k, season in enumerate(self._seasons) if season.keyed)
        if not len(step):
            return np.empty((0, len(self._ahead)))
        low, high = int(step.min()), int(step.max()) + len(self._ahead)
        wanted = step[:, None] + self._ahead
        if high - low <= wanted.size:  # all steps from the first to the last: fewer than the places in the answer
            numbers, place = np.arange(low, high, dtype=np.int64), wanted - low
        else:
            numbers, place = np.unique(wanted, return_inverse=True)
        begins = self._begins(numbers)
        local = local_times(begins, *self._zone) if len(self._zone[0]) else begins
        made: F64 = self._positions(which, local)[place.reshape(wanted.shape)]
        return made

    def _begins(self, step: I64) -> I64:
        starts = self._grid.starts
        if not len(starts):
            return step * self._step_us
        return starts[np.clip(step - self._grid.first, 0, len(starts) - 1)]

    def _positions(self, k: int, local: I64) -> F64:
        """In season `k`, of steps that begin at these local times."""
        season, period = self._seasons[k], self._period_us[k]
        if self._months[k]:
            return self._in_months(season, self._months[k], local)
        since = (local - _MONDAY_US if period % (7 * DAY_US) == 0 else local) % period
        if season.keyed:
            return self._in_days(season, local, since)
        if season.per_step == 1.0:
            return np.minimum(since // self._step_us, season.bins - 1).astype(np.float64)
        between: F64 = since * np.float64(season.bins / period)
        return between

    def _in_days(self, season: Season, local: I64, since: I64) -> F64:
        day = local // DAY_US
        weekday = (day + 3) % 7  # Monday is 0
        kind = np.where(weekday == 6, 2, weekday == 5).astype(np.int64)
        if len(self._holidays):
            at = np.minimum(np.searchsorted(self._holidays, day), len(self._holidays) - 1)
            kind[self._holidays[at] == day] = 2
        cells = season.cells
        if season.per_step == 1.0:
            within: F64 = np.minimum(since // self._step_us, cells - 1).astype(np.float64)
        else:
            within = since * np.float64(cells / DAY_US)
        made: F64 = kind * float(cells) + within
        return made

    def _in_months(self, season: Season, months: int, local: I64) -> F64:
        month = local.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
        if season.per_step == 1.0:
            whole: F64 = (month % months // self._step_months).astype(np.float64)
            return whole
        first = month - month % months
        begin, end = (
            edge.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64) for edge in (first, first + months)
        )
        passed: F64 = (local - begin) / (end - begin) * season.bins
        return passed
