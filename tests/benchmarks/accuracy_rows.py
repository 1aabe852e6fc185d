"""The rows of the accuracy benchmark: which file, which protocol, and what counts as good enough. Data, and no measuring.

Protocols (rows 0-based, end exclusive; every origin scored on all its steps; labels arrive only as rows):

- **F** train 0:2880, test targets 3600:14400, whatever the step (FSNet and what follows it; sound for horizon 1 only).
- **D** ETTh 2880 / 3600 / 14400, ETTm 11520 / 14400 / 57600 (DSOF, ICLR 2025).
- **A** train int(.6 N), first test target int(.7 N) + 96, to N (ADAPT-Z, ICLR 2026).
- Fills: cells of the test windows are hidden (TSI-Bench's masks), everything before is complete; from the past alone.
- Intervals, prices, NAB, changes and the first steps of a stream: see each row's `what`.

Errors are on the z-scale of the train rows. A bar holds `passes` (must be reached) and `goal` (what is aimed at).
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np

from simulators.drift import KINDS, Drift
from simulators.signal import Chunked, Values, recurse

Rows = tuple[int, int]
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bar:
    """`figure` is good where it is at most `passes` (and `goal`); with `low`, where it lies between the two."""

    figure: str
    passes: float
    goal: float | None = None
    low: float | None = None

    def verdict(self, value: float | None) -> str:
        if value is None or math.isnan(value):
            return "no figure"
        value = round(value, 5)  # a forecast of no change, rounded to 32 bits, is no change
        if self.low is not None:
            return "pass" if self.low <= value <= self.passes else "miss"
        if self.goal is not None and value <= self.goal:
            return "goal"
        return "pass" if value <= self.passes else "miss"


@dataclass(frozen=True)
class Bench:
    """One row of the table; `kind` says which function of accuracy.py measures it."""

    name: str
    kind: str
    what: str
    file: str = ""
    horizon: int = 1
    train: Rows = (0, 2880)
    scored: Rows = (3600, 14400)
    channels: tuple[str, ...] = ()
    time: str = "date"
    step: str | None = None
    bars: tuple[Bar, ...] = ()
    more: dict[str, object] = field(default_factory=dict)


# ── bars: row → figure → (pass, goal) ────────────────────────────────────────────────────────────────────────────────

MSE: dict[str, tuple[float, float]] = {
    "ETTh2-F-1": (0.316, 0.309),
    "ETTh2-D-24": (1.473, 1.44),
    "ETTh2-D-48": (2.529, 2.46),
    "ETTm1-F-1": (0.0692, 0.0666),
    "ETTm1-D-1": (0.093, 0.091),
    "ETTm1-D-24": (0.372, 0.362),
    "ETTm1-D-48": (0.509, 0.495),
    "ETTh1-A-1": (0.1056, 0.099),
    "ETTh1-A-24": (0.2893, 0.279),
    "ETTh1-A-48": (0.3355, 0.325),
    "ETTh2-A-1": (0.0598, 0.0585),
    "ETTh2-A-24": (0.1565, 0.153),
    "ETTh2-A-48": (0.2016, 0.197),
}
FILL_MAE: dict[str, tuple[float, float]] = {
    "ETTh1-fill-point10": (0.120, 0.115),
    "ETTh1-fill-point50": (0.212, 0.200),
    "ETTh1-fill-point90": (0.403, 0.385),
    "ETTh1-fill-block": (0.329, 0.31),
    "ETTh1-fill-subseq": (0.347, 0.33),
    "Italy-fill-point10": (0.087, 0.0844),
    "Italy-fill-point50": (0.130, 0.1261),
    "Italy-fill-point90": (0.358, 0.3473),
    "Italy-fill-block": (0.204, 0.1979),
    "Italy-fill-subseq": (0.200, 0.194),
}
# Winkler score of the 90 % interval, one step, in standard deviations: that of quantile tracking, and 3 % below.
WINKLER: dict[str, tuple[float, float]] = {
    "Elec2-interval": (0.244, 0.2367),
    "ETTh1-OT-interval": (0.643, 0.6237),
    "ETTh1-HUFL-interval": (1.511, 1.4657),
}
# Error over persistence in the first 200 steps and in steps 200..1000.
COLD: dict[str, tuple[float, float]] = {
    "cold-ETTh1-1": (0.835, 0.704),
    "cold-ETTh1-24": (0.844, 0.563),
    "cold-ETTh2-1": (0.821, 0.648),
    "cold-ETTh2-24": (0.893, 0.546),
    "cold-ETTm1-1": (0.996, 0.858),
    "cold-ETTm1-24": (1.010, 0.749),
}
COVERAGE = (Bar("coverage_min", 0.91, low=0.89), Bar("coverage_max", 0.91, low=0.89))
ROLLING = (Bar("rolling_min", 1.0, low=0.87), Bar("rolling_max", 0.93, low=0.0))
FILL_COVERAGE = Bar("coverage", 0.92, low=0.88)

ETT_ROWS = {"ETTh1": 17_420, "ETTh2": 17_420, "ETTm1": 69_680}


def _protocol(protocol: str, file: str) -> tuple[Rows, Rows]:
    count = ETT_ROWS[file]
    if protocol == "A":
        return (0, int(0.6 * count)), (int(0.7 * count) + 96, count)
    if protocol == "D" and file == "ETTm1":
        return (0, 11_520), (14_400, 57_600)
    return (0, 2_880), (3_600, 14_400)


def _forecasts() -> Iterator[Bench]:
    for name, (passes, goal) in MSE.items():
        file, protocol, horizon = name.split("-")
        train, scored = _protocol(protocol, file)
        yield Bench(
            name, "forecast", f"{file}, protocol {protocol}, {horizon} steps ahead: MSE", f"{file}.csv.gz", int(horizon),
            train, scored, bars=(Bar("mse", passes, goal), *COVERAGE), more={"rows_max": scored[1]},
        )  # fmt: skip


MASKS: dict[str, tuple[str, float, int]] = {  # kind, share, size for ETT (Italy has its own)
    "point10": ("point", 0.1, 0),
    "point50": ("point", 0.5, 0),
    "point90": ("point", 0.9, 0),
    "block": ("block", 0.5, 6),
    "subseq": ("subseq", 0.5, 36),
}


def _fills() -> Iterator[Bench]:
    for name, (passes, goal) in FILL_MAE.items():
        place, _, mask = name.split("-")
        kind, share, size = MASKS[mask]
        ett = place == "ETTh1"
        count = 17_420 if ett else 9_357
        # Months 20..24 of ETT; the last fifth of the other, the fifth before it is validation.
        test = (13_920, count) if ett else (count - count // 5, count)
        train = (0, 10_248) if ett else (0, count - 2 * (count // 5))
        yield Bench(
            name, "fill", f"{place}: {mask} cells of the test windows hidden, filled from the past: MAE",
            "ETTh1.csv.gz" if ett else "AirQualityUCI.csv.gz", 1, train, test,
            bars=(Bar("mae", passes, goal), FILL_COVERAGE),
            more={"mask": (kind, share, size if ett else {"block": 4, "subseq": 8}.get(kind, 0)), "window": 48 if ett else 12,
                  "time_format": None if ett else "%Y/%m/%d %H:%M"},
        )  # fmt: skip


def _cold() -> Iterator[Bench]:
    for name, (first, later) in COLD.items():
        _, file, horizon = name.split("-")
        yield Bench(
            name, "cold", f"{file}, {horizon} steps ahead, from the first row on: MSE over persistence",
            f"{file}.csv.gz", int(horizon), (0, 2880), (1, 1001),
            bars=(Bar("first_200", first), Bar("200_to_1000", later)),
        )  # fmt: skip


def _intervals() -> Iterator[Bench]:
    files = {
        "Elec2-interval": ("elec2", ("nswdemand",), (0, 2_000), (2_000, 45_312), "time"),
        "ETTh1-OT-interval": ("ETTh1.csv.gz", ("OT",), (0, 3_600), (3_600, 17_420), "date"),
        "ETTh1-HUFL-interval": ("ETTh1.csv.gz", ("HUFL",), (0, 3_600), (3_600, 17_420), "date"),
    }
    for name, (passes, goal) in WINKLER.items():
        file, channels, train, scored, time = files[name]
        yield Bench(
            name, "interval", f"{channels[0]}, one step: 90 % interval", file, 1, train, scored, channels, time,
            bars=(*COVERAGE, *ROLLING, Bar("winkler", passes, goal)),
        )  # fmt: skip


def _others() -> Iterator[Bench]:
    for name, kind, bars in (
        ("CTA-rail", "day type known", (Bar("riders", 26_014.0, 24_000.0),)),
        ("CTA-rail-unknown", "day type unknown", ()),
    ):
        yield Bench(
            name, "riders", f"CTA rail, a day ahead, 95 days from 2019-02-26, {kind}: MAE in riders", "cta", 1, (5_478, 6_574),
            (6_630, 6_725), ("bus", "rail"), "date", bars=bars, more={"of": "rail", "day_type": not kind.endswith("unknown")},
        )  # fmt: skip
    for name, file, count in (("SP500", "sp500", 5_031), ("EURUSD", "eurusd", 5_000)):
        warm = count // 4
        yield Bench(
            name, "price", f"{name}, logarithm of the close, one step: MSE over no change; NLL, CRPS beside EWMA .94", file, 1,
            (0, warm), (warm, count), ("close",), "time", "irregular",
            bars=(Bar("ratio", 1.000, 0.997), *COVERAGE, Bar("nll_less_ewma", 0.0), Bar("crps_over_ewma", 1.0)),
        )  # fmt: skip
    for horizon, passes, goal in ((1, 0.67, 0.65), (12, 0.62, 0.60)):
        yield Bench(
            f"NAB-{horizon}", "nab", f"NAB, 24 sets, {horizon} steps: geometric mean of MSE over persistence", "nab", horizon,
            time="time", bars=(Bar("ratio", passes, goal),),
        )  # fmt: skip
    for kind in KINDS:
        yield Bench(
            f"drift-{kind}", "drift", f"a daily cycle and AR(1) noise, {kind} at row {CHANGE}: the 200 steps after it", kind, 1,
            (0, 2_000), (2_000, DRIFT_ROWS), ("a", "b", "c"), "time", "1h",
        )  # fmt: skip
    yield Bench(
        "drift-CTA", "change", "CTA, a day ahead: 200 days from 2020-03-01", "cta", 1, (5_478, 6_574), (6_574, 7_639),
        ("bus", "rail"), "date", more={"change": 6_999},
    )  # fmt: skip
    yield Bench(
        "drift-LULL", "change", "ETTh2 LULL, one step: 200 steps after it jumps", "ETTh2.csv.gz", 1, (0, 2_880),
        (3_600, 14_400), ("LULL",), more={"change": 6_880},
    )  # fmt: skip
    yield Bench(
        "drift-SKAB",
        "skab",
        "SKAB valve1, 17 files, one step: mean of MSE over persistence",
        "skab",
        1,
        time="datetime",
    )


CHANGE, DRIFT_ROWS = 4_000, 6_000


def benches() -> list[Bench]:
    return [*_forecasts(), *_fills(), *_cold(), *_intervals(), *_others()]


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def table_of(path: Path, delimiter: str = ",") -> tuple[list[str], list[list[str]]]:
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
        found = [row for row in csv.reader(file, delimiter=delimiter) if row]
    return found[0], found[1:]


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(header)
        out.writerows(rows)
    return path


def times(count: int, apart: timedelta) -> list[str]:
    return [f"{BEGIN + i * apart:%Y-%m-%d %H:%M:%S}" for i in range(count)]


def prepared(bench: Bench, data: Path, folder: Path) -> Path:
    """The file that the back-test reads; what has no usable times, or repeats rows, is written anew into `folder`."""
    make: dict[str, Callable[[], Path]] = {
        "cta": lambda: _cta(data / "CTA_ridership_daily.csv.gz", folder / "cta.csv"),
        "sp500": lambda: _closes(data / "prices" / "arch_sp500.csv.gz", folder / "sp500.csv"),
        "eurusd": lambda: _closes(data / "prices" / "EURUSD_1h.csv.gz", folder / "eurusd.csv"),
        "elec2": lambda: _elec2(data / "elec2_normalised.csv.gz", folder / "elec2.csv"),
    }
    if bench.kind == "drift":
        return _changed(bench.file, folder / f"{bench.name}.csv")
    if bench.file in make:
        return make[bench.file]()
    path = data / bench.file
    until = bench.more.get("rows_max")
    if isinstance(until, int) or bench.kind == "cold":
        header, rows = table_of(path)
        until = until if isinstance(until, int) else 2_880
        if until < len(rows):  # what comes after the scored rows cannot change their scores
            return write(folder / f"{bench.name}.csv", header, rows[:until])
    return path


def _cta(path: Path, out: Path) -> Path:
    """In order, each day once; the total is left out. `day_type`: 0 weekday, 1 Saturday, 2 Sunday or holiday."""
    _, rows = table_of(path)
    days = {datetime.strptime(row[0], "%m/%d/%Y").replace(tzinfo=UTC): row for row in reversed(rows)}
    made = [(f"{day:%Y-%m-%d}", days[day][2], days[day][3], "WAU".index(days[day][1])) for day in sorted(days)]
    return write(out, ("date", "bus", "rail", "day_type"), made)


def holidays(prepared: Path) -> tuple[date, ...]:
    """Days that are no Sundays and have their timetable, in a file of `_cta`."""
    with prepared.open(encoding="utf-8") as lines:
        found = [date.fromisoformat(row["date"][:10]) for row in csv.DictReader(lines) if row["day_type"] == "2"]
    return tuple(day for day in found if day.weekday() != 6)


def _closes(path: Path, out: Path) -> Path:
    header, rows = table_of(path)
    at = header.index("Close")
    logs = [math.log(float(row[at])) for row in rows]
    return write(out, ("time", "close"), list(zip(times(len(rows), timedelta(hours=1)), logs, strict=True)))


def _elec2(path: Path, out: Path) -> Path:
    header, rows = table_of(path)
    at = header.index("nswdemand")
    stamps = times(len(rows), timedelta(minutes=30))
    return write(out, ("time", "nswdemand"), [(stamp, row[at]) for stamp, row in zip(stamps, rows, strict=True)])


def nab(data: Path, folder: Path) -> list[tuple[Path, int]]:
    """The sets with the number of rows of each; rows follow each other at the set's usual distance, holes closed."""
    made = []
    for path in sorted((data / "nab").glob("*.csv.gz")):
        _, rows = table_of(path)
        first, second = (datetime.fromisoformat(row[0]) for row in rows[:2])
        apart = timedelta(hours=1) if second - first >= timedelta(hours=1) else timedelta(minutes=5)
        stamps = times(len(rows), apart)
        name = folder / f"{path.name.removesuffix('.csv.gz')}.csv"
        write(name, ("time", "value"), [(stamp, row[1]) for stamp, row in zip(stamps, rows, strict=True)])
        made.append((name, len(rows)))
    return made


