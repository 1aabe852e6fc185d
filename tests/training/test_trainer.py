"""The trainer on the memory transport, its leadership, and the models topic."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from running import START, made, send, settings, tick, until
from structlog.testing import capture_logs

from streamrnn.model.weights import build
from streamrnn.stores.models import (
    PINS_MAX,
    VERSIONS_MAX,
    Manifest,
    ModelsFollower,
    ModelsWriter,
    Pointer,
    rolled_back,
)
from streamrnn.training.process import step_back
from streamrnn.training.trainer import REACH_BACK_MAX, DeviceFailed, Trainer
from streamrnn.transports.memory.transport import MemorySink, MemoryTransport

SMALL: dict[str, Any] = {
    "model.hidden": 12,
    "model.layers": 1,
    "learn.min_steps": 300,
    "learn.updates": 40,
    "learn.length": 48,
    "learn.burn_in": 8,
    "learn.chunk_len": 20,
    "learn.holdout": 24,
    "learn.window": 512,
    "learn.batch_series": 8,
    "learn.interval": "100ms",
    "learn.lr": 0.01,
}


async def test_it_learns_from_the_topic_and_publishes_what_beats_persistence() -> None:
    chosen, broker = made(**SMALL)
    send(broker, 300)
    trainer = Trainer(chosen, MemoryTransport(broker))
    task = asyncio.create_task(trainer.run())
    try:
        await until(lambda: trainer.published > 0, 300)
        follower = ModelsFollower(MemoryTransport(broker), "app.models")
        await follower.start()
        [(model, blob)] = await follower.catch_up()
        assert follower.manifests[model].bytes == len(blob)
        assert trainer.learner.incumbent is not None
        assert trainer.said()["accepted"] >= 1
    finally:
        trainer.stop()
        await asyncio.wait_for(task, 120)


async def until_it_publishes(trainer: Trainer) -> None:
    task = asyncio.create_task(trainer.run())
    try:
        await until(lambda: trainer.published > 0 or task.done(), 300)
    finally:
        trainer.stop()
        await asyncio.wait_for(task, 120)


async def test_a_history_that_is_too_short_for_so_many_series_is_read_further_back() -> None:
    """100,000 series: of 500,000 records each has five."""
    chosen, broker = made(**{**SMALL, "learn.history": 100, "learn.series_max": 20})
    for step in range(120):
        for i in range(60):
            value = tick(f"pump-{i}", step, float(np.sin(step / 5 + i)))
            broker.append("ticks", i % 2, f"{i}".encode(), value, START + 1000 * step)
    trainer = Trainer(chosen, MemoryTransport(broker))
    with capture_logs() as lines:
        await until_it_publishes(trainer)
    said = [line for line in lines if line["event"].startswith("learning begins further back")]
    assert 1 <= len(said) <= REACH_BACK_MAX
    assert said[0]["learn_history"] == 100 and said[-1]["records"] > 60 * 59
    assert trainer.said()["series"] == 20 and trainer.said()["series_met"] == pytest.approx(60, rel=0.5)


async def test_a_history_that_is_enough_is_all_that_is_read() -> None:
    chosen, broker = made(**{**SMALL, "learn.history": 1000})
    send(broker, 1000)
    trainer = Trainer(chosen, MemoryTransport(broker))
    await until_it_publishes(trainer)
    assert trainer.learner.ticks == 1000


async def test_where_there_is_no_more_it_waits_for_what_comes() -> None:
    chosen, broker = made(**{**SMALL, "learn.history": 10})
    send(broker, 20)
    trainer = Trainer(chosen, MemoryTransport(broker))
    task = asyncio.create_task(trainer.run())
    try:
        await until(lambda: trainer.learner.ticks == 80)  # all there is
        send(broker, 400, first=20)
        await until(lambda: trainer.published > 0, 300)
    finally:
        trainer.stop()
        await asyncio.wait_for(task, 120)
    assert trainer.learner.ticks > 80


async def test_without_a_history_only_what_comes_is_learnt_from() -> None:
    chosen, broker = made(**{**SMALL, "learn.history": 0})
    send(broker, 300)
    trainer = Trainer(chosen, MemoryTransport(broker))
    task = asyncio.create_task(trainer.run())
    try:
        await until(lambda: trainer.state == "collecting")
        send(broker, 10, first=300)
        await until(lambda: trainer.learner.ticks == 40)
    finally:
        trainer.stop()
        await asyncio.wait_for(task, 120)


async def test_one_trainer_leads_and_the_other_stands_by() -> None:
    chosen, broker = made(**{**SMALL, "learn.min_steps": 10**6})
    trainers = [Trainer(chosen, MemoryTransport(broker)) for _ in range(2)]
    tasks = [asyncio.create_task(trainer.run()) for trainer in trainers]
    try:
        await until(lambda: sorted(trainer.state for trainer in trainers) == ["collecting", "standing-by"])
        leader = next(trainer for trainer in trainers if trainer.state == "collecting")
        leader.stop()
        other = next(trainer for trainer in trainers if trainer is not leader)
        await until(lambda: other.state == "collecting")
    finally:
        for trainer in trainers:
            trainer.stop()
        await asyncio.gather(*tasks)


# ── the models topic ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_pinned_weights_are_kept_whatever_comes_after_them() -> None:
    chosen, broker = made(**{**SMALL, "learn.keep": 2})
    writer, follower = (
        ModelsWriter(MemorySink(broker), "app.models"),
        ModelsFollower(MemoryTransport(broker), "app.models"),
    )
    await follower.start()
    for number in range(8):
        await follower.catch_up()
        await writer.publish(f"w-{number}", b"weights" * 10, {}, number)
        await writer.retire(follower.surplus(chosen.learn.keep, f"w-{number}"), number)
        if number in (1, 2):
            await writer.pin(f"w-{number}", True, number)
        if number == 4:
            await writer.pin("w-2", False, number)
    await follower.catch_up()
    assert list(follower.manifests) == ["w-1", "w-6", "w-7"]
    assert follower.pinned == {"w-1"}
    assert follower.blob("w-1") == b"weights" * 10


async def test_pins_have_a_bound_and_outlive_the_readers_bound() -> None:
    _, broker = made()
    writer, follower = (
        ModelsWriter(MemorySink(broker), "app.models"),
        ModelsFollower(MemoryTransport(broker), "app.models"),
    )
    await follower.start()
    for number in range(VERSIONS_MAX + 10):
        await writer.upload(f"w-{number}", b"x", {}, number)
        if number < PINS_MAX + 3:
            await writer.pin(f"w-{number}", True, number)
    await follower.catch_up()
    assert len(follower.pinned) == PINS_MAX and follower.ignored == {"pins": 3}
    assert follower.pinned <= follower.manifests.keys()
    assert len(follower.manifests) == VERSIONS_MAX


async def test_weights_in_pieces_arrive_whole_and_a_rollback_points_back() -> None:
    _, broker = made()
    transport = MemoryTransport(broker)
    writer, follower = ModelsWriter(MemorySink(broker), "app.models"), ModelsFollower(transport, "app.models")
    await follower.start()
    first, second = bytes(range(256)) * 5000, b"second" * 100
    await writer.publish("one", first, {}, 0)
    assert await follower.catch_up() == [("one", first)]
    await writer.publish("two", second, {}, 0)
    assert await follower.poll() == [("two", second)]
    assert await follower.poll() == []
    await writer.point(rolled_back(follower.pointer, "one", 0))
    assert await follower.poll() == [("one", first)]
    await writer.retire([follower.manifests["two"]], 0)
    await follower.poll()
    assert list(follower.manifests) == ["one"]


@pytest.mark.parametrize("damage", ["piece", "missing", "digest", "pointer"])
async def test_damaged_weights_are_never_served(damage: str) -> None:
    import msgspec

    _, broker = made()
    writer, follower = (
        ModelsWriter(MemorySink(broker), "app.models"),
        ModelsFollower(MemoryTransport(broker), "app.models"),
    )
    await writer.publish("good", b"good" * 100, {}, 0)
    if damage == "pointer":
        broker.append("app.models", 0, b"current", b"{", 0)
    else:
        blob = b"x" * 1000
        good = Manifest("bad", 1, 1000, "0" * 64)
        if damage != "missing":
            broker.append("app.models", 0, b"weights/bad/0", blob[:-1] if damage == "piece" else blob, 0)
        broker.append("app.models", 0, b"manifest/bad", msgspec.json.encode(good), 0)
        await follower.start()
        assert await follower.catch_up() == [("good", b"good" * 100)]
        broker.append("app.models", 0, b"current", msgspec.json.encode(Pointer("bad")), 0)
        assert await follower.poll() == []
        assert follower.ignored
        return
    await follower.start()
    assert await follower.catch_up() == [("good", b"good" * 100)]
    assert follower.ignored == {"malformed": 1}


def test_the_trainer_reads_its_limits_from_the_configuration() -> None:
    trainer = Trainer(settings(**SMALL), MemoryTransport())
    assert trainer.learner.spec.updates == 40
    assert trainer.learner.spec.train.chunk_len == 20
    assert trainer.learner.buffer.window == 512


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="an idle policy is Linux's")
def test_it_lets_everybody_else_go_first() -> None:
    code = """
