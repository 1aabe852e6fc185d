"""What records become, one by one: what `streamrnn decode` shows of a file or a topic."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from streamrnn.calendar import milliseconds
from streamrnn.records import Record, TickBatch
from streamrnn.wire.codec import Decoder
from streamrnn.wire.instants import EPOCH, UNREADABLE


def pictures(decoder: Decoder, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """One a record: `{"record", "ticks", "refused", "skipped"}`; where elements of it have fates of their own, `elements`."""
    for number, record in enumerate(records):
        batch, refused, skipped = decoder.read([record])
        shown: dict[str, Any] = {
            "record": number,
            "ticks": [_tick(decoder, batch, i) for i in range(len(batch))],
            "refused": refused[0].reason if refused else None,
            "skipped": skipped[0].reason if skipped else None,
        }
        if refused:
            shown["detail"] = refused[0].detail
        if any(each.index >= 0 for each in refused):
            shown["elements"] = [{"index": r.index, "refused": r.reason, "detail": r.detail} for r in refused]
        yield shown


def _tick(decoder: Decoder, batch: TickBatch, i: int) -> dict[str, Any]:
    values = zip(decoder.spec.channels, batch.values[i].tolist(), strict=True)
    return {
        "series": batch.series[i],
        "ts": milliseconds(int(batch.ts_us[i])),
        "values": {name: value for name, value in values if not math.isnan(value)},
    }


def line_of(picture: dict[str, Any]) -> str:
    """The same for people."""
    number = picture["record"]
    if not picture["ticks"]:
        if picture["refused"]:
            return f"record {number}: refused: {picture['refused']}: {picture['detail']}"
        return f"record {number}: skipped: {picture['skipped']}"
    shown = [tick_line(tick) for tick in picture["ticks"][:6]]
    more = len(picture["ticks"]) - len(shown)
    if more:
        shown.append(f"and {more} ticks more")
    if picture["refused"]:
        shown.append(f"refused in part: {picture['refused']}: {picture['detail']}")
    return f"record {number}: " + f"\n  {' ' * len(f'record {number}')}".join(shown)


def tick_line(tick: dict[str, Any]) -> str:
    try:
        moment = f"{EPOCH + timedelta(milliseconds=tick['ts']):%Y-%m-%d %H:%M:%S.%f}".rstrip("0").rstrip(".") + "Z"
    except OverflowError:
        moment = f"{tick['ts']} ms"
    values = " ".join(f"{name}={value:.10g}" for name, value in tick["values"].items()) or "(all missing)"
    return f"{tick['series']}  {moment}  {values}"


def summary(pictures: Sequence[dict[str, Any]]) -> str:
    ticks = [tick for picture in pictures for tick in picture["ticks"]]
    said = [f"{len(pictures)} records: {len(ticks)} ticks of {len({tick['series'] for tick in ticks})} series"]
    for word in ("refused", "skipped"):
        reasons = Counter(picture[word] for picture in pictures if picture[word])
        if reasons:
            said.append(f"{word}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()))
    return "; ".join(said)


# Fields that distinguish series where a name does not.
_APART = re.compile(
    r"(exchange|venue|market|site|plant|line|gateway|area|region|host|device|machine|sensor|station|building|symbol)(_?(id|name))?$",
    re.IGNORECASE,
)


def warnings(decoder: Decoder, records: Sequence[Record]) -> list[str]:
    """What is read, and is most likely not what is meant: two series under one name, one series in several partitions."""
    found = not_as_meant(decoder, records)
    places: dict[str, set[int]] = {}
    for record in records:
        for name in set(decoder.read([record]).batch.series):
            places.setdefault(name, set()).add(record.partition)
    shared = [name for name, where in places.items() if len(where) > 1]
    if shared:
        found.append(
            f"{len(shared)} series lie in several partitions (such as {shared[0]}): each partition keeps a state of its own, "
            "and sees gaps that are none. Key the records by series"
        )
    return found


def not_as_meant(decoder: Decoder, records: Sequence[Record]) -> list[str]:
    """The same of the names and the times alone."""
    spec, odd = decoder.spec, 0
    first: tuple[int | float, bool, int, str] = (0, False, 0, "")
    texts: dict[tuple[str, str], list[str]] = {}  # (series, field) → its texts, one for each time that it changes
    for record in records:
        batch, _, _ = decoder.read([record])
        for ts_us in batch.ts_us.tolist() if record.timestamp > 0 else ():
            apart_ms = ts_us // 1000 - record.timestamp
            if abs(apart_ms) > spec.past_max_ms or apart_ms > spec.future_max_ms:
                if not odd:
                    first = (
                        milliseconds(ts_us),
                        abs(apart_ms) <= spec.past_max_ms,
                        record.timestamp,
                        _unit(ts_us, record),
                    )
                odd += 1
        if len(set(batch.series)) == 1:
            for path, text in _texts(record.value or b""):
                seen = texts.setdefault((batch.series[0], path), [])
                if not seen or seen[-1] != text:
                    seen.append(text)
    found = []
    for (name, path), seen in texts.items():
        if len(seen) > len(set(seen)) > 1:  # it went back to one that was before
            two = " and ".join(list(dict.fromkeys(seen))[:2])
            found.append(
                f"ticks of {two} ({path}) take turns under the one name {name}: give both fields in decode.series"
            )
    found += [
        f"the one name {name} comes of {one} and of {other}: two series share a state; add a field to decode.series"
        for name, one, other in decoder.ambiguous_names()
    ]
    if odd:
        reason = "future" if first[1] else "timestamp"
        found.append(
            f"{odd} ticks are refused by the service as `{reason}`: the first is at {first[0]} ms, and its record's own time is "
            f"{first[2]}{first[3]}"
        )
    return found


def _unit(ts_us: int, record: Record) -> str:
    """The unit in which a time would be within a year of its record's."""
    for factor, unit in ((1000.0, "s"), (0.001, "us"), (0.000_001, "ns")):
        if abs(ts_us / 1000 * factor - record.timestamp) < 366 * 86_400_000:
            return f": it looks like {unit} (decode.ts_unit)"
    return ""


def _texts(payload: bytes) -> Iterator[tuple[str, str]]:
    """Fields of a document whose names say that they distinguish things, outside of arrays."""
    try:
        waiting: list[tuple[str, Any]] = [("", msgspec.json.decode(payload))]
    except UNREADABLE:
        return
    while waiting:
        path, at = waiting.pop()
        if isinstance(at, dict) and path.count(".") < 4:
            waiting += [(f"{path}.{key}" if path else key, value) for key, value in at.items()]
        elif isinstance(at, str) and _APART.search(path.split(".")[-1]):
            yield path, at


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML and JSON."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
