"""Signals by name, for the command line."""

from __future__ import annotations

from collections.abc import Sequence

from simulators import book, prices, sensors
from simulators.drift import KINDS, Drift
from simulators.signal import Signal

SIMULATORS = ("sensors", "prices", "book")


def default_channels(kind: str) -> tuple[str, ...]:
    """The channels a kind has by default. Raises ValueError naming the kinds there are."""
    known = {
        "sensors": sensors.DEFAULT_CHANNELS,
        "prices": prices.DEFAULT_CHANNELS,
        "book": book.DEFAULT_CHANNELS,
    }
    if kind not in known:
        raise ValueError(f"no simulator {kind!r}: there are {', '.join(SIMULATORS)}")
    return known[kind]


def make(
    kind: str,
    series: int,
    channels: Sequence[str] = (),
    seed: int = 0,
    cycle_steps: float = 600.0,
    drift: str = "",
    drift_at: int = 0,
    drift_size: float | None = None,
) -> Signal:
    """A signal by its kind. Raises ValueError naming the kinds (or drifts) there are."""
    chosen = tuple(channels) or default_channels(kind)
    signal: Signal
    if kind == "sensors":
        signal = sensors.Sensors(series, chosen, cycle_steps, seed=seed)
    elif kind == "prices":
        signal = prices.Prices(series, chosen, seed=seed)
    elif kind == "book":
        signal = book.Book(series, chosen, seed=seed)
    else:
        raise ValueError(f"no simulator {kind!r}: there are {', '.join(SIMULATORS)}")
    if not drift:
        return signal
    for known in KINDS:
        if known == drift:
            return Drift(signal, known, drift_at, drift_size)
    raise ValueError(f"no drift {drift!r}: there are {', '.join(KINDS)}")