import os
from streamrnn.training.process import step_back
for idle in (True, False):
    child = os.fork()
    if not child:
        step_back(7, idle)
        print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 7)  # it adds to what it has
    assert said.splitlines() == [f"{niceness} {policy}" for policy in (os.SCHED_IDLE, os.SCHED_OTHER)]


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="an idle policy is Linux's")
def test_it_goes_on_where_that_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    step_back(0, idle=True)


@pytest.mark.gpu
async def test_it_learns_on_the_gpu_and_what_it_publishes_serves_on_the_processor() -> None:
    chosen, broker = made(**SMALL)
    send(broker, 300)
    trainer = Trainer(chosen, MemoryTransport(broker))
    assert trainer.device.type == "cuda"
    task = asyncio.create_task(trainer.run())
    try:
        await until(lambda: trainer.published > 0, 300)
        follower = ModelsFollower(MemoryTransport(broker), "app.models")
        await follower.start()
        [(_, blob)] = await follower.catch_up()
        network, meta = build(blob)
        assert network.out.weight.device.type == "cpu"
        assert meta.device == trainer.said()["device"] != "cpu"
    finally:
        trainer.stop()
        await asyncio.wait_for(task, 120)


# ── a GPU that fails ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("device", ["cuda", "cpu"])
async def test_what_torch_raises_is_the_device_s_fault_unless_that_is_the_processor(device: str) -> None:
    chosen, broker = made(**SMALL)
    send(broker, 300)
    trainer = Trainer(chosen, MemoryTransport(broker))
    trainer.device = torch.device(device)

    def fails(_: object) -> NoReturn:
        raise RuntimeError("an illegal memory access was encountered")

    trainer.learner.round = fails  # type: ignore[method-assign]
    with pytest.raises(DeviceFailed if device == "cuda" else RuntimeError, match="illegal memory access"):
        await asyncio.wait_for(trainer.run(), 120)


