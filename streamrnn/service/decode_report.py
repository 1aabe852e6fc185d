"""What records become, one by one: what `streamrnn decode` shows of a file or a topic."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from streamrnn.calendar import milliseconds
from streamrnn.codec import Decoder
from streamrnn.instants import EPOCH
from streamrnn.records import Record, TickBatch


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


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML and JSON."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
