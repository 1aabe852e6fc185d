"""An operator's rollback stands, and weights do not come into use faster than learn.swap_min."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from running import all_committed, documents, feed_until, made, on_virtual_clock, send, until, worker

from streamrnn.config.settings import Settings
from streamrnn.model.gate import Evaluation, Verdict
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, pack, weights_id
from streamrnn.stores.models import BY_GATE, BY_OPERATOR, ModelsFollower, ModelsWriter, Pointer, rolled_back
from streamrnn.stream.learner import Learner, Round
from streamrnn.training.trainer import Trainer
from streamrnn.transports.base import Transport, clock_s
from streamrnn.transports.memory.broker import MemoryBroker
from streamrnn.transports.memory.transport import MemoryTransport

QUICK: dict[str, Any] = {
    "model.hidden": 8,
    "model.layers": 1,
    "learn.min_steps": 100,
    "learn.length": 48,
    "learn.burn_in": 8,
    "learn.holdout": 24,
    "learn.window": 512,
    "learn.interval": "10ms",
    "learn.swap_min": "0s",
    "learn.rollback_hold": "0s",
}
GRADE = Evaluation(True, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), np.zeros((1, 3)), np.ones((1, 3)), 100, np.full((3, 2), 0.5))


def fresh(chosen: Settings, seed: int) -> tuple[str, bytes, Network]:
    torch.manual_seed(seed)
    network = Network(chosen.model_spec())
    torch.nn.init.normal_(network.out.weight, 0.0, 0.05)
    return weights_id(network), pack(network, WeightsMeta()), network


class Rounds:
    """In place of a learner's rounds: each is accepted at once, with other weights or with those it is given to find."""

    def __init__(self, learner: Learner, chosen: Settings) -> None:
        self.learner, self._settings = learner, chosen
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.finds: Network | None = None
        self.bases: list[str] = []  # what each round was judged against
        self.found: list[str] = []

    def __call__(self, enough: Callable[[], bool] = lambda: False) -> Round:
        incumbent = self.learner.incumbent
        self.bases.append("" if incumbent is None else weights_id(incumbent))
        self.began.set()
        assert self.go_on.wait(10)
        self.learner.rounds += 1
        network = self.finds or fresh(self._settings, 1000 + self.learner.rounds)[2]
        self.learner.incumbent = network
        self.found.append(weights_id(network))
        return Round(self.learner.rounds, Verdict(True, "accepted"), 1, 0.1, GRADE, GRADE, network)


@asynccontextmanager
async def training(chosen: Settings, transport: Transport, ahead_ms: int = 0) -> AsyncIterator[tuple[Trainer, Rounds]]:
    trainer = Trainer(chosen, transport, lambda: int(time.time() * 1000) + ahead_ms)
    rounds = Rounds(trainer.learner, chosen)
    trainer.learner.round = rounds  # type: ignore[method-assign]
    task = asyncio.create_task(trainer.run())
    try:
        yield trainer, rounds
    finally:
        trainer.stop()
        rounds.go_on.set()
        await asyncio.wait_for(task, 20)


def pointers(broker: MemoryBroker) -> list[Pointer]:
    log = broker.topics["app.models"][0]
    return [msgspec.json.decode(r.value, type=Pointer) for r in log if r.key == b"current" and r.value is not None]


async def roll_back(broker: MemoryBroker, to: str, at_ms: int | None = None) -> None:
    """As `streamrnn models rollback` does it."""
    transport = MemoryTransport(broker)
    follower = ModelsFollower(transport, "app.models")
    await follower.start()
    await follower.catch_up()
    assert follower.blob(to) is not None
    pointer = rolled_back(follower.pointer, to, int(time.time() * 1000) if at_ms is None else at_ms)
    await ModelsWriter(transport.sink(), "app.models").point(pointer)


async def published(broker: MemoryBroker, count: int) -> None:
    """Until the gate has put so many in use. A round needs news."""
    await feed_until(broker, lambda: sum(p.by == BY_GATE for p in pointers(broker)) >= count)