def test_the_same_command_begins_again_on_the_processor() -> None:
    code = """
import os, sys
from streamrnn.training.process import start_again_without_gpu
if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
    print(os.getppid(), os.getpid(), *sys.argv[1:], input())
else:
    print(os.getpid(), flush=True)
    start_again_without_gpu()
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "-c", "a.yaml"], input="heard", env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    before, after = done.stdout.splitlines()
    again = "train -c a.yaml --set learn.device=cpu --set learn.nice=0"
    assert after == f"{os.getpid()} {before} {again} heard"


@pytest.mark.gpu
def test_a_real_gpu_that_fails_is_left_and_training_goes_on_on_the_processor() -> None:
    """By an assertion on the device, after which nothing in that process can use torch: so in a process of its own."""
    code = f"""
import asyncio, os, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1] / "support")!r}]
import torch
from running import made, send, until
from test_trainer import SMALL
from streamrnn.training.process import start_again_without_gpu
from streamrnn.training.trainer import DeviceFailed, Trainer
from streamrnn.transports.memory.transport import MemoryTransport

def fails(enough):
    torch.zeros(1, device="cuda")[torch.tensor([9], device="cuda")]
    torch.cuda.synchronize()

async def main():
    chosen, broker = made(**SMALL)
    send(broker, 300)
    trainer = Trainer(chosen, MemoryTransport(broker))
    if trainer.device.type == "cuda":
        trainer.learner.round = fails
    task = asyncio.create_task(trainer.run())
    await until(lambda: trainer.published > 0 or task.done(), 60)
    trainer.stop()
    await task
    print("in the end:", trainer.said()["device"], trainer.published, *sys.argv[1:])

try:
    asyncio.run(main())
except DeviceFailed as error:
    print("failed:", str(error).splitlines()[0], flush=True)
    start_again_without_gpu()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    failed, ended = (line for line in done.stdout.splitlines() if line.startswith(("failed:", "in the end:")))
    assert failed.startswith("failed: cuda: CUDA error")
    assert ended.startswith("in the end: cpu 1 --set learn.device=cpu")


async def test_it_learns_from_all_topics_of_its_input_and_from_those_that_come_later() -> None:
    chosen, broker = made(**SMALL, **{"kafka.metadata_max_age_ms": 500}, input="^ticks")
    broker.create("ticks", 1)
    broker.create("other", 1)

    def send_to(topic: str, name: str) -> None:
        for step in range(50):
            broker.append(topic, 0, name.encode(), tick(name, step, float(step % 5)), START + 1000 * step)
        broker.announce()

    send_to("ticks", "a")
    send_to("other", "x")
    trainer = Trainer(chosen, MemoryTransport(broker))
    task = asyncio.create_task(trainer.run())
    try:
        await until(lambda: trainer.learner.ticks == 50)
        broker.create("ticks.more", 2)
        send_to("ticks.more", "a")  # of its own partition, though its name is that of another
        await until(lambda: trainer.learner.ticks == 100)
        broker.delete("ticks")
        send_to("ticks.more", "b")
        await until(lambda: trainer.learner.ticks == 150)
        assert not task.done()
    finally:
        trainer.stop()
        await asyncio.wait_for(task, 60)
    assert len(trainer.learner.front.table) == 3
