"""A proposal, tried on its own sample: where most of it would be refused, the setting that reads more of it.

What a record looks like says which preset it is, and not what its user has set: the unit of the times, a name that nobody
has given, numbers as texts. The sample itself does.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from streamrnn.config.settings import ConfigError, Settings, load
from streamrnn.records import Reason, Record, Rejected, Skipped, TickBatch
from streamrnn.wire.codec import Decoder
from streamrnn.wire.presets import with_preset
from streamrnn.wire.schemas import Schemas

# Event times that are believed where a record has no time of its own: 1990 to 2100.
BELIEVED_US = (631_152_000_000_000, 4_102_444_800_000_000)
# A zone is taken for UTC where the times are as near to the records' own as this.
NEAR_US = 600_000_000
_ROUNDS = 4

# (what is changed in `decode`, what is said of it)
Change = tuple[dict[str, Any], str]


class Trial:
    """What the sample becomes by some settings. Raises ConfigError where they are none."""

    def __init__(self, settings: Mapping[str, Any], records: Sequence[Record], schemas: Schemas | None) -> None:
        self.settings = settings
        # Where the registry is, is not looked at here.
        given = settings if schemas is None else {**settings, "registry": {"url": "http://registry"}}
        self.loaded: Settings = load([], given, {})
        self.decoder = Decoder(self.loaded.stream_spec(), self.loaded.decode_spec())
        if schemas is not None and self.decoder.schemas is not None:
            self.decoder.schemas.share(schemas)
        batch, refused, skipped = self.decoder.read(records)
        self.batch: TickBatch = batch
        self.refused: list[Rejected] = refused
        self.skipped: list[Skipped] = skipped
        self.reasons = Counter(each.reason for each in refused)
        own_us = np.asarray(batch.record_ts_ms, dtype=np.int64) * 1000
        apart = np.asarray(batch.ts_us, dtype=np.int64) - own_us
        there = own_us > 0
        spec = self.decoder.spec
        near = (np.abs(apart) <= spec.past_max_ms * 1000) & (apart <= spec.future_max_ms * 1000)
        alone = (batch.ts_us >= BELIEVED_US[0]) & (batch.ts_us < BELIEVED_US[1])
        self.believed = int(np.where(there, near, alone).sum())
        self.near = bool(there.any()) and float(np.median(np.abs(apart[there]))) <= NEAR_US

    @property
    def worth(self) -> tuple[int, int]:
        return self.believed, -len(self.refused)


def amended(
    settings: dict[str, Any], records: Sequence[Record], notes: list[str], schemas: Schemas | None = None
) -> Trial:
    """The settings with which most of the sample is read; says in `notes` what was changed. Raises ConfigError."""
    best = Trial(settings, records, schemas)
    for _ in range(_ROUNDS):
        change = next(_better(best, records, schemas), None)
        if change is None:
            break
        best, note = change
        notes.append(note)
    return best


def _better(at: Trial, records: Sequence[Record], schemas: Schemas | None) -> Iterator[tuple[Trial, str]]:
    for trouble, changes in _CHANGES:
        if not trouble(at):
            continue
        found: list[tuple[tuple[int, int], Trial, str]] = []
        for change, note in changes(at, records):
            decode = {**at.settings.get("decode", {}), **change}
            with contextlib.suppress(ConfigError):
                trial = Trial({**at.settings, "decode": decode}, records, schemas)
                if trial.worth > at.worth and (trial.near or "timezone" not in change):
                    found.append((trial.worth, trial, note))
        if found:
            _, trial, note = max(found, key=lambda each: each[0])
            yield trial, note


def _often(reason: Reason) -> Callable[[Trial], bool]:
    return lambda at: 2 * at.reasons[reason] > len(at.batch) + len(at.refused)


def _not_believed(at: Trial) -> bool:
    return 2 * at.believed < len(at.batch) or at.reasons["timestamp"] > 0


def _units(at: Trial, records: Sequence[Record]) -> Iterator[Change]:
    base = with_preset(at.settings.get("decode", {}), ())
    for unit in ("s", "ms", "us", "ns"):
        if unit != base.get("ts_unit", "ms"):
            yield {"ts_unit": unit}, f"the times are in {unit} (decode.ts_unit)"


def _zones(at: Trial, records: Sequence[Record]) -> Iterator[Change]:
    if "timezone" not in at.settings.get("decode", {}):
        yield {"timezone": "UTC"}, "times have no zone; as UTC they are within ten minutes of the records' own time"


def _texts(at: Trial, records: Sequence[Record]) -> Iterator[Change]:
    yield {"numbers": "text"}, "the numbers are texts (decode.numbers)"


def _names(at: Trial, records: Sequence[Record]) -> Iterator[Change]:
    decode = at.settings.get("decode", {})
    if with_preset(decode, ()).get("series") is None and all(record.key is not None for record in records):
        pass
    elif decode.get("preset") in ("telegraf", "influx"):
        yield {"series": "name"}, "series: the measurement's name, for there are no tags that could say more"
    if named_by_key(records):
        yield {"series": "@key"}, "series: no field names it; the record's key does"
    yield {"series": "@topic"}, "series: nothing names it; all is one series, named by the topic"


def named_by_key(records: Sequence[Record]) -> bool:
    """Whether each record has a key that is a text, and most keys come again."""
    keys = []
    for record in records:
        if record.key is None:
            return False
        try:
            keys.append(bytes(record.key).decode())
        except UnicodeDecodeError:
            return False
    return (len(set(keys)) < len(keys) or len(keys) <= 20) and all(key and key.isprintable() for key in keys)


def _skips(at: Trial, records: Sequence[Record]) -> Iterator[Change]:
    yield {"others": "skip"}, "records without these numbers, such as heartbeats, are skipped (decode.others)"


_CHANGES: tuple[tuple[Callable[[Trial], bool], Callable[[Trial, Sequence[Record]], Iterator[Change]]], ...] = (
    (_often("type"), _texts),
    (_often("no-series"), _names),
    (_often("range"), _names),
    (_not_believed, _units),
    (lambda at: at.reasons["timestamp"] > 0, _zones),
    (lambda at: at.reasons["no-values"] > 0 and at.believed > 0, _skips),
)
