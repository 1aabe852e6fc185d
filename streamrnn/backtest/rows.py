"""A file as the stream that a back-test serves: ticks in the order of time, their grid, and what was refused and why.

Tables go as they are; JSON lines go through the service's own decoder and `decode:`. What the file leaves open (two rows of
one time, times in steps that are taken) is decided as in the service, said, and named with the option that decides it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from streamrnn.backtest import steps as steps
from streamrnn.backtest.steps import Step
from streamrnn.durations import format_ms
from streamrnn.experts import AUTO, EXPERTS_MEMORY_MAX, FULL, experts_setting
from streamrnn.records import F64, I64, Bool, PlainRecord, TickBatch, take
from streamrnn.season import Season, SeasonSetting, season_of, season_setting
from streamrnn.serving.schemas import fetch
from streamrnn.spec import StreamSpec
from streamrnn.stream.choice import choose
from streamrnn.transports.files import InputError, Reading, Table, begins_like_json, read_lines, read_table
from streamrnn.transports.times import DAY_US, EPOCH, EPOCH_US, UNITS, US, WORDS
from streamrnn.wire.codec import Decoder
from streamrnn.wire.mapping import DecodeSpec, split_path

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

SERIES = "backtest"
NEVER_MS = 2**60
APART_US = 366 * DAY_US  # times of one file that are further apart, with none between them, do not hang together
LINES = ("csv", "influx", "graphite", "collectd")
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Options:
    """As on the command line. None: the configuration's where there is one, else the default."""

    file: Path
    time: str = "time"
    channels: tuple[str, ...] = ()
    horizon: int | None = None
    step: str | None = None
    train_rows: tuple[int, int] | None = None
    score_rows: tuple[int, int] | None = None
    seeds: int = 1
    baselines: tuple[str, ...] = ("persistence", "seasonal", "rls", "ewa")
    season: str | None = None  # of the seasonal baseline
    seasons: str | None = None  # of the stream: the setting `season`, `1d,7d` for a list
    experts: str | None = None  # the setting of that name, `a,b` for names
    calendar: tuple[str, ...] | None = None
    train: bool = True
    train_every: int = 240
    json_out: Path | None = None
    forecasts_out: Path | None = None
    plots: Path | None = None
    keep: Path | None = None
    hide: Path | None = None
    settings: Settings | None = None
    series: tuple[str, ...] = ()
    time_format: str | None = None
    timezone: str | None = None
    decimal: str | None = None
    missing: tuple[str, ...] = ()
    duplicates: Literal["first", "last"] | None = None
    align: Literal["floor", "nearest"] | None = None
    allow_refused: bool = False
    # Settings by dotted key, as `--set` gives them, where there is no configuration file.
    changes: Mapping[str, Any] = field(default_factory=dict)
    # Fields of StreamSpec that replace what the file and the settings lead to.
    spec_changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Stream:
    """What the engine is given, in the order of time. `table`: whether a tick is a whole row of a table (or a wide line).

    `place` [tick] is the line of the file. `total` rows were found; `refused` are those left out so far, `chosen` those of
    them that the user's own options left out. `hints` name the options that settle why rows will be refused.
    """

    batch: TickBatch
    spec: StreamSpec
    step: Step
    table: bool
    place: I64
    total: int
    refused: Counter[str] = field(default_factory=Counter)
    chosen: int = 0
    notes: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


def read(options: Options) -> Stream:
    """Reads, orders and checks the file. Raises InputError."""
    name = options.file.name.lower().removesuffix(".gz")
    lines = name.endswith((".jsonl", ".ndjson", ".json")) or begins_like_json(options.file)
    # What a configuration reads from a topic it reads from a file, too: lines of CSV, Influx, Graphite.
    lines = lines or (_decode_spec(options).format in LINES and not name.endswith((".parquet", ".pq")))
    stream = _lines(options) if lines else _table(options)
    _order(stream)
    within = options.settings.within if options.settings is not None else "one"
    if within == "one" or options.duplicates is not None:
        _duplicates(stream, options)
    if len(stream.batch) < 2:
        raise InputError(f"{options.file}: holds fewer than two rows")
    stream.step = _step(stream, options)
    stream.spec = _spec(stream, options)
    if within == "one" and stream.table and _complete(options) == "record":
        _one_a_step(stream, options)
    return stream


# ── tables and lines ─────────────────────────────────────────────────────────────────────────────────────────────────


def _decode_spec(options: Options) -> DecodeSpec:
    return options.settings.decode_spec() if options.settings is not None else DecodeSpec()


