"""Which experts a stream's series have: as they are named, or as many as memory allows.

Persistence and the network are always there. The others keep state for each series and channel, the two ridges most of it,
so a fleet of a million series may have room for the light ones alone. The choice is made once, from the configuration, and
stands in what states mean (`streamrnn.meaning`).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from streamrnn.memory import format_bytes
from streamrnn.spec import EXPERTS, StreamSpec

SEASON_AGO, PROFILE, MOVES, DEVIATIONS, STACK = EXPERTS
FULL, LIGHT, OFF, AUTO = "full", "light", "off", "auto"
SETS: Final[dict[str, tuple[str, ...]]] = {FULL: EXPERTS, LIGHT: (SEASON_AGO, PROFILE), OFF: ()}
# What has nothing to say without a season.
SEASONAL: Final = (SEASON_AGO, PROFILE, DEVIATIONS)
# Of memory, for the experts of all series, where the configuration does not say.
EXPERTS_MEMORY_MAX: Final = 1 << 30
# Horizons that experts are weighed at; the last one is always among them.
RUNGS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)


def experts_setting(value: Any) -> str | tuple[str, ...]:
    """`auto`, `full`, `light`, `off` or names in the order of EXPERTS. Raises ValueError."""
    if isinstance(value, bool):  # YAML reads a bare `off` as false
        return AUTO if value else OFF
    if isinstance(value, str):
        word = value.strip()
        if word in (AUTO, *SETS):
            return word
        if word in EXPERTS:
            return (word,)
        raise ValueError(
            f"{word[:40]!r} is not known{_meant(word, (AUTO, *SETS, *EXPERTS))}; write auto, full, light, off or names"
        )
    if not isinstance(value, (list, tuple)):
        raise ValueError("write auto, full, light, off, or names such as [profile, moves]")
    for name in value:
        if name not in EXPERTS:
            raise ValueError(
                f"{str(name)[:40]!r} is not an expert{_meant(str(name), EXPERTS)}; there are {', '.join(EXPERTS)}"
            )
    if len(set(value)) != len(value):
        raise ValueError("an expert is named twice")
    return tuple(name for name in EXPERTS if name in value)


def written_experts(setting: str | tuple[str, ...]) -> str | list[str]:
    """As it is written in a file; `experts_setting` reads it back."""
    return setting if isinstance(setting, str) else list(setting)


def _meant(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.lower(), known, n=1)
    return f", did you mean {near[0]}?" if near else ""


@dataclass(frozen=True, slots=True)
class Choice:
    """`kind`: auto's choice, or the setting's word, or `named`. `series_bytes`: their state in memory, of one series."""

    experts: tuple[str, ...]
    kind: str
    why: str
    series_bytes: int


def choose(setting: str | tuple[str, ...], spec: StreamSpec, memory_max: int) -> Choice:
    """The experts of a stream; those that need a season are left out where there is none, or it has no "season ago".

    `auto`: all of them where `series_max` series fit `memory_max` bytes, else the light ones, else none.
    """
    if setting != AUTO:
        named = SETS[setting] if isinstance(setting, str) else setting
        kind = setting if isinstance(setting, str) else "named"
        usable = _usable(named, spec)
        return Choice(usable, kind, "as configured" + _without(named, usable), _bytes(spec, usable))
    said: list[str] = []
    for kind in (FULL, LIGHT):
        usable = _usable(SETS[kind], spec)
        if not usable:
            continue
        size = _bytes(spec, usable)
        whole = (
            f"{kind} takes {format_bytes(size * spec.series_max)} ({spec.series_max:,} series of {format_bytes(size)})"
        )
        if size * spec.series_max <= memory_max:
            fits = f"within experts_memory_max ({format_bytes(memory_max)})"
            return Choice(usable, kind, "; ".join([*said, f"{whole}, {fits}"]) + _without(SETS[kind], usable), size)
        said.append(f"{whole}, more than experts_memory_max ({format_bytes(memory_max)})")
    return Choice((), OFF, "; ".join(said), 0)


def _usable(names: Sequence[str], spec: StreamSpec) -> tuple[str, ...]:
    ago = any(season.lag for season in spec.seasons)
    return tuple(name for name in names if (spec.seasons or name not in SEASONAL) and (ago or name != SEASON_AGO))


def _without(named: Sequence[str], usable: Sequence[str]) -> str:
    left = [name for name in named if name not in usable]
    return f"; without {', '.join(left)}, for which there is no season" if left else ""


def _bytes(spec: StreamSpec, experts: tuple[str, ...]) -> int:
    return experts_bytes(replace(spec, experts=experts)) if experts else 0


def experts_bytes(spec: StreamSpec) -> int:
    """What the experts of one series keep, in bytes of memory: float32 numbers, per channel.

    Of a ridge on p features: a packed triangle of p (p + 1) / 2, and for each rung p sums and p weights. Of each expert and
    rung: its loss, and its forecasts until their targets come, as many as the rung is steps ahead.
    """
    channels, horizon, experts = len(spec.channels), spec.horizon, spec.experts
    rungs = sorted({rung for rung in RUNGS if rung < horizon} | {horizon})
    cells = sum(season.bins for season in spec.seasons)
    ago = max((season.lag for season in spec.seasons), default=0)
    said = [name for name in experts if name != STACK]  # beside the network; the stack's is made of these
    numbers = len(rungs) * (len(experts) + 3) + (len(said) + 1) * sum(rungs)
    if SEASON_AGO in experts or DEVIATIONS in experts or MOVES in experts:
        numbers += max(ago, horizon) + horizon + 20  # the values themselves
    if PROFILE in experts or DEVIATIONS in experts:
        numbers += cells
    for name, features in ((MOVES, 16 + channels), (DEVIATIONS, 24 + channels)):
        if name in experts:
            numbers += features * (features + 1) // 2 + 2 * features * len(rungs) + 16
    if DEVIATIONS in experts:
        numbers += horizon + 8
    if STACK in experts:
        numbers += 25 * len(rungs)
    return 4 * numbers * channels
