"""Truncated BPTT, the gate, and weights as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamrnn.learning import GateSpec, TrainSpec
from streamrnn.model.gate import Evaluation, evaluate, judge
from streamrnn.model.loss import forecast_loss
from streamrnn.model.network import Network
from streamrnn.model.tbptt import Sequences, make_optimizer, train_sequences
from streamrnn.model.weights import WeightsError, WeightsMeta, build, pack, unpack
from streamrnn.spec import ModelSpec

LEVELS = (0.1, 0.5, 0.9)
PLAIN: dict[str, Any] = {"input_noise": 0.0, "head_dropout": 0.0, "weight_decay": 0.0, "burn_in": 0}


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(ModelSpec(1, 2, LEVELS, hidden=12, layers=1))


def waves(steps: int, rows: int, seed: int = 0) -> Sequences:
    """Noisy sines as moves, deviations and what comes next: something to learn."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps + 3)[:, None] * 0.3 + rng.uniform(0, 6, rows)
    x = np.sin(t) + 0.05 * rng.standard_normal(t.shape)
    inputs = np.stack([x[1:-2] - x[:-3], x[1:-2], np.full_like(x[1:-2], np.log(2.0))], axis=2)
    targets = np.stack([x[2:-1] - x[1:-2], (x[3:] - x[1:-2]) / np.sqrt(2)], axis=2)[:, :, None]
    return Sequences(torch.from_numpy(inputs).float(), torch.from_numpy(targets).float())


def gradients(net: Network) -> list[torch.Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def test_one_chunk_as_long_as_the_sequence_is_plain_bptt() -> None:
    batch = waves(30, 4)
    ours, theirs = network(), network()
    train_sequences(
        ours, torch.optim.SGD(ours.parameters(), lr=0.0), batch, TrainSpec(chunk_len=30, clip_norm=1e9, **PLAIN)
    )
    out, _ = theirs(batch.inputs, theirs.zero_state(4))
    forecast_loss(out, batch.targets, torch.tensor(LEVELS)).backward()
    for mine, plain in zip(gradients(ours), gradients(theirs), strict=True):
        assert torch.allclose(mine, plain, atol=1e-6)


def test_no_gradient_crosses_a_chunk_but_the_state_does() -> None:
    batch = waves(20, 4)
    net, alone, carried = network(), network(), network()
    torch.nn.init.normal_(net.out.weight, 0.0, 0.3)
    for other in (alone, carried):
        other.load_state_dict(net.state_dict())
    train_sequences(
        net, torch.optim.SGD(net.parameters(), lr=0.0), batch, TrainSpec(chunk_len=10, clip_norm=1e9, **PLAIN)
    )
    with torch.no_grad():
        _, state = carried(batch.inputs[:10], carried.zero_state(4))
    out, _ = carried(batch.inputs[10:], state)
    forecast_loss(out, batch.targets[10:], torch.tensor(LEVELS)).backward()
    out, _ = alone(batch.inputs[10:], alone.zero_state(4))
    forecast_loss(out, batch.targets[10:], torch.tensor(LEVELS)).backward()
    # The last gradient left is that of the second chunk: from the carried state, with its history cut off.
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients(net), gradients(carried), strict=True))
    assert not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(gradients(net), gradients(alone), strict=True))


def test_training_beats_persistence_on_waves() -> None:
    net = network()
    spec = TrainSpec(chunk_len=20, lr=1e-2, burn_in=5, input_noise=0.0, head_dropout=0.0)
    optimizer = make_optimizer(net, spec)
    first = last = 0.0
    for k in range(30):
        stats = train_sequences(net, optimizer, waves(65, 16, seed=k), spec)
        first, last = first or stats.loss, stats.loss
    found = evaluate(net, waves(60, 16, seed=99))
    assert last < 0.5 * first
    assert found.score < 0.2
    assert all(skill < 0.3 for skill in found.skill())


def test_missing_targets_count_for_nothing() -> None:
    out = torch.zeros(2, 3, 1, 2, 4)
    targets = torch.ones(2, 3, 1, 2)
    some = targets.clone()
    some[0] = float("nan")
    levels = torch.tensor(LEVELS)
    assert torch.equal(forecast_loss(out, targets, levels), forecast_loss(out, some, levels))
    assert forecast_loss(out, torch.full_like(targets, float("nan")), levels) == 0.0