def _table(options: Options) -> Stream:
    channels = options.channels or (options.settings.channels if options.settings is not None else ())
    reading = Reading(
        options.time_format,
        options.timezone,
        options.series,
        options.decimal,
        options.missing,
        _decode_spec(options).value_abs_max,
        options.allow_refused,
    )
    table = read_table(options.file, options.time, channels, reading)
    spec = StreamSpec(channels=table.channels, step_ms=1, horizon=1)
    return Stream(
        ticks(table.ts_us, table.values, table.series or [SERIES] * len(table)),
        spec,
        Step("irregular", 0),
        True,
        table.line,
        table.total,
        Counter(table.refused),
        0,
        _checked_series(table, options),
    )


def _checked_series(table: Table, options: Options) -> list[str]:
    if "" in table.series:
        at = table.series.index("")
        raise InputError(f"{options.file}, line {table.line[at]}: no name in {', '.join(options.series)}")
    return table.notes


def ticks(ts_us: I64, values: F64, series: list[str]) -> TickBatch:
    """Rows of a table as wide ticks, whose records came when they happened. The one place that knows a batch's unit."""
    count = len(ts_us)
    return TickBatch(
        records=[],
        partition=np.zeros(count, dtype=np.int32),
        offset=np.arange(count, dtype=np.int64),
        record_ts_ms=ts_us // 1000,
        series=series,
        ts_us=ts_us,
        values=values,
        channel=np.full(count, -1, dtype=np.int16),
    )


