"""The replay buffer: no target from a held-out stretch, every series the same chance; the learner's rounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from making import batch, cut, spec, walk

from streamrnn.kernels.stretches import ANCHOR_EVERY, ANCHOR_LEN, is_anchor, look_ahead
from streamrnn.learning import LearnSpec, TrainSpec
from streamrnn.records import TickBatch
from streamrnn.spec import ModelSpec, StreamSpec
from streamrnn.stream.drift import DriftWatch
from streamrnn.stream.frontend import FrontEnd
from streamrnn.stream.learner import Learner
from streamrnn.stream.replay import ReplayBuffer

HOLDOUT = 40


def filled(ticks: TickBatch, stream: StreamSpec | None = None, window: int = 600) -> ReplayBuffer:
    stream = stream or spec()
    front, buffer = FrontEnd(stream), ReplayBuffer(stream, window, HOLDOUT)
    buffer.extend(front.process(ticks))
    return buffer


def ramp(count: int, series: list[str]) -> TickBatch:
    """Values that say which step they belong to."""
    names = [name for _ in range(count) for name in series]
    step = np.repeat(np.arange(count), len(series))
    return batch(names, 1_700_000_000_000 + 1000 * step, np.repeat(step[:, None] * 1.0, 3, axis=1))


def test_targets_are_what_came_in_units_of_the_scale() -> None:
    buffer = filled(ramp(500, ["x"]))
    found = buffer.training(np.random.default_rng(0), 4, 50)
    assert found is not None
    wanted = torch.sqrt(torch.arange(1.0, 5.0))  # a move of h, scale 1, over √h
    came = ~torch.isnan(found.targets)
    assert came.float().mean() > 0.6
    assert torch.allclose(found.targets[came], wanted.expand_as(found.targets)[came], atol=1e-3)


def test_noise_in_the_held_out_steps_changes_no_training_batch() -> None:
    ticks = walk(900, ["x", "y"], skip=0.0)
    noisy = cut(ticks, 0, len(ticks))
    noisy.values = ticks.values.copy()
    steps = len(ticks) // 2
    # The two held-out stretches of both series, and nothing before.
    noisy.values[2 * (steps - 2 * HOLDOUT) + 2 :] = np.random.default_rng(1).normal(0, 100, (4 * HOLDOUT - 2, 3))[
        : len(ticks) - 2 * (steps - 2 * HOLDOUT) - 2
    ]
    ours = filled(ticks).training(np.random.default_rng(3), 8, 60)
    theirs = filled(noisy).training(np.random.default_rng(3), 8, 60)
    assert ours is not None
    assert theirs is not None
    assert torch.equal(torch.nan_to_num(ours.inputs, 7.0), torch.nan_to_num(theirs.inputs, 7.0))
    assert torch.equal(torch.nan_to_num(ours.targets, 7.0), torch.nan_to_num(theirs.targets, 7.0))


def test_anchor_steps_are_never_trained_on_and_are_all_the_anchor_has() -> None:
    count = ANCHOR_LEN * ANCHOR_EVERY + 200
    buffer = filled(ramp(count, ["x"]), window=2000)
    # On a ramp with values = step, base + target tells the step of the target.
    rng = np.random.default_rng(0)
    training = buffer.training(rng, 64, 100)
    anchors = buffer.anchors(rng, 8, 20)
    assert training is not None
    assert anchors is not None
    # Count the targets per horizon: in an anchor stretch of ANCHOR_LEN steps each horizon has ANCHOR_LEN targets.
    came = (~torch.isnan(anchors.targets[:, 0, 0])).sum(0)
    assert came[0] == ANCHOR_LEN
    assert sum(is_anchor(n) for n in range(count)) == ANCHOR_LEN
    # With every step trained on, a stretch of 100 has at most two steps without a one-step target; anchors cost more.
    missing = torch.isnan(training.targets[..., 0, 0]).sum(0)
    assert missing.max() >= ANCHOR_LEN // 2


@pytest.mark.parametrize("anchor", [False, True])
def test_what_lies_ahead_is_what_plain_arithmetic_finds(anchor: bool) -> None:
    """Rings that have gone round, stretches that cross their seam, and every way to be left out."""
    rng = np.random.default_rng(int(anchor))
    window, channels, horizon, length = 40, 2, 5, 30
    values, base, scale = (rng.uniform(1, 9, (4, window, channels)).astype(np.float32) for _ in range(3))
    values[0, 3] = np.nan
    root = np.sqrt(np.arange(1, horizon + 1)).astype(np.float32)
    row, end = np.array([0, 3, 1]), np.array([60, 460, 512])
    first, stop = np.array([0, 440, 490]), np.array([55, 458, 600])
    targets = np.empty((length, 3, channels, horizon), dtype=np.float32)
    look_ahead(values, base, scale, root, row, end, first, stop, anchor, targets)
    for t, b, c, h in np.ndindex(targets.shape):
        number = end[b] - length + t
        ahead = number + h + 1
        wanted = first[b] <= ahead < stop[b] and (anchor or ahead // ANCHOR_LEN % ANCHOR_EVERY != ANCHOR_EVERY - 1)
        move = values[row[b], ahead % window, c] - base[row[b], number % window, c]
        expected = move / (scale[row[b], number % window, c] * root[h]) if wanted else np.nan
        assert np.array_equal(targets[t, b, c, h], np.float32(expected), equal_nan=True)


def test_a_flooding_series_gets_no_more_than_its_share() -> None:
    stream = spec(series_max=100)
    names = ["flood"] * 3000 + [f"s{i}" for i in range(9) for _ in range(300)]
    steps = np.concatenate([np.arange(3000), np.tile(np.arange(300), 9)])
    values = np.where(
        np.array(names)[:, None] == "flood", 5.0 * np.sin(steps[:, None]), np.sin(steps[:, None])
    ) * np.ones(3)
    buffer = filled(batch(names, 1_700_000_000_000 + 1000 * steps, values), stream, window=2000)
    rng = np.random.default_rng(0)
    # The flood swings five times as far; its moves in units of its own scale are like the others', so look at the rows.
    chosen: list[int] = []
    inner = buffer._sequences
    buffer._sequences = lambda rows, *rest, **more: (chosen.extend(rows.tolist()), inner(rows, *rest, **more))[1]  # type: ignore[method-assign]
    for _ in range(200):
        assert buffer.training(rng, 10, 40) is not None
    share = np.bincount(chosen, minlength=10) / len(chosen)
    assert (np.abs(share - 0.1) < 0.02).all(), share


def test_memory_is_bounded_by_series_and_window() -> None:
    stream = spec(series_max=8)
    front, buffer = FrontEnd(stream), ReplayBuffer(stream, 64, 10)
    for k in range(40):
        ticks = ramp(30, [f"s{k}-{i}" for i in range(4)])
        begin = 0
        while begin < len(ticks):
            frames = front.process(ticks, begin)
            buffer.extend(frames)
            begin += frames.consumed
    assert len(buffer.count) <= 8
    assert buffer.bytes() <= 8 * 64 * (2 * stream.input_size + 12 * 3)


def learner(seed: int = 0) -> Learner:
    stream = spec(channels=("a",), series_max=16)
    train = TrainSpec(chunk_len=16, burn_in=8, length=64, batch_series=8, seed=seed)
    learn = LearnSpec(train=train, window=800, holdout=32, series_max=16, updates=60, min_steps=400)
    return Learner(stream, ModelSpec(1, stream.horizon, stream.quantiles, hidden=16, layers=1), learn)


def waves(count: int, first: int = 0, seed: int = 0) -> TickBatch:
    rng = np.random.default_rng([seed, first])
    names = [f"w{i}" for _ in range(count) for i in range(4)]
    step = np.repeat(np.arange(first, first + count), 4)
    x = np.sin(0.25 * step + np.tile(np.arange(4), count)) + 0.05 * rng.standard_normal(4 * count)
    return batch(names, 1_700_000_000_000 + 1000 * step, x[:, None])


def test_a_first_round_gives_a_network_that_beats_persistence_later_on() -> None:
    made = learner()
    made.feed(waves(300))
    assert made.ready()
    done = made.round()
    assert done.network is not None, done.verdict
    assert done.candidate is not None
    assert done.candidate.score < 0.7
    assert made.incumbent is not None


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
    assert done.verdict.reason in ("diverged", "not-better", "not-finite")
    assert all(torch.equal(a, b) for a, b in zip(before, made.incumbent.state_dict().values(), strict=True))


def test_drift_is_found_when_errors_rise_and_seldom_otherwise() -> None:
    rng = np.random.default_rng(0)
    quiet, watch = DriftWatch(), DriftWatch()
    alarms = sum(quiet.update(abs(error)) for error in rng.normal(0, 1, 10_000))
    assert alarms <= 2
    for error in rng.normal(0, 1, 1000):
        watch.update(abs(error))
    assert any(watch.update(abs(error)) for error in rng.normal(0, 3, 300))
