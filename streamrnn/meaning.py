"""What the numbers of a stream mean: the identity that states and weights carry.

Two arrays of one shape may speak of different things: channels in another order, other quantile levels of the same
number, steps of another length. So what was kept says what it means, by name, and what is taken up again is compared by
that. `change` says, for two meanings, what one can take over from the other, and in the words of the configuration what
it cannot.

    carried by name   channels, quantile levels, horizons, calendar features, seasons, experts
    carried whole     `align` and `complete`: which ticks make a step may differ by one tick, its numbers mean the same
    begins anew       another `step`, `within` or `decode.ts_unit`; a channel that is read from another field is a new one

Which weights computed a recurrent state stands in the state itself (the column `generation`), and the kind and size of
their cells in the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec
import xxhash
from msgspec import Meta

from streamrnn.calendar import is_utc
from streamrnn.durations import format_ms
from streamrnn.experts import SEASONAL, STACK
from streamrnn.spec import StreamSpec

VERSION = 1
# More than any configuration has, and less than a few bytes may claim.
_Word = Annotated[str, Meta(max_length=4096)]
_Words = Annotated[tuple[_Word, ...], Meta(max_length=4096)]
_Levels = Annotated[tuple[float, ...], Meta(max_length=4096)]


class MeaningError(ValueError):
    """A description that cannot be read; the message says why."""


class Meaning(msgspec.Struct, frozen=True, omit_defaults=False, forbid_unknown_fields=False):
    """`step`, `calendar` (periods of the calendar features) and `season` name their time zone where they depend on it.

    `fields`: for each channel the field of a record that it is read from, "" where the contract says it. `experts` beside
    persistence and the network. States that name none of `season` and `experts` are of a version that kept none.
    """

    channels: _Words
    step: _Word
    horizon: Annotated[int, Meta(ge=1, le=100_000)]
    quantiles: _Levels
    calendar: _Words = ()
    within: _Word = "one"
    align: _Word = "floor"
    complete: _Word = "record"
    ts_unit: _Word = "ms"
    fields: _Words = ()
    version: int = VERSION
    season: _Words = ()
    experts: _Words = ()

    def __post_init__(self) -> None:
        if len(set(self.channels)) != len(self.channels) or len(set(self.quantiles)) != len(self.quantiles):
            raise ValueError("a channel or a quantile is named twice")

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @property
    def id(self) -> str:
        """16 hex digits; equal for equal meanings."""
        return f"{xxhash.xxh3_64_intdigest(self.encode()):016x}"


def decode_meaning(text: bytes) -> Meaning:
    """The reverse of `Meaning.encode`. Raises MeaningError."""
    try:
        return msgspec.json.decode(text, type=Meaning)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MeaningError(f"the description of what a state means cannot be read: {error}") from error


def meaning_of(
    spec: StreamSpec, ts_unit: str = "ms", values: Mapping[str, str] | None = None, value: str | None = "value"
) -> Meaning:
    """What a stream's numbers mean. `values` and `value` are those of `decode`: where a channel's numbers are read."""
    zone = "" if is_utc(spec.timezone) else f" of {spec.timezone}"
    calendar = spec.calendar_step
    if calendar is None:
        step = format_ms(spec.step_ms) if spec.step_ms else "irregular"
    else:
        step = f"{calendar.count}{calendar.unit}" + ("" if is_utc(calendar.timezone) else f" of {calendar.timezone}")
    long = (
        "" if value in (None, "value") else str(value)
    )  # the one field that holds all channels' values in long records
    fields = tuple(
        " or ".join(path for path in ("" if wide == f"values.{channel}" else wide, long) if path)
        for channel in spec.channels
        for wide in ((values or {}).get(channel, ""),)
    )
    return Meaning(
        channels=spec.channels,
        step=step,
        horizon=spec.horizon,
        quantiles=spec.quantiles,
        calendar=tuple(format_ms(period) + zone for period in spec.calendar_ms),
        within=spec.within,
        align=spec.align,
        complete=spec.complete,
        ts_unit=ts_unit,
        fields=fields if any(fields) else (),
        season=tuple(season.name + zone for season in spec.seasons),
        experts=spec.experts,
    )


@dataclass(frozen=True)
class Change:
    """From one meaning to another."""

    before: Meaning
    now: Meaning

    @property
    def none(self) -> bool:
        return self.before == self.now

    @cached_property
    def channels(self) -> tuple[int, ...]:
        """For each channel of now, its place before; −1: there was none that means the same."""
        before = {channel: i for i, channel in enumerate(self.before.channels)}
        return tuple(
            before[channel] if channel in before and self._field(channel) == "" else -1 for channel in self.now.channels
        )

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """For each quantile level of now, its place before, or −1."""
        return _places(self.before.quantiles, self.now.quantiles)

    @cached_property
    def calendar(self) -> tuple[int, ...]:
        """For each calendar feature of now, its place before, or −1."""
        return _places(self.before.calendar, self.now.calendar)

    @cached_property
    def seasons(self) -> tuple[int, ...]:
        """For each season of now, its place before, or −1: the same one, on top of the same ones, for each is of what those
        before it leave."""
        return tuple(
            k if self.before.season[: k + 1] == self.now.season[: k + 1] else -1 for k in range(len(self.now.season))
        )

    @cached_property
    def experts(self) -> tuple[int, ...]:
        """For each expert of now, its place before, or −1: those that follow the season have another one where the first
        season is another, and the stack where it is of other experts."""
        found = list(_places(self.before.experts, self.now.experts))
        other = self.before.season[:1] != self.now.season[:1]
        for i, name in enumerate(self.now.experts):
            if name in SEASONAL and other:
                found[i] = -1
        if STACK in self.now.experts and (other or self.before.experts != self.now.experts):
            found[self.now.experts.index(STACK)] = -1
        return tuple(found)

    @property
    def same_inputs(self) -> bool:
        """Whether a network is shown the same numbers in the same places: then its recurrent state goes on."""
        return (
            self.channels == tuple(range(len(self.before.channels)))
            and self.calendar == tuple(range(len(self.before.calendar)))
            and not self.cold_weights
        )

    @cached_property
    def cold(self) -> str:
        """Why nothing of a state can be carried; "" where something can."""
        return self.cold_weights or (
            f"`decode.ts_unit` was {self.before.ts_unit}, and is {self.now.ts_unit}"
            if self.before.ts_unit != self.now.ts_unit
            else self._no_channel()
        )

    @cached_property
    def cold_weights(self) -> str:
        """Why nothing of a network can be carried; "" where something can."""
        for name in ("step", "within"):
            before, now = getattr(self.before, name), getattr(self.now, name)
            if before != now:
                return f"`{name}` was {before}, and is {now}"
        if self.before.version > VERSION:
            return f"its description is of a newer version ({self.before.version}; this one reads up to {VERSION})"
        return self._no_channel()

    def _words_of_experts(self) -> Iterator[str]:
        before, now = self.before, self.now
        cold = [name for name, place in zip(now.experts, self.experts, strict=True) if place < 0]
        new = [name for name in cold if name not in before.experts]
        if before.season != now.season:
            again = [name for name in cold if name not in new and (name != STACK or before.experts == now.experts)]
            again += [season for season, place in zip(now.season[1:], self.seasons[1:], strict=True) if place < 0]
            yield f"`season` was {_listed(before.season)}, and is {_listed(now.season)}: {_started_cold(again)}"
        if before.experts != now.experts:
            again = [name for name in cold if name in new or name == STACK]
            yield f"`experts` was {_listed(before.experts)}, and is {_listed(now.experts)}: {_started_cold(again)}"

    def _no_channel(self) -> str:
        if any(place >= 0 for place in self.channels):
            return ""
        return f"none of its `channels` is left: they were {_listed(self.before.channels)}, and are {_listed(self.now.channels)}"

    def _field(self, channel: str) -> str:
        """How a channel's numbers are read from another field than before; "" where they are not."""
        before, now = (_field_of(each, channel) for each in (self.before, self.now))
        return (
            ""
            if before == now
            else f"it was read from {before or 'its own field'}, and is from {now or 'its own field'}"
        )

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What is carried and what starts cold, setting by setting; empty where the meanings are equal."""
        return tuple(self._words())

    def _words(self) -> Iterator[str]:
        if self.cold:
            yield f"{self.cold}: everything starts cold"
            return
        before, now = self.before, self.now
        for i, channel in enumerate(now.channels):
            if self.channels[i] < 0:
                why = self._field(channel) if channel in before.channels else "it is new"
                yield f"channel {channel} starts cold: {why}"
        dropped = [channel for channel in before.channels if channel not in now.channels]
        if dropped:
            yield f"`channels` no longer names {_listed(dropped)}: the others are carried"
        kept = [place for place in self.channels if place >= 0]
        if kept != sorted(kept):
            yield "`channels` has another order: each is carried by its name"
        if before.horizon != now.horizon:
            later = f", the steps after {before.horizon} start cold" if now.horizon > before.horizon else ""
            yield f"`horizon` was {before.horizon}, and is {now.horizon}: the steps of both are carried{later}"
        if before.quantiles != now.quantiles:
            new = [f"{level:g}" for level, place in zip(now.quantiles, self.levels, strict=True) if place < 0]
            cold = f"; the offsets of {_listed(new)} start cold" if new else ""
            yield f"`quantiles` was {_listed(before.quantiles)}: scales and the levels of both are carried{cold}"
        if before.calendar != now.calendar:
            yield f"`calendar` was {_listed(before.calendar)}, and is {_listed(now.calendar)}: the rest is carried"
        yield from self._words_of_experts()
        for name in ("align", "complete"):
            if getattr(before, name) != getattr(now, name):
                yield f"`{name}` was {getattr(before, name)}, and is {getattr(now, name)}: everything is carried"
        if not self.same_inputs:
            yield "the network's recurrent state begins at zero"


def _places(before: Sequence[object], now: Sequence[object]) -> tuple[int, ...]:
    known = {each: i for i, each in enumerate(before)}
    return tuple(known.get(each, -1) for each in now)


def _field_of(meaning: Meaning, channel: str) -> str:
    at = meaning.channels.index(channel) if channel in meaning.channels else -1
    return meaning.fields[at] if 0 <= at < len(meaning.fields) else ""


def _started_cold(names: Sequence[str]) -> str:
    return (
        f"{_listed(names)} start{'s' if len(names) == 1 else ''} cold, the rest is carried"
        if names
        else "the rest is carried"
    )


def _listed(names: Sequence[object]) -> str:
    shown = [f"{name:g}" if isinstance(name, float) else str(name) for name in names[:8]]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(shown) + more if shown else "none"