def _lines(options: Options) -> Stream:
    """JSON lines through the service's decoder. Refused lines are counted; with none readable, raises InputError."""
    for given, option in (
        (options.series, "--series"), (options.time_format, "--time-format"), (options.decimal, "--decimal"),
        (options.missing, "--missing"),
    ):  # fmt: skip
        if given:
            raise InputError(f"{option} is for tables; lines are read by `decode:` of a configuration (-c)")
    records = list(read_lines(options.file))
    decode = _decode_spec(options)
    channels = options.channels or (options.settings.channels if options.settings is not None else ())
    if not channels:
        channels = _channels_in([record.value or b"" for record in records])
    if not channels:
        why = _no_lines(records) or "holds no ticks in the wire format (read your own with `decode:` and -c)"
        raise InputError(f"{options.file}: {why}")
    spec = StreamSpec(channels=channels, step_ms=1, horizon=1)
    try:
        decoder = Decoder(spec, decode)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error
    if options.settings is not None:
        fetch(options.settings, decoder, records)
    batch, unread, skipped = decoder.read(records)
    refused = Counter[str](str(item.reason) for item in unread)
    notes = []
    total = len(batch) + len(unread)
    if skipped:
        skips = Counter[str]()
        for each in skipped:
            skips[each.reason] += each.elements
        said = ", ".join(f"{count} {reason}" for reason, count in skips.most_common())
        notes.append(f"none of this stream's, and left out: {said} (decode)")
    if unread:
        first = f"line {unread[0].record.offset + 1}: {unread[0].reason}: {unread[0].detail}"
        notes.append(f"{len(unread)} lines are refused, the first: {first}")
        if not len(batch):
            raise InputError(f"{options.file}: {_no_lines(records) or f'no line can be read; {first}'}")
    batch = _in_unit(batch, decode, options, refused, notes)
    place = batch.offset + 1
    batch = replace(batch, records=[], record_ts_ms=batch.ts_us // 1000)
    return Stream(batch, spec, Step("irregular", 0), bool((batch.channel < 0).all()), place, total, refused, 0, notes)


def _no_lines(records: Sequence[PlainRecord]) -> str:
    """What a JSON file is that is not one object a line; empty where it is."""
    first = (records[0].value or b"").strip() if records else b""
    if first[:1] == b"[" or (first[:1] == b"{" and not isinstance(_document(first), dict)):
        shape = "a JSON array" if first[:1] == b"[" else "JSON over several lines"
        return f"is {shape}; one JSON object a line is needed (such as jq -c '.[]' or jq -c . writes)"
    return ""


def _document(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def _in_unit(
    batch: TickBatch, decode: DecodeSpec, options: Options, refused: Counter[str], notes: list[str]
) -> TickBatch:
    """Numbers of another unit than `decode.ts_unit`, judged by the whole file, for its records have no time of their own.

    Where none means a time of 1973 to 2150 and most would in another unit: raises InputError. Single ones that stand years
    apart from all others, and would not in another unit, are refused as the service refuses them.
    """
    ts_us = batch.ts_us
    inside = (ts_us >= EPOCH_US[0]) & (ts_us <= EPOCH_US[1])
    if inside.all():
        return batch
    written: list[float | None]
    if decode.plain:
        keys = split_path(decode.ts_path)
        written = [_number_at(record.value or b"", keys) for record in itertools.compress(batch.records, ~inside)]
    else:  # what the numbers must have been
        written = [us / float(UNITS[decode.ts_unit]) for us in ts_us[~inside].tolist()]
    odd = np.flatnonzero(~inside)[[number is not None for number in written]]
    numbers: F64 = np.array([number for number in written if number is not None], dtype=np.float64)
    others = {unit: numbers * float(us) for unit, us in UNITS.items() if unit != decode.ts_unit}
    if not inside.any():
        fit = {unit: (us >= EPOCH_US[0]) & (us <= EPOCH_US[1]) for unit, us in others.items()}
        unit = max(fit, key=lambda each: int(fit[each].sum()))
        if 2 * int(fit[unit].sum()) > len(batch):
            at = int(np.flatnonzero(fit[unit])[0])
            raise InputError(
                f"{options.file}, line {batch.offset[odd[at]] + 1}: a time such as {_readings(numbers[at], decode, unit)}: "
                f"write `decode: {{ts_unit: {unit}}}` in a configuration (-c), or -c with --set decode.ts_unit={unit}"
            )
        return batch
    low, high = _unbroken(ts_us, inside)
    apart = (ts_us[odd] < low) | (ts_us[odd] > high)
    near = {unit: apart & (us >= low - APART_US) & (us <= high + APART_US) for unit, us in others.items()}
    looks = np.any(list(near.values()), axis=0)
    if not looks.any():
        return batch
    wrong, at = odd[looks], int(np.flatnonzero(looks)[0])
    unit = next(unit for unit, rows in near.items() if rows[at])
    refused["timestamp"] += len(wrong)
    notes.append(
        f"{len(wrong)} lines have times in another unit than all others, and are refused; the first: line "
        f"{batch.offset[wrong[0]] + 1}: {_readings(numbers[at], decode, unit)} (decode.ts_unit)"
    )
    good: Bool = np.ones(len(batch), dtype=np.bool_)
    good[wrong] = False
    return take(batch, np.flatnonzero(good))


def _unbroken(ts_us: I64, inside: Bool) -> tuple[int, int]:
    """First and last time of those that hang together with the `inside` ones, without a hole of more than a year."""
    ordered = np.sort(ts_us)
    first, last = np.searchsorted(ordered, ts_us[inside].min()), np.searchsorted(ordered, ts_us[inside].max())
    holes = np.diff(ordered) > APART_US
    before, after = np.flatnonzero(holes[:first]), np.flatnonzero(holes[last:])
    low = before[-1] + 1 if len(before) else 0
    high = last + after[0] if len(after) else len(ordered) - 1
    return int(ordered[low]), int(ordered[high])


def _number_at(value: bytes, keys: Sequence[str]) -> float | None:
    """The number at this path of a line; None where there is a text or nothing."""
    document = _document(value)
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return float(document) if isinstance(document, int | float) and not isinstance(document, bool) else None


def _readings(number: float, decode: DecodeSpec, unit: str) -> str:
    """A number's day in the unit that is set and in another."""
    said = [f"{_day(number * float(UNITS[each]))} as {WORDS[each]}" for each in (decode.ts_unit, unit)]
    return f"{number:.16g} is {said[0]} and {said[1]}"


def _day(us: float) -> str:
    """The day of these microseconds, or the year where a calendar has none."""
    try:
        return f"{EPOCH + timedelta(microseconds=us):%Y-%m-%d}"
    except OverflowError:
        return f"the year {1970 + us / (365.2425 * DAY_US):.0f}"


def _channels_in(values: Sequence[bytes]) -> tuple[str, ...]:
    """Channels of the wire format by their first appearance anywhere in the file: keys of `values`, names in `channel`."""
    found: dict[str, None] = {}
    for value in values:
        try:
            document = orjson.loads(value)
        except orjson.JSONDecodeError:
            continue
        if not isinstance(document, dict):
            continue
        wide = document.get("values")
        if isinstance(wide, dict):
            for key, held in wide.items():
                if held is None or (isinstance(held, int | float) and not isinstance(held, bool)):
                    found.setdefault(key)
        elif isinstance(document.get("channel"), str) and "value" in document:
            found.setdefault(document["channel"])
    return tuple(found)


# ── order, duplicates, steps ─────────────────────────────────────────────────────────────────────────────────────────


def _order(stream: Stream) -> None:
    """Sorts by time; a notice says how many rows of a series stood before an older one."""
    ts_us = stream.batch.ts_us
    last: dict[str, int] = {}
    fell = 0
    for name, us in zip(stream.batch.series, ts_us.tolist(), strict=True):
        fell += us < last.get(name, us)
        last[name] = us
    if fell:
        stream.notes.append(f"{fell} of {len(ts_us)} rows stand below a newer row of their series: sorted by time")
    if bool((np.diff(ts_us) < 0).any()):
        order = np.argsort(ts_us, kind="stable")
        stream.batch, stream.place = take(stream.batch, order), stream.place[order]


def _duplicates(stream: Stream, options: Options) -> None:
    batch = stream.batch
    kept: dict[tuple[str, int, int], int] = {}
    dropped: list[int] = []
    pair: tuple[int, int] | None = None
    parts = 0  # rows that hold other channels than the one whose time they repeat
    whole = _complete(options) == "record"
    for row, key in enumerate(zip(batch.series, batch.ts_us.tolist(), batch.channel.tolist(), strict=True)):
        if key not in kept:
            kept[key] = row
            continue
        apart = key[2] < 0 and not (~np.isnan(batch.values[kept[key]]) & ~np.isnan(batch.values[row])).any()
        if apart and not whole:
            continue
        parts += apart
        pair = pair or (kept[key], row)
        if options.duplicates == "last":
            dropped.append(kept[key])
            kept[key] = row
        else:
            dropped.append(row)
    if pair is None:
        return
    lines = f"{_when(batch, pair[0])} in lines {stream.place[pair[0]]} and {stream.place[pair[1]]}"
    if options.duplicates is None and parts == len(dropped):
        stream.hints.append(
            f"{parts} rows hold other channels of a time that stands in another row (first: {lines}); with -c and "
            "`complete: channels` they are one step"
        )
        return
    if options.duplicates is None:
        stream.hints.append(
            f"{len(dropped)} rows repeat a time that stands in another row (first: {lines}), and the first one counts; say "
            "which with --duplicates first or --duplicates last"
        )
        return  # the grid refuses them, as it does in the service
    good: Bool = np.ones(len(batch), dtype=np.bool_)
    good[dropped] = False
    stream.batch, stream.place = take(batch, np.flatnonzero(good)), stream.place[good]
    stream.refused["duplicate"] += len(dropped)
    stream.chosen += len(dropped)
    stream.notes.append(f"repeated times: {len(dropped)} (first: {lines}); the {options.duplicates} row of each counts")


def _complete(options: Options) -> str:
    """Whether a wide record is its whole step (`record`), or one of several (`channels`)."""
    return options.settings.complete if options.settings is not None else "record"


def _when(batch: TickBatch, row: int) -> str:
    return f"{EPOCH + int(batch.ts_us[row]) * US:%Y-%m-%d %H:%M:%S}"


def _by_series(batch: TickBatch) -> list[I64]:
    rows: dict[str, list[int]] = {}
    for name, us in zip(batch.series, batch.ts_us.tolist(), strict=True):
        rows.setdefault(name, []).append(us)
    return [np.array(each, dtype=np.int64) for each in rows.values()]


def _step(stream: Stream, options: Options) -> Step:
    if options.step is not None:
        return steps.step_of(options.step, options.timezone)
    if options.settings is not None:
        return steps.step_of(options.settings.step, options.timezone or options.settings.timezone)
    step = steps.usual_step(_by_series(stream.batch), options.timezone)
    place = f" in {step.zone}" if step.zone not in (None, "UTC") else ""
    stream.notes.append(f"step {step.text}{place}, found from the distances of the rows")
    return step


def _one_a_step(stream: Stream, options: Options) -> None:
    """Rows of one series that fall into one step are refused by the grid one by one: says what helps."""
    step = stream.step
    if step.calendar or not step.ms:
        return
    nearest = options.align == "nearest"
    again = _taken(stream.batch, lambda ts: ts)  # the same time twice, that is
    taken = _taken(stream.batch, lambda ts: steps.numbers(ts, step, nearest)) - again
    if not taken:
        return
    if not nearest and _taken(stream.batch, lambda ts: steps.numbers(ts, step, True)) - again < (taken + 9) // 10:
        help_ = "their times waver around the step's edge: --align nearest puts each to the step it is nearest to"
    else:
        help_ = "give the --step they are apart, or -c with `within: last|mean|sum` for several rows in a step"
    stream.hints.append(f"{taken} rows fall into a step of {step.text} that another row has; {help_}")


def _taken(batch: TickBatch, number: Callable[[I64], I64]) -> int:
    found = list(zip(batch.series, number(batch.ts_us).tolist(), strict=True))
    return len(found) - len(set(found))


def _experts(stream: Stream, options: Options, spec: StreamSpec) -> tuple[tuple[Season, ...], tuple[str, ...]]:
    """What repeats, and the experts: as the options or the configuration say, else as the service chooses. Raises InputError."""
    settings = options.settings
    season = settings.season if settings is not None else SeasonSetting()
    experts = settings.experts if settings is not None else AUTO
    series_max = settings.series_max if settings is not None else len(set(stream.batch.series))
    memory_max = settings.experts_memory_max if settings is not None else EXPERTS_MEMORY_MAX
    try:
        if options.seasons is not None:
            season = season_setting(_one_or_many(options.seasons))
        seasons = season_of(season, stream.step.ms, stream.step.of_the_calendar(), spec.horizon)
    except ValueError as error:
        raise InputError(f"--season {options.seasons or 'of the configuration'}: {error}") from error
    try:
        if options.experts is not None:
            experts = experts_setting(_one_or_many(options.experts))
    except ValueError as error:
        raise InputError(f"--experts {options.experts}: {error}") from error
    choice = choose(experts, replace(spec, seasons=seasons, series_max=series_max), memory_max)
    if options.experts is None and experts == AUTO and choice.kind != FULL:
        stream.notes.append(f"experts: {choice.kind}: {choice.why}")
    return seasons, choice.experts


def _one_or_many(text: str) -> str | list[str]:
    return [part.strip() for part in text.split(",")] if "," in text else text


def _spec(stream: Stream, options: Options) -> StreamSpec:
    """The service's own settings where there is a configuration, without the clocks that a file does not have."""
    settings = options.settings
    channels = stream.spec.channels
    step_ms, calendar_step = stream.step.ms, stream.step.of_the_calendar()
    horizon = options.horizon or (settings.horizon if settings is not None else 24)
    base = (
        settings.stream_spec()
        if settings is not None
        else StreamSpec(channels=channels, step_ms=step_ms, horizon=horizon, quantiles=QUANTILES)
    )
    seasons, experts = _experts(stream, options, replace(base, channels=channels, horizon=horizon))
    if options.calendar is not None or settings is None:
        texts = options.calendar if options.calendar is not None else ("1d", "7d")
        lengths = [length for text in texts if (length := steps.step_of(text).ms) > max(step_ms, 0)]
        base = replace(base, calendar_ms=tuple(lengths))
    if options.align is not None:
        base = replace(base, align=options.align)
    made = replace(
        base,
        channels=channels,
        step_ms=step_ms,
        calendar_step=calendar_step,
        seasons=seasons,
        experts=experts,
        timezone=stream.step.zone or options.timezone or base.timezone,
        horizon=horizon,
        gap_max=max(64, horizon, base.gap_max),
        future_max_ms=NEVER_MS,
        idle_after_ms=NEVER_MS,
        forecast_every=1,
        impute_all=False,
        series_max=max(2, len(set(stream.batch.series))),
    )
    return replace(made, **_spec_changes(options))


def _spec_changes(options: Options) -> dict[str, Any]:
    unknown = sorted(set(options.spec_changes) - {each.name for each in fields(StreamSpec)})
    if unknown:
        raise InputError(f"StreamSpec of this version has no {', '.join(unknown)}")
    return dict(options.spec_changes)


# What decides how the file is read has an option of its own, or needs the configuration of the topic that it came from.
READING = {
    "channels": "--channels", "step": "--step", "horizon": "--horizon", "calendar": "--calendar", "align": "--align",
    "timezone": "--timezone", "decode": "", "within": "", "complete": "", "duplicates": "", "lateness": "",
}  # fmt: skip


def settled(stream: Stream, options: Options) -> Options:
    """`options` with the settings that its `changes` make of the back-test's own defaults. Raises InputError, ConfigError.

    What `read` found in the file stays as it is; the stream's spec follows the settings.
    """
    if not options.changes:
        return options
    from streamrnn.config.settings import load  # slow to import, and seldom needed

    for key in options.changes:
        named = key.split(".")[0]
        if named in READING:
            instead = f"{READING[named]}, or" if READING[named] else "a configuration"
            raise InputError(
                f"--set {key} decides how the file is read: give {instead} -c".replace(", or -c", " or -c")
            )
    spec = stream.spec
    base = {
        "input": options.file.name,
        "channels": list(spec.channels),
        "step": stream.step.text,
        "timezone": spec.timezone,
        "horizon": spec.horizon,
        "quantiles": list(spec.quantiles),
        "calendar": [format_ms(length) for length in spec.calendar_ms],
    }
    options = replace(options, settings=load([], base | dict(options.changes), {}))
    stream.spec = _spec(stream, options)
    return options
