"""The experts by their names, and the setting `experts`. Which ones a stream has is decided in `stream.choice`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final

from streamrnn.spec import EXPERTS

SEASON_AGO, PROFILE, MOVES, DEVIATIONS, STACK = EXPERTS
FULL, LIGHT, OFF, AUTO = "full", "light", "off", "auto"
SETS: Final[dict[str, tuple[str, ...]]] = {FULL: EXPERTS, LIGHT: (SEASON_AGO, PROFILE), OFF: ()}
# What has nothing to say without a season.
SEASONAL: Final = (SEASON_AGO, PROFILE, DEVIATIONS)
# Of memory, for the experts of all series, where the configuration does not say.
EXPERTS_MEMORY_MAX: Final = 1 << 30


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