@pytest.mark.parametrize("fault", ["rate", "input"])
def test_a_pass_that_diverges_is_broken_off_and_leaves_the_weights(fault: str) -> None:
    net = network()
    torch.nn.init.normal_(net.out.weight, 0.0, 0.3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    batch = waves(40, 4)
    lr = 3e38 if fault == "rate" else 1e-3
    if fault == "input":
        batch.inputs[20, 0, 1] = float("inf")
    spec = TrainSpec(chunk_len=10, clip_norm=1e9, **{**PLAIN, "lr": lr})
    stats = train_sequences(net, torch.optim.SGD(net.parameters(), lr=lr), batch, spec)
    assert stats.diverged
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def grade(score: float, finite: bool = True, targets: int = 100) -> Evaluation:
    return Evaluation(finite, score, (score,), (1.0,), targets)


@pytest.mark.parametrize(
    ("candidate", "incumbent", "anchor", "anchor_before", "reason"),
    [
        (grade(0.8), None, None, None, "accepted"),
        (grade(0.995), None, None, None, "not-better"),  # the first must beat persistence by a margin
        (grade(0.7), grade(0.8), None, None, "accepted"),
        (grade(0.8), grade(0.8), None, None, "not-better"),
        (grade(0.7), grade(0.8), grade(0.9), grade(0.8), "worse-on-anchor"),
        (grade(0.7), grade(0.8), grade(0.82), grade(0.8), "accepted"),
        (grade(0.7, finite=False), grade(0.8), None, None, "not-finite"),
        (grade(float("nan")), grade(0.8), None, None, "not-finite"),
        (grade(float("inf"), targets=0), None, None, None, "no-data"),
    ],
)
def test_the_gate(candidate: Evaluation, incumbent: Any, anchor: Any, anchor_before: Any, reason: str) -> None:
    verdict = judge(candidate, incumbent, anchor, anchor_before, GateSpec())
    assert (verdict.reason, verdict.accepted) == (reason, reason == "accepted")


def test_one_garbage_series_does_not_decide() -> None:
    net = network()
    batch = waves(40, 9)
    clean = evaluate(net, batch)
    batch.targets[:, 0] *= 1e3
    assert evaluate(net, batch).score == pytest.approx(clean.score, rel=0.05)


# ── weights as bytes ─────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_survive_the_way_and_are_named_by_their_content() -> None:
    net = network()
    meta = WeightsMeta(loss=0.5, skill=[0.9, 0.8])
    blob = pack(net, meta)
    again, found = build(blob)
    assert found.id == meta.id != ""
    assert found.skill == [0.9, 0.8]
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    assert pack(network(), WeightsMeta()) == pack(network(), WeightsMeta())
    other = WeightsMeta()
    pack(network(1), other)
    assert other.id != meta.id


def test_damaged_weights_are_refused_with_a_reason() -> None:
    blob = pack(network(), WeightsMeta())
    for at in range(6, len(blob), max(1, len(blob) // 60)):
        flipped = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        with pytest.raises(WeightsError):
            unpack(flipped)
    for bad, reason in (
        (blob[:-1], "digest"),
        (blob[:10], "cut short"),
        (b"", "cut short"),
        (b"\x80\x04\x95" + b"x" * 100, "magic"),
        (blob[:5] + bytes([9]) + blob[6:], "newer"),
    ):
        with pytest.raises(WeightsError, match=reason):
            unpack(bad)


def test_weights_that_are_not_finite_are_not_packed() -> None:
    net = network()
    with torch.no_grad():
        net.out.bias[0] = float("nan")
    with pytest.raises(WeightsError, match="finite"):
        pack(net, WeightsMeta())


@pytest.mark.gpu
def test_training_on_the_gpu_learns_as_on_the_processor() -> None:
    net = network().cuda()
    spec = TrainSpec(chunk_len=20, lr=1e-2, burn_in=5, input_noise=0.0, head_dropout=0.0)
    optimizer = make_optimizer(net, spec)
    for k in range(30):
        train_sequences(net, optimizer, waves(65, 16, seed=k).to(torch.device("cuda")), spec)
    assert evaluate(net, waves(60, 16, seed=99).to(torch.device("cuda"))).score < 0.2
