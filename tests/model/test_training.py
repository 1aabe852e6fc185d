"""Truncated BPTT, the gate, and weights as bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from streamrnn.learning import GateSpec, TrainSpec
from streamrnn.model.gate import Evaluation, evaluate, judge
from streamrnn.model.loss import forecast_loss
from streamrnn.model.network import Network
from streamrnn.model.tbptt import Sequences, make_optimizer, train_sequences
from streamrnn.model.weights import WeightsError, WeightsMeta, build, pack, unpack, weights_id
from streamrnn.spec import ModelSpec

PLAIN: dict[str, Any] = {"weight_decay": 0.0, "burn_in": 0}
SHAPE = ModelSpec(("a", "b", "c"), (1, 2), trunk=16, hidden=12, dropout=0.0)


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(SHAPE)


def trunk_loss(net: Network, batch: Sequences) -> torch.Tensor:
    return forecast_loss(net.out(net.seen(batch.inputs)), batch.targets, batch.weighs)


def waves(steps: int, rows: int, seed: int = 0, channels: int = 1) -> Sequences:
    """Noisy sines, and what comes next of them: something to learn."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps + 3)[:, None] * 0.3 + rng.uniform(0, 6, rows)
    x = np.sin(t) + 0.05 * rng.standard_normal(t.shape)
    inputs = np.stack([x[1:-2] - x[:-3], x[1:-2], np.ones_like(x[1:-2])], axis=2)
    targets = np.stack([x[2:-1] - x[1:-2], (x[3:] - x[1:-2]) / np.sqrt(2)], axis=2)
    numbers = (torch.from_numpy(inputs).float(), torch.from_numpy(targets).float())
    return Sequences(*numbers, torch.ones(numbers[1].shape), channels)


def gradients(net: Network) -> list[torch.Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def test_one_chunk_as_long_as_the_sequence_is_plain_bptt() -> None:
    batch = waves(30, 4)
    ours, theirs = network(), network()
    spec = TrainSpec(chunk_len=30, clip_norm=1e9, **PLAIN)
    train_sequences(ours, torch.optim.SGD(ours.parameters(), lr=0.0), batch, batch, spec)
    theirs.train()
    out, _ = theirs(batch.inputs, theirs.zero_state(4))
    (trunk_loss(theirs, batch) + forecast_loss(out, batch.targets, batch.weighs)).backward()
    for mine, plain in zip(gradients(ours), gradients(theirs), strict=True):
        assert torch.allclose(mine, plain, atol=1e-6)


def test_no_gradient_crosses_a_chunk_but_the_state_does() -> None:
    batch = waves(20, 4)
    net, alone, carried = network(), network(), network()
    torch.nn.init.normal_(net.out.weight, 0.0, 0.3)
    torch.nn.init.normal_(net.beside.weight, 0.0, 0.3)
    for other in (alone, carried):
        other.load_state_dict(net.state_dict())
        other.train()
    spec = TrainSpec(chunk_len=10, clip_norm=1e9, **PLAIN)
    train_sequences(net, torch.optim.SGD(net.parameters(), lr=0.0), batch, batch, spec)
    with torch.no_grad():
        _, state = carried(batch.inputs[:10], carried.zero_state(4))
    for other, begin in ((carried, state), (alone, alone.zero_state(4))):
        out, _ = other(batch.inputs[10:], begin)
        (trunk_loss(other, batch) + forecast_loss(out, batch.targets[10:], batch.weighs[10:])).backward()
    # The last gradient left is that of the second chunk: from the carried state, with its history cut off.
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients(net), gradients(carried), strict=True))
    assert not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(gradients(net), gradients(alone), strict=True))


@pytest.mark.parametrize("chunk_len", [10, 30])
def test_sequence_to_vector_learns_from_the_last_step_of_a_stretch_alone(chunk_len: int) -> None:
    batch = waves(30, 4)
    ours, theirs = (Network(replace(SHAPE, head="vector")) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    spec = TrainSpec(chunk_len=chunk_len, clip_norm=1e9, **PLAIN)
    train_sequences(ours, torch.optim.SGD(ours.parameters(), lr=0.0), batch, batch, spec)
    theirs.train()
    state = theirs.zero_state(4)
    if chunk_len < 30:
        with torch.no_grad():
            _, state = theirs(batch.inputs[: 30 - chunk_len], state)
    out, _ = theirs(batch.inputs[30 - chunk_len :], state)
    last = forecast_loss(out[-1:], batch.targets[-1:], batch.weighs[-1:])
    (trunk_loss(theirs, batch) + last).backward()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients(ours), gradients(theirs), strict=True))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_training_takes_most_of_what_can_be_foreseen(device: str) -> None:
    where = torch.device(device)
    net = network().to(where)
    spec = TrainSpec(chunk_len=20, lr=1e-2, weight_decay=1e-2)
    optimizer = make_optimizer(net, spec)
    first = last = 0.0
    for k in range(30):
        stats = train_sequences(
            net, optimizer, waves(65, 16, seed=k).to(where), waves(65, 8, seed=100 + k).to(where), spec
        )
        first, last = first or stats.loss, stats.loss
    found = evaluate(net, waves(60, 16, seed=99).to(where), 8)
    assert last < 0.5 * first
    assert found.score < 0.2 and min(found.gain) > 0.7
    assert all(0.8 < slope < 1.2 for slope in found.slope)


