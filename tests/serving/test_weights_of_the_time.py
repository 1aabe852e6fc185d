"""A partition that is taken over is replayed with the weights that its last owner used, also where they came there first."""

from __future__ import annotations

import pytest
import torch
from operated import Life
from running import logs, made, of, on_virtual_clock, send, until

from streamrnn.model.network import Network
from streamrnn.model.weights import WeightsMeta, pack
from streamrnn.serving import served_weights
from streamrnn.stores.models import ModelsWriter
from streamrnn.transports.memory.transport import MemorySink


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
@on_virtual_clock
async def test_weights_that_came_to_another_worker_first_are_looked_for(
    delivery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, broker = made(partitions=1)
    send(broker, 30, partitions=1)
    rare = {"interval": "600s"}  # the owner's states are not in the changelog when it dies
    owner = await Life(broker, delivery=delivery, checkpoint=rare).serves()
    monkeypatch.setattr(served_weights, "MODELS_POLL_S", 3600.0)  # the other one has not looked since it started
    other = Life(broker, delivery=delivery, checkpoint=rare)
    await until(lambda: other.worker.pump is not None and len(broker.group("app").members) == 2)
    await until(lambda: owner.worker.pump is not None and 0 in owner.worker.pump.owned)
    torch.manual_seed(0)
    network, meta = Network(chosen.model_spec()), WeightsMeta()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    blob = pack(network, meta, chosen.meaning())
    await ModelsWriter(MemorySink(broker), "app.models").publish(meta.id, blob, {}, 0)
    assert owner.worker.weights is not None
    await owner.worker.weights.catch_up()
    send(broker, 30, first=30, partitions=1)
    await owner.serves()
    assert owner.worker.engine.model == meta.id != other.worker.engine.model
    with logs() as lines:
        owner.kill()
        broker.group("app").rebalance()
        await until(lambda: other.worker.pump is not None and bool(other.worker.pump.owned))
        await until(lambda: other.worker.pump is not None and not other.worker.pump.owned[0].replaying)
    assert not of(lines, "weights of the time")
    ours, theirs = owner.worker.engine.table, other.worker.engine.table
    assert theirs.series(0).keys() == ours.series(0).keys() != set()
    for name, row in ours.series(0).items():
        for column, values in ours.columns.items():
            assert values[row].tobytes() == theirs.columns[column][theirs.series(0)[name]].tobytes(), (name, column)