def skab(data: Path, folder: Path) -> list[tuple[Path, int, list[int]]]:
    """Each file with its rows and the rows at which it changes."""
    made = []
    for path in sorted((data / "skab").glob("valve1__*.csv.gz")):
        header, rows = table_of(path, ";")
        stamps = times(len(rows), timedelta(seconds=1))
        last = header.index("anomaly")
        values = [(stamp, *row[1:last]) for stamp, row in zip(stamps, rows, strict=True)]
        name = write(folder / path.name.removesuffix(".gz"), ("datetime", *header[1:last]), values)
        changes = [i for i, row in enumerate(rows) if float(row[header.index("changepoint")])]
        made.append((name, len(rows), changes))
    return made


# ── masks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def hidden_cells(
    kind: str, share: float, size: int, window: int, rows: Rows, channels: int, seed: int
) -> list[tuple[int, int]]:
    """Cells (row, channel) hidden in the whole windows of `rows`, after TSI-Bench (Du et al. 2024).

    point: each cell with probability `share`; subseq: per window and channel one run of `size` steps, and block: rectangles
    of `size` × `size`, both until about `share` of the cells are hidden.
    """
    rng = np.random.default_rng([seed, 5])
    begin, end = rows
    found: list[tuple[int, int]] = []
    for at in range(begin, end - window + 1, window):
        mask = np.zeros((window, channels), dtype=np.bool_)
        if kind == "point":
            mask = rng.random((window, channels)) < share
        elif kind == "subseq":
            # A run hides size / window of a channel; that many channels have one that half of the cells are hidden.
            take = min(1.0, share * window / size)
            for c in range(channels):
                if rng.random() < take:
                    first = int(rng.integers(0, window - size + 1))
                    mask[first : first + size, c] = True
        else:
            high, wide = min(size, window), min(size, channels)
            while mask.mean() < share:
                top, left = int(rng.integers(0, window - high + 1)), int(rng.integers(0, channels - wide + 1))
                mask[top : top + high, left : left + wide] = True
        found += [(at + int(row), int(c)) for row, c in np.argwhere(mask)]
    return found


