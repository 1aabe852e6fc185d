"""What an operator changes between two runs: what means the same goes on by name, what does not starts cold, and once.

The matrix is every setting that shapes a state × (changed, changed back, changed twice) × (restart, kill -9, take-over by
another worker) × both deliveries. A part of it is lived here, so that every setting meets every way and every way every
delivery; the whole of it with `make test-kafka-long`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from lives import (
    CASES,
    DELIVERIES,
    EVENTS,
    FIRST,
    HISTORIES,
    LEVELS,
    OWN,
    PARTITIONS,
    SERIES,
    Lives,
    check_forecasts,
)
from running import on_virtual_clock

from streamrnn.service.config import Settings
from streamrnn.service.worker import Worker

WHOLE = list(product(CASES, HISTORIES, EVENTS, DELIVERIES))
# Three of a case's eighteen: each history once, each event once, the deliveries in turn.
SHORT = [
    (name, how, EVENTS[(h + i) % 3], DELIVERIES[(h + i // 3) % 2])
    for i, name in enumerate(CASES)
    for h, how in enumerate(HISTORIES)
]


def through(history: str, name: str) -> list[dict[str, Any]]:
    """The changes from the first configuration on, each as it then is."""
    case = CASES[name]
    return {
        "changed": [{}, case.once],
        "changed back": [{}, case.once, {}],
        "changed twice": [{}, case.once, case.twice],
    }[history]


def kept(history: list[Settings]) -> tuple[list[str], int, list[float]]:
    """What all configurations had, and so must have been carried all the way: (channels, horizon, quantiles)."""
    fields = [(chosen.decode.values or {}) for chosen in history]
    channels = [
        c
        for c in LEVELS
        if all(c in chosen.channels for chosen in history)
        and len({field.get(c, f"values.{c}") for field in fields}) == 1
    ]
    quantiles = [q for q in history[0].quantiles if all(q in chosen.quantiles for chosen in history)]
    return channels, min(chosen.horizon for chosen in history), quantiles


def read(history: list[Settings]) -> dict[str, set[str]]:
    """The fields of a record that each channel was read from."""
    found: dict[str, set[str]] = {}
    for chosen in history:
        for c in chosen.channels:
            found.setdefault(c, set()).add((chosen.decode.values or {}).get(c, f"values.{c}").removeprefix("values."))
    return found


def check_carried(lives: Lives, workers: list[Worker], history: list[Settings]) -> None:
    """What was carried is what an engine has that was never interrupted, nor ever knew anything else, bit for bit."""
    channels, horizon, quantiles = kept(history)
    chosen = history[-1]
    for channel in channels:
        whole = lives.uninterrupted(chosen, channel, horizon, quantiles)
        c = chosen.channels.index(channel)
        levels = [chosen.quantiles.index(q) for q in quantiles]
        for i, series in enumerate(SERIES):
            partition = i % PARTITIONS
            there = whole.table.find(partition, series)
            worker = next(w for w in workers if w.engine.table.find(partition, series) is not None)
            here, column = worker.engine.table.find(partition, series), worker.engine.table.columns
            for name in OWN:
                assert column[name][here, c] == whole.table.columns[name][there, 0], (channel, series, name)
            for name in ("spread", "theta"):
                mine, theirs = column[name][here, :horizon, c], whole.table.columns[name][there, :horizon, 0]
                assert np.array_equal(mine[:, levels] if name == "theta" else mine, theirs), (channel, series, name)


@pytest.mark.parametrize(("name", "how", "event", "delivery"), SHORT)
def test_what_means_the_same_goes_on_and_the_rest_is_cold_once(name: str, how: str, event: str, delivery: str) -> None:
    on_virtual_clock(lived)(name, how, event, delivery)


@pytest.mark.kafka_long
@pytest.mark.parametrize(("name", "how", "event", "delivery"), [row for row in WHOLE if row not in SHORT])
def test_the_rest_of_the_matrix(name: str, how: str, event: str, delivery: str) -> None:
    on_virtual_clock(lived)(name, how, event, delivery)


async def lived(name: str, how: str, event: str, delivery: str) -> None:
    lives = Lives(delivery)
    history = [lives.chosen(changes) for changes in through(how, name)]
    lives.create(history[0])
    lives.send(40)
    worker = lives.start(history[0])
    await lives.served(worker)
    assert lives.counts(worker) == (0, 0, 0)
    for k in range(1, len(history)):
        meanings = {chosen.meaning() for chosen in history[k - 1 : k + 1]}
        told = len(lives.forecasts())
        worker = await lives.changed_to(worker, history[k], event)
        # Once: nothing that was carried is cold, and what is cold is whole partitions.
        cold, carried, rows = lives.counts(worker)
        if CASES[name].cold:
            assert (cold, carried, rows) == (PARTITIONS, 0, len(SERIES))
        else:
            assert (cold, carried, rows) == (0, len(SERIES) if len(meanings) > 1 else 0, 0)
            if history[k].lateness == history[k - 1].lateness:  # else its steps close with what comes next
                check_carried(lives, [worker], history[: k + 1])
        lives.send(25)
        await lives.served(worker)
        # And never again, however the next one comes to its partitions.
        worker = await lives.changed_to(worker, history[k], "restart" if event == "kill" else "kill")
        assert lives.counts(worker) == (0, 0, 0), "cold, or carried, a second time for one change"
        lives.send(5)
        await lives.served(worker)
        if not CASES[name].cold:
            check_carried(lives, [worker], history[: k + 1])
        assert len(lives.forecasts()) > told
    check_forecasts(lives.forecasts(), () if CASES[name].cold else kept(history)[0], read(history))
    await lives.stop(worker)
    assert history[0].channels == tuple(FIRST["channels"])