def test_missing_targets_count_for_nothing() -> None:
    out, targets, weighs = torch.zeros(2, 3, 2), torch.ones(2, 3, 2), torch.ones(2, 3, 2)
    some = targets.clone()
    some[0] = float("nan")
    assert torch.equal(forecast_loss(out, targets, weighs), forecast_loss(out, some, weighs))
    assert forecast_loss(out, torch.full_like(targets, float("nan")), weighs) == 0.0


@pytest.mark.parametrize("fault", ["rate", "input"])
def test_a_pass_that_diverges_is_broken_off(fault: str) -> None:
    net = network()
    torch.nn.init.normal_(net.out.weight, 0.0, 0.3)
    batch = waves(40, 4)
    lr = 3e38 if fault == "rate" else 1e-3
    if fault == "input":
        batch.inputs[20, 0, 1] = float("inf")
    spec = TrainSpec(chunk_len=10, clip_norm=1e9, **{**PLAIN, "lr": lr})
    assert train_sequences(net, torch.optim.SGD(net.parameters(), lr=lr), batch, batch, spec).diverged


def grade(gain: float, finite: bool = True, targets: int = 100, uneven: float = 0.0) -> Evaluation:
    """Of ten blocks, each with the same squared error; what is removed of it differs by `uneven` from block to block."""
    squares = np.full((10, 1), 0.1)
    left = squares * (1.0 - gain + uneven * np.where(np.arange(10) % 2, 1.0, -1.0))[:, None]
    sums = np.full((1, 2), gain)
    return Evaluation(finite, (gain,) if targets else (), (1.0,) if targets else (), left, squares, targets, sums)


@pytest.mark.parametrize(
    ("candidate", "incumbent", "reason"),
    [
        (grade(0.2), None, "accepted"),
        (grade(0.0), None, "adds-nothing"),
        (grade(-0.1), grade(-0.2), "adds-nothing"),
        (grade(0.3), grade(0.2), "accepted"),
        (grade(0.1), grade(0.2), "not-better"),
        (grade(0.19, uneven=0.3), grade(0.2), "accepted"),  # no further apart than chance makes it
        (grade(0.2, finite=False), grade(0.1), "not-finite"),
        (grade(0.2, targets=0), None, "no-data"),
    ],
)
def test_the_gate(candidate: Evaluation, incumbent: Any, reason: str) -> None:
    verdict = judge(candidate, incumbent, GateSpec())
    assert (verdict.reason, verdict.accepted) == (reason, reason == "accepted")


def test_a_network_that_is_half_right_is_worth_as_much_as_one_that_says_half() -> None:
    net, batch = network(), waves(60, 8)
    torch.nn.init.normal_(net.out.weight, 0.0, 0.01)
    said = evaluate(net, batch, 8)
    with torch.no_grad():
        for parameter in (*net.out.parameters(), *net.beside.parameters()):
            parameter *= 2.0
    doubled = evaluate(net, batch, 8)
    if max(said.slope) < 1.2:
        assert doubled.gain == pytest.approx(said.gain, rel=1e-4)


def test_one_garbage_series_does_not_decide() -> None:
    net, spec = network(), TrainSpec(chunk_len=20, lr=1e-2)
    optimizer = make_optimizer(net, spec)
    for k in range(20):
        train_sequences(net, optimizer, waves(65, 16, seed=k), waves(65, 8, seed=100 + k), spec)
    batch = waves(40, 18, channels=2)
    clean = evaluate(net, batch, 8)
    batch.targets[:, :2] = 8.0 * torch.sign(torch.randn(batch.targets[:, :2].shape))
    assert evaluate(net, batch, 8).score == pytest.approx(clean.score + 1 / 9, abs=0.05)


# ── weights as bytes ─────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_survive_the_way_and_are_named_by_their_content() -> None:
    net = network()
    meta = WeightsMeta(loss=0.5, gain=[0.1, 0.2])
    blob = pack(net, meta)
    again, found = build(blob)
    assert found.id == meta.id != ""
    assert found.gain == [0.1, 0.2]
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    assert pack(network(), WeightsMeta()) == pack(network(), WeightsMeta())
    other = WeightsMeta()
    pack(network(1), other)
    assert other.id != meta.id


def test_weights_of_before_there_were_convolutions_and_heads_are_read_and_keep_their_id() -> None:
    net = network()
    blob = pack(net, WeightsMeta())
    begin = 6 + 32 + 4
    length = int.from_bytes(blob[begin - 4 : begin], "big")
    document, tensors = json.loads(blob[begin : begin + length]), blob[begin + length :]
    del document["spec"]["conv"], document["spec"]["head"]
    text = json.dumps(document).encode()
    body = len(text).to_bytes(4, "big") + text + tensors
    found, meta = build(blob[:6] + hashlib.sha256(body).digest() + body)
    assert found.spec == SHAPE
    digest = hashlib.sha256(
        repr(sorted((k, v) for k, v in asdict(SHAPE).items() if k not in ("conv", "head"))).encode()
    )
    for name, tensor in sorted(net.state_dict().items()):
        if name != "credit":  # there was none
            digest.update(name.encode() + tensor.numpy().tobytes())
    assert weights_id(found) == meta.id == digest.hexdigest()[:12]
    other = Network(replace(SHAPE, head="vector"))  # the same tensors, learnt otherwise
    other.load_state_dict(net.state_dict())
    assert weights_id(other) != meta.id


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


def test_weights_of_an_older_format_are_refused_and_say_so() -> None:
    blob = pack(network(), WeightsMeta())
    with pytest.raises(WeightsError, match="older streamrnn"):
        unpack(blob[:5] + bytes([1]) + blob[6:])