# ── known changes of a known process ─────────────────────────────────────────────────────────────────────────────────

PHI, SWING, CYCLE, NOISE = 0.8, 2.0, 24.0, 1.0


@dataclass(eq=False)
class Known(Chunked):
    """Channels with a daily cycle and AR(1) noise: the best one-step forecast misses by the innovation, of variance 1."""

    channels: tuple[str, ...] = ("a", "b", "c")
    count: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def series(self) -> tuple[str, ...]:
        return ("known",)

    def _begin(self) -> Values:
        return np.zeros((1, len(self.channels)))

    def _chunk(self, index: int, state: Values) -> tuple[Values, Values]:
        rng = np.random.default_rng([self.seed, 21, index])
        shape = (1, len(self.channels), 64)
        noise, state = recurse(NOISE * rng.standard_normal(shape), state, PHI)
        step = 64 * index + np.arange(64)
        phase = np.arange(len(self.channels))[:, None]
        level = 10.0 * (1 + phase) + SWING * (1 + phase) * np.sin(2 * np.pi * step / CYCLE + phase)
        return (level + noise).transpose(0, 2, 1), state


def oracle(kind: str) -> Values:
    """Variance per channel of the best one-step forecast's error after the change, in units of the data. [channel]

    Of a dead channel it is that before, for nothing is left to forecast.
    """
    each = {"scale": 9.0, "period": 1.0 + PHI**2}.get(kind, 1.0)
    return np.full(3, each * NOISE**2)


def _changed(kind: str, out: Path) -> Path:
    known = next(each for each in KINDS if each == kind)
    values = Drift(Known(), known, CHANGE).block(0, DRIFT_ROWS)[0]
    rows = [(stamp, *row) for stamp, row in zip(times(len(values), timedelta(hours=1)), values.tolist(), strict=True)]
    return write(out, ("time", "a", "b", "c"), rows)