async def test_a_round_that_was_running_at_the_rollback_is_thrown_away() -> None:
    chosen, broker = made(**QUICK)
    send(broker, 100)
    async with training(chosen, MemoryTransport(broker)) as (_, rounds):
        await published(broker, 2)
        good, bad = (pointer.id for pointer in pointers(broker)[:2])
        rounds.go_on.clear()
        rounds.began.clear()
        await feed_until(broker, rounds.began.is_set)
        await roll_back(broker, good)
        before, so_far = len(rounds.bases), sum(pointer.by == BY_GATE for pointer in pointers(broker))
        rounds.go_on.set()
        await published(broker, so_far + 1)
    pointed = pointers(broker)
    assert rounds.found[before - 1] not in {pointer.id for pointer in pointed}
    at = next(i for i, pointer in enumerate(pointed) if pointer.by == BY_OPERATOR)
    # What came next was trained from the weights that were rolled back to, and not from those of the running round.
    assert pointed[at].refused == (pointed[at - 1].id,) and pointed[at - 1].id != good
    assert pointed[at + 1].base == good and rounds.bases[before] == good
    assert bad in {pointer.id for pointer in pointed[:at]}


@on_virtual_clock
async def test_nothing_is_published_until_the_hold_is_over_and_a_restart_does_not_end_it() -> None:
    chosen, broker = made(**{**QUICK, "learn.rollback_hold": "1h"})
    send(broker, 100)
    async with training(chosen, MemoryTransport(broker)):
        await published(broker, 2)
    good, begin = pointers(broker)[0].id, clock_s()
    await roll_back(broker, good)
    pointed = pointers(broker)
    for _ in range(2):  # two lives of the trainer
        async with training(chosen, MemoryTransport(broker)) as (trainer, rounds):
            await until(lambda: trainer.state == "held")
            send(broker, 20, first=400)
            await asyncio.sleep(0.2)
            assert rounds.bases == [] and pointers(broker) == pointed
            assert trainer.learner.incumbent is not None and weights_id(trainer.learner.incumbent) == good

    async with training(chosen, MemoryTransport(broker), ahead_ms=3_600_000 - 5_000):
        await published(broker, sum(p.by == BY_GATE for p in pointed) + 1)
    assert clock_s() - begin >= 5.0
    assert pointers(broker)[len(pointed)].base == good


@on_virtual_clock
async def test_weights_that_were_rolled_back_from_are_never_published_again() -> None:
    chosen, broker = made(**QUICK)
    send(broker, 100)
    async with training(chosen, MemoryTransport(broker)) as (trainer, rounds):
        await published(broker, 1)
        good = pointers(broker)[0].id
        bad, _, network = fresh(chosen, 7)
        rounds.finds = network
        # A round that was running already has found something else.
        await feed_until(broker, lambda: pointers(broker)[-1].id == bad)
        so_far = sum(pointer.by == BY_GATE for pointer in pointers(broker))
        await roll_back(broker, good)
        rounds.bases.clear()
        # Each round finds them again, and each time training goes back to what was rolled back to.
        await feed_until(broker, lambda: rounds.bases[-3:] == [good, good, good])
        rounds.finds = None
        await published(broker, so_far + 1)
        rounds.finds, rounds.found = network, []
        await feed_until(broker, lambda: rounds.found.count(bad) >= 2 and trainer.last == "superseded")
    # Also not after others have served since: the pointer of the gate carries the refusal on.
    assert bad in pointers(broker)[-1].refused and pointers(broker)[-1].id != bad
    assert sum(pointer.id == bad for pointer in pointers(broker)) == 1
    # The operator may change their mind.
    assert bad not in rolled_back(pointers(broker)[-1], bad, 0).refused


@on_virtual_clock
async def test_a_rollback_right_behind_the_trainers_own_pointer_is_seen() -> None:
    """Both are read at once, and end where the reader was: still the trainer must go back."""
    chosen, broker = made(**QUICK)
    send(broker, 100)
    async with training(chosen, MemoryTransport(broker)) as (trainer, _):
        await published(broker, 1)
        good, follower = pointers(broker)[-1].id, ModelsFollower(MemoryTransport(broker), "app.models")
        await follower.start()
        await follower.catch_up()
        bad, blob, network = fresh(chosen, 7)
        writer = ModelsWriter(MemoryTransport(broker).sink(), "app.models")
        await writer.upload(bad, blob, {}, 0)
        await follower.catch_up()
        trainer._incumbent_id, trainer.learner.incumbent = bad, network  # as after publishing
        await writer.point(Pointer(bad, base=good))
        await roll_back(broker, good)
        trainer._follow(follower, await follower.catch_up())
        assert trainer.learner.incumbent is not None and weights_id(trainer.learner.incumbent) == good


