"""Which experts a stream's series have: as they are named, or as many as memory allows.

Persistence and the network are always there. The others keep state for each series and channel, the two ridges most of it,
so a fleet of a million series may have room for the light ones alone. The choice is made once, from the configuration, and
stands in what states mean (`streamrnn.meaning`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamrnn.experts import AUTO, FULL, LIGHT, OFF, SEASONAL, SETS
from streamrnn.memory import format_bytes
from streamrnn.spec import StreamSpec
from streamrnn.stream.forecasting import forecast_fields, usable_experts


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
        usable = usable_experts(named, spec.seasons)
        return Choice(usable, kind, "as configured" + _without(named, usable), _bytes(spec, usable))
    said: list[str] = []
    for kind in (FULL, LIGHT):
        usable = usable_experts(SETS[kind], spec.seasons)
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


def _without(named: Sequence[str], usable: Sequence[str]) -> str:
    left = [name for name in named if name not in usable]
    seasonal = [name for name in left if name in SEASONAL]
    said = f"; without {', '.join(seasonal)}, for which there is no season" if seasonal else ""
    idle = [name for name in left if name not in SEASONAL]
    return said + (f"; without {', '.join(idle)}, which is made of moves or deviations" if idle else "")


def _bytes(spec: StreamSpec, experts: tuple[str, ...]) -> int:
    return experts_bytes(replace(spec, experts=experts))


def experts_bytes(spec: StreamSpec) -> int:
    """What the experts of one series keep, in bytes of memory: what its row has on top of one that has none."""
    whole, without = (sum(field.size for field in forecast_fields(each)) for each in (spec, replace(spec, experts=())))
    return whole - without
