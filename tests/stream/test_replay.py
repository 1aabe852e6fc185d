"""The replay buffer: no target from the held-out steps, every series the same chance; the learner's rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from making import NETWORKS, batch, bends, cut, feed, look, network, shaped, spec, walk

from streamrnn.kernels.columns import rungs_of
from streamrnn.learning import LearnSpec, TrainSpec
from streamrnn.meaning import meaning_of
from streamrnn.model.gate import Verdict
from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, fitted, pack
from streamrnn.records import TickBatch
from streamrnn.season import Season
from streamrnn.spec import StreamSpec
from streamrnn.stream import learner as learning
from streamrnn.stream.drift import DriftWatch
from streamrnn.stream.engine import Engine
from streamrnn.stream.learner import Learner
from streamrnn.stream.replay import ReplayBuffer, step_bytes
from streamrnn.stream.resting import LITTLE, LOOKS

HOLDOUT = 40


def filled(
    ticks: TickBatch, stream: StreamSpec | None = None, window: int = 600, bytes_max: int = 1 << 30
) -> tuple[ReplayBuffer, Engine]:
    stream = stream or spec()
    made = Engine(stream, record=True)
    buffer = ReplayBuffer(stream, len(made.inputs), window, HOLDOUT, bytes_max)
    for frames, recorded in made.watch(ticks):
        buffer.extend(frames, recorded)
    return buffer, made


def ramp(count: int, series: list[str]) -> TickBatch:
    """Values that say which step they belong to."""
    names = [name for _ in range(count) for name in series]
    step = np.repeat(np.arange(count), len(series))
    return batch(names, 1_700_000_000_000 + 1000 * step, np.repeat(step[:, None] * 1.0, 3, axis=1))


def numbers(found: Any) -> list[torch.Tensor]:
    return [torch.nan_to_num(each, 7.0) for each in (found.inputs, found.targets, found.weighs)]


def test_targets_are_what_the_forecasts_that_serve_leave_in_units_of_their_usual_error() -> None:
    stream = spec(horizon=6)
    ticks = walk(500, ["x"], missing=0.1, skip=0.0)
    made = Engine(stream, record=True)
    buffer = ReplayBuffer(stream, len(made.inputs), 600, HOLDOUT, 1 << 30)
    sizes, came = [], []
    for frames, recorded in made.watch(ticks):
        buffer.extend(frames, recorded)
        sizes.append(recorded.size * frames.scale[:, :, None])
        came.append(frames.values)
    size, values, steps = np.concatenate(sizes), np.concatenate(came), int(buffer.count[0])
    sent = Engine(stream).process(ticks).forecasts  # of the mixture alone
    begin = int(ticks.ts_us[0]) // 1_000_000
    mean = np.full((steps, 3, 6), np.nan)
    mean[sent.ts_us // 1_000_000 - begin] = sent.mean
    end = np.array([steps])
    found = buffer._sequences(np.array([0]), end, 300, np.array([0]), end)
    targets, compared = found.targets.numpy(), 0
    for t, (r, h) in [(t, each) for t in range(300) for each in enumerate(rungs_of(6))]:
        n = steps - 300 + t
        if n + h >= steps:
            assert np.isnan(targets[t, :, r]).all()
            continue
        left = (values[n + h] - mean[n, :, h - 1]) / size[n, :, r]
        assert np.isnan(targets[t, np.isnan(values[n + h]), r]).all()
        known = ~np.isnan(left)
        assert np.allclose(targets[t, known, r], np.clip(left[known], -8, 8), atol=0.01)
        compared += int(known.sum())
    assert compared > 1000


def test_noise_in_the_held_out_steps_changes_no_training_batch() -> None:
    ticks = walk(900, ["x", "y"], skip=0.0)
    noisy = cut(ticks, 0, len(ticks))
    noisy.values = ticks.values.copy()
    kept = len(ticks) - 2 * HOLDOUT + 2
    noisy.values[kept:] = np.random.default_rng(1).normal(0, 100, noisy.values[kept:].shape)
    ours, theirs = (filled(each)[0].training(np.random.default_rng(3), 8, 60) for each in (ticks, noisy))
    assert ours is not None and theirs is not None
    targets = [torch.nan_to_num(each.targets, 7.0) for each in (ours, theirs)]
    assert torch.equal(*targets) and (~torch.isnan(ours.targets)).float().mean() > 0.5
    # The inputs are those of steps before the held-out ones but for stretches that run into them.
    same = (ours.inputs == theirs.inputs).all(dim=2)
    assert same.float().mean() > 0.8


def test_what_a_training_batch_is_shown_is_what_the_network_is_shown_when_it_serves() -> None:
    stream = spec(horizon=6)
    made = Engine(stream, record=True)
    buffer = ReplayBuffer(stream, len(made.inputs), 600, HOLDOUT, 1 << 30)
    shown = []
    for frames, recorded in made.watch(walk(300, ["x"])):
        buffer.extend(frames, recorded)
        shown.append(recorded.seen.copy())
    every = np.concatenate(shown)
    steps = int(buffer.count[0])
    found = buffer._sequences(np.array([0]), np.array([steps]), 100, np.array([0]), np.array([steps]))
    assert np.allclose(found.inputs.numpy(), every[-100:], atol=3e-3)  # kept in halves
    assert np.abs(every).max() > 1.0 and not np.isnan(every).any()


def test_what_a_network_is_shown_does_not_depend_on_what_it_says() -> None:
    """So what it learns from, where none speaks, is what it is shown where it does."""
    stream = spec(horizon=6, seasons=(Season("8s", 8, 1.0, 8),))
    shown = []
    for speaks in (False, True):
        made = Engine(stream, record=True)
        if speaks:
            made.load(network(stream), "w")
        feed, seen = made.watch(walk(300, ["x"])), []
        for _, recorded in feed:
            seen.append(recorded.seen.copy())
            made.table.columns["network_worth"][:] = 1000.0  # it is believed
        shown.append(np.concatenate(seen))
    assert np.array_equal(*shown) and np.abs(shown[0]).max() > 1.0


def test_a_flooding_series_gets_no_more_than_its_share() -> None:
    stream = spec(series_max=100)
    names = ["flood"] * 3000 + [f"s{i}" for i in range(9) for _ in range(300)]
    steps = np.concatenate([np.arange(3000), np.tile(np.arange(300), 9)])
    values = np.sin(steps[:, None]) * np.ones(3)
    buffer, _ = filled(batch(names, 1_700_000_000_000 + 1000 * steps, values), stream, window=2000)
    rng = np.random.default_rng(0)
    chosen: list[int] = []
    inner = buffer._sequences
    buffer._sequences = lambda rows, *rest: (chosen.extend(rows.tolist()), inner(rows, *rest))[1]  # type: ignore[method-assign]
    for _ in range(200):
        assert buffer.training(rng, 10, 40) is not None
    share = np.bincount(chosen, minlength=10) / len(chosen)
    assert (np.abs(share - 0.1) < 0.02).all(), share


def test_memory_is_bounded_by_series_and_window() -> None:
    stream = spec(series_max=8)
    made = Engine(stream, record=True)
    buffer = ReplayBuffer(stream, len(made.inputs), 64, 10, 1 << 30)
    for k in range(40):
        for frames, recorded in made.watch(ramp(30, [f"s{k}-{i}" for i in range(4)])):
            buffer.extend(frames, recorded)
    assert len(buffer.count) <= 8
    assert buffer.bytes() <= 8 * 64 * step_bytes(stream, len(made.inputs))


def test_with_more_series_each_keeps_fewer_steps_and_these_are_its_last() -> None:
    stream = spec(series_max=64)
    room = 8 * 600 * step_bytes(stream, len(Engine(stream).inputs))
    many = [f"s{i}" for i in range(16)]
    roomy, _ = filled(walk(16 * 500, many, skip=0.0), stream)
    tight, _ = filled(walk(16 * 500, many, skip=0.0), stream, bytes_max=room)
    assert tight.bytes() <= room and 256 <= tight.window < roomy.window == 600
    steps = roomy.count[:16]
    for buffer in (roomy, tight):
        assert np.array_equal(buffer.count[:16], steps)
    one, other = (b._sequences(np.arange(16), steps, 200, np.zeros(16), steps) for b in (roomy, tight))
    assert all(torch.equal(a, b) for a, b in zip(numbers(one), numbers(other), strict=True))


def learner(seed: int = 0, updates: int = 150, **shape: Any) -> Learner:
    stream = spec(channels=("a",), series_max=16)
    train = TrainSpec(chunk_len=16, burn_in=8, length=16, batch_series=16, lr=1e-2, weight_decay=1e-2, seed=seed)
    learn = LearnSpec(train=train, window=800, holdout=32, series_max=16, updates=updates, min_steps=400)
    return Learner(stream, shaped(stream, **shape), learn)


def waves(count: int, first: int = 0) -> TickBatch:
    names = [f"w{i}" for _ in range(count) for i in range(4)]
    step = np.repeat(np.arange(first, first + count), 4)
    return batch(names, 1_700_000_000_000 + 1000 * step, bends(count, 4, first).reshape(-1, 1))


def test_a_first_round_gives_a_network_that_adds_to_the_mixture() -> None:
    made = learner()
    made.feed(waves(300))
    assert made.ready()
    done = made.round()
    assert done.network is not None, done.verdict
    assert done.candidate is not None
    assert done.candidate.gain[0] > 0.5
    assert made.incumbent is not None
    assert done.candidate.credit.any() and not done.network.credit.any()  # no look ahead of time has vouched for it


@pytest.mark.parametrize("shape", NETWORKS[4:], ids=str)
def test_every_kind_of_network_is_trained_published_and_serves(shape: dict[str, Any]) -> None:
    made = learner(updates=40, **shape)
    made.feed(waves(200))
    for _ in range(LOOKS + 1):
        look(made.worth, 0.1)
    done = made.round()
    assert done.network is not None, done.verdict
    recurrent = getattr(done.network.beside, "decoder", done.network.beside)
    assert recurrent.weight.any()
    assert done.candidate is not None
    assert np.array_equal(done.network.credit.numpy(), done.candidate.credit.astype(np.float32))
    assert done.network.credit.any()
    meaning, inputs = meaning_of(made.engine.spec), made.engine.inputs
    found = fitted(pack(done.network, WeightsMeta(), meaning), meaning, inputs)
    assert (found.network.spec, found.words) == (made.model_spec, ())
    ours, theirs = Engine(spec(channels=("a",))), Engine(spec(channels=("a",)))
    ours.load(done.network, "weights")
    theirs.load(found.network, "weights")
    assert feed(ours, waves(60)) == feed(theirs, waves(60))
    # And is trained on.
    made.adopt(found.network)
    made.feed(waves(40, first=200))
    assert made.round().updates >= 40


@pytest.mark.parametrize(("horizon", "later"), [(1, 320), (4, 200), (24, 166), (1000, 160)])
def test_a_round_has_more_updates_for_a_near_horizon_but_the_first_is_short(horizon: int, later: int) -> None:
    stream = spec(channels=("a",), horizon=horizon)
    shape = shaped(stream)
    made = Learner(stream, shape, LearnSpec())
    assert made._updates() == 160
    made.adopt(Network(shape))
    assert made._updates() == later
    asked = Learner(stream, shape, LearnSpec(updates=7))
    asked.adopt(Network(shape))
    assert asked._updates() == 7


def test_training_rests_where_the_network_adds_next_to_nothing_and_looks_again_at_a_drift() -> None:
    rng = np.random.default_rng(5)
    walk = np.cumsum(rng.standard_normal((2400, 4)), axis=0)
    made, begin = learner(), 0
    made.spec = replace(made.spec, updates=10)  # what is learnt of a walk is nothing, however long

    def more(count: int) -> None:
        nonlocal begin
        names = [f"w{i}" for _ in range(count) for i in range(4)]
        step = np.repeat(np.arange(begin, begin + count), 4)
        made.feed(batch(names, 1_700_000_000_000 + 1000 * step, walk[begin : begin + count].reshape(-1, 1)))
        begin += count

    more(300)
    made.round()
    for _ in range(24):
        more(50)
        if made.rests:
            break
        made.round()
    assert made.rests
    assert made.worth.gain < LITTLE
    more(200)
    assert made.rests  # for ten rounds' worth of steps
    made.drifted = True
    assert not made.rests
    made.drifted = False
    more(400)
    assert not made.rests


def test_training_rests_where_no_candidate_has_ever_added_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "judge", lambda mine, theirs, gate: Verdict(False, "adds-nothing"))
    made = learner()
    made.spec = replace(made.spec, updates=1)
    made.feed(waves(300))
    for k in range(LOOKS):
        assert not made.rests
        made.round()
        made.feed(waves(20, first=300 + 20 * k))
    assert made.rests and made.incumbent is None
    made.drifted = True
    assert not made.rests
    made.round()
    assert not made.worth.in_vain  # what was in vain before a drift says nothing of what follows


def test_training_goes_on_where_the_network_adds() -> None:
    made = learner()
    made.feed(waves(300))
    for k in range(10):
        made.round()
        made.feed(waves(40, first=300 + 40 * k))
        assert not made.rests
    assert made.worth.looks >= LOOKS
    assert made.worth.gain > 0.1


def test_rounds_repeat_by_their_seed() -> None:
    def weights() -> list[torch.Tensor]:
        made = learner(seed=3)
        made.feed(waves(300))
        made.round()
        made.feed(waves(100, first=300))
        made.round()
        assert made.incumbent is not None
        return list(made.incumbent.state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(), strict=True))


def test_a_diverging_round_is_refused_and_the_incumbent_stays() -> None:
    made = learner()
    made.feed(waves(300))
    made.round()
    assert made.incumbent is not None
    before = [tensor.clone() for tensor in made.incumbent.state_dict().values()]
    made.spec = replace(made.spec, train=replace(made.spec.train, clip_norm=1e30))
    for group in made._optimizer.param_groups:
        group["lr"] = 1e30
    done = made.round()
    assert done.network is None
    assert done.verdict.reason in ("diverged", "not-better", "not-finite", "adds-nothing")
    assert all(torch.equal(a, b) for a, b in zip(before, made.incumbent.state_dict().values(), strict=True))


def test_drift_is_found_when_errors_rise_and_seldom_otherwise() -> None:
    rng = np.random.default_rng(0)
    quiet, watch = DriftWatch(), DriftWatch()
    alarms = sum(quiet.update(abs(error)) for error in rng.normal(0, 1, 10_000))
    assert alarms <= 2
    for error in rng.normal(0, 1, 1000):
        watch.update(abs(error))
    assert any(watch.update(abs(error)) for error in rng.normal(0, 3, 300))