@on_virtual_clock
async def test_a_pointer_that_crossed_the_operators_is_ignored_and_taken_back() -> None:
    chosen, broker = made(**{**QUICK, "learn.min_steps": 10**6})
    transport = MemoryTransport(broker)
    writer = ModelsWriter(transport.sink(), "app.models")
    ids = []
    for seed in range(3):
        model, blob, _ = fresh(chosen, seed)
        await writer.upload(model, blob, {}, 0)
        ids.append(model)
    await writer.point(Pointer(ids[0]))
    await writer.point(Pointer(ids[1], base=ids[0]))
    follower = ModelsFollower(transport, "app.models")
    await follower.start()
    await follower.catch_up()
    await writer.point(rolled_back(follower.pointer, ids[0], int(time.time() * 1000)))
    await writer.point(Pointer(ids[2], base=ids[1]))  # decided upon before its writer knew
    assert [model for model, _ in await follower.catch_up()] == [ids[0]]
    assert follower.overruled and follower.ignored == {"overruled": 1}
    async with training(chosen, transport):
        await until(lambda: pointers(broker)[-1].by == BY_OPERATOR)
    assert pointers(broker)[-1] == pointers(broker)[2]  # whoever comes later and reads only this sees the operator's
    await writer.point(Pointer(ids[2], base=ids[0]))  # this one was decided upon knowing it
    assert [model for model, _ in await follower.catch_up()] == [ids[2]]


@pytest.mark.parametrize("spoilt", ["another shape", "not readable"])
@on_virtual_clock
async def test_weights_that_cannot_be_trained_on_are_followed_by_fresh_ones(spoilt: str) -> None:
    chosen, broker = made(**QUICK)
    transport = MemoryTransport(broker)
    other = made(**{**QUICK, "model.hidden": 9})[0]
    blob = fresh(other, 0)[1] if spoilt == "another shape" else b"no weights"
    await ModelsWriter(transport.sink(), "app.models").publish("found", blob, {}, 0)
    send(broker, 100)
    async with training(chosen, transport) as (_, rounds):
        await published(broker, 2)
    assert rounds.bases[0] == ""
    assert pointers(broker)[1].base == "found"


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("swap_min", ["1h", "400ms"])
@on_virtual_clock
async def test_weights_come_into_use_no_faster_than_swap_min_but_a_rollback_does(swap_min: str) -> None:
    chosen, broker = made(**{**QUICK, "learn.swap_min": swap_min})
    writer = ModelsWriter(MemoryTransport(broker).sink(), "app.models")
    first, second, third = (fresh(chosen, seed) for seed in range(3))
    async with worker(chosen, broker) as running:
        await writer.publish(*first[:2], {}, 0)
        await until(lambda: running.engine.model == first[0])  # the first need not wait: there is nothing to flap from
        begin = clock_s()
        await writer.publish(*second[:2], {}, 0)
        await writer.publish(*third[:2], {}, 0)
        if swap_min == "1h":
            await until(lambda: running.weights and running.weights.pending and running.weights.pending[0] == third[0])
            send(broker, 10)
            await until(lambda: all_committed(broker))
            assert {d["model"] for d in documents(broker, "app.forecasts")} == {first[0]}
            await roll_back(broker, second[0])
            await until(lambda: running.engine.model == second[0], 5)
        else:
            await until(lambda: running.engine.model != first[0])
            assert clock_s() - begin >= 0.39
            await until(lambda: running.engine.model == third[0])  # the newest, whatever was skipped
            assert running.observer.swaps <= 3


@on_virtual_clock
async def test_the_trainer_publishes_no_faster_than_swap_min() -> None:
    chosen, broker = made(**{**QUICK, "learn.swap_min": "500ms"})
    send(broker, 100)
    async with training(chosen, MemoryTransport(broker)) as (trainer, rounds):
        await until(lambda: trainer.published == 1)
        begin = clock_s()
        trainer.learner.drifted = True  # not even a drift is in such a hurry
        await published(broker, 2)
        assert clock_s() - begin >= 0.45
        assert len(rounds.bases) == 2
