"""What operators do in the first month, as they do it: commands of the service against a real broker."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from broker import Broker
from reference import publish
from service import Forked, command, configure, drained, read_all

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from lives import CASES, DELIVERIES, EVENTS, FIRST, HISTORIES, SERIES, check_forecasts, record
from test_identity import kept, published_weights, read, through

from streamrnn.service.config import Settings, load
from streamrnn.transports.base import Deadline
from streamrnn.transports.changelog import newest_checkpoints
from streamrnn.transports.kafka import KafkaTransport

pytestmark = pytest.mark.kafka

# ── another configuration ────────────────────────────────────────────────────────────────────────────────────────────

PARTITIONS = 2
START_MS = 1_700_000_000_000
COLD, CARRIED = "partition starts without its state", "states are carried over into a changed configuration"


class Operated:
    """One app and the processes that serve it, one configuration after the other."""

    def __init__(self, broker: Broker, folder: Path, app: str, delivery: str = "at-least-once") -> None:
        self.broker, self.folder, self.app, self.delivery = broker, folder, app, delivery
        self.step, self.workers = 0, list[Forked]()
        self.configure({})
        command("topics", "-c", self.config, "--create", "--partitions", str(PARTITIONS))

    def configure(self, changes: dict[str, Any]) -> Settings:
        """Changes from the first configuration; dots in keys as on the command line."""
        nested: dict[str, Any] = {"checkpoint": {"interval": "200ms"}, "idle_after": "600s", "delivery": self.delivery}
        nested["warm_up"] = 8
        for key, value in {**FIRST, **changes}.items():
            *path, last = key.split(".")
            at = nested
            for part in path:
                at = at.setdefault(part, {})
            at[last] = value
        self.config = configure(self.folder, self.broker, self.app, **nested)
        self.settings = load([self.config], {}, {})
        return self.settings

    async def send(self, steps: int) -> None:
        sink = KafkaTransport(self.settings.kafka_settings()).sink()
        await sink.start()
        for p in range(PARTITIONS):
            rows = [(s, k) for k in range(self.step, self.step + steps) for s in SERIES[p::PARTITIONS]]
            await sink.append_many(
                self.settings.input, p, [s.encode() for s, _ in rows], [record(s, k) for s, k in rows],
                [START_MS + 1000 * k for _, k in rows],
            )  # fmt: skip
        await (await sink.seal()).wait(Deadline(30.0))
        await sink.stop(Deadline(10.0))
        self.step += steps

    async def run(self, steps: int = 0) -> Forked:
        """A new worker, until all that there is, and so many steps more, is committed."""
        worker = Forked(self.folder / f"{self.app}.{len(self.workers)}.log", "run", "-c", self.config)
        self.workers.append(worker)
        worker.waits_for("partition assigned")
        if steps:
            await self.send(steps)
        await drained(self.broker, self.app)
        return worker

    async def next(self, event: str, steps: int = 10) -> Forked:
        """A worker of the configuration that there is by now, after the present one has ended in this way."""
        before = self.workers[-1]
        if event == "restart":
            assert before.stop() == 0
        elif event == "kill":
            before.kill()
        else:
            after = await self.run(steps)
            before.kill()
            await self.send(steps)
            await drained(self.broker, self.app)
            return after
        return await self.run(steps)

    async def written(self) -> None:
        """Until the changelog holds all states as they are now."""
        transport, end = KafkaTransport(self.settings.kafka_settings()), self.step * len(SERIES) // PARTITIONS
        async with asyncio.timeout(60):
            while True:
                found = await newest_checkpoints(transport, f"{self.app}.state", 30.0)
                if [checkpoint.offset for checkpoint in found.values()] == [end] * PARTITIONS:
                    return
                await asyncio.sleep(0.1)

    def lines(self, worker: Forked, event: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in worker.said().splitlines() if event in line]

    async def forecasts(self, since: int = 0) -> list[dict[str, Any]]:
        """In the order of their records, of steps sent from `since` on."""
        found = [json.loads(r.value) for r in await read_all(self.broker, f"{self.app}.forecasts")]
        first = since * len(SERIES) // PARTITIONS
        return sorted((d for d in found if d["source"]["offset"] >= first), key=lambda d: d["source"]["offset"])

    async def refused(self) -> set[str]:
        return {dict(r.headers)["streamrnn-reason"].decode() for r in await read_all(self.broker, f"{self.app}.dlq")}

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()


@pytest.fixture
def operated(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> Any:
    made = Operated(broker, tmp_path, unique("operated"))
    yield made
    made.end()


async def test_a_changed_shape_costs_once_whatever_comes_after_it(operated: Operated) -> None:
    """Another horizon, weights of another cell, restarts, kills and take-overs: the old states stay in the log all the
    time, for the segment that is written to is never compacted."""
    await publish(operated.settings, *published_weights(operated.settings, "gru"))
    await operated.send(40)
    await operated.run()
    operated.configure({"horizon": 6, "burn_in": 9})
    worker = await operated.next("restart")
    assert [line["carried"] for line in operated.lines(worker, CARRIED)] == [3, 3]
    assert "`horizon` was 3, and is 6" in operated.lines(worker, CARRIED)[0]["what"][0]
    lstm, blob = published_weights(operated.settings, "lstm")
    await publish(operated.settings, lstm, blob)
    worker.waits_for(lstm)
    await operated.send(5)
    await operated.written()
    for event in ("kill", "take-over", "restart"):
        worker = await operated.next(event)
        assert operated.lines(worker, COLD) == operated.lines(worker, CARRIED) == []
    assert all(document["warm"] for document in (await operated.forecasts())[-6:])
    check_forecasts(await operated.forecasts(), ("temp", "flow"))


async def test_another_step_begins_anew_and_nothing_of_it_is_late_or_long_ago(operated: Operated) -> None:
    await operated.send(40)
    await operated.run()
    for step, step_ms in (("5s", 5000), ("1s", 1000), ("irregular", 1000)):
        operated.configure({"step": step})
        cost = json.loads(command("validate", "-c", operated.config, "--json"))["kept"]
        assert [(each["cold"], each["partitions"]) for each in cost] == [(True, [0, 1])]
        before = operated.step
        worker = await operated.next("restart", 30)
        cold = operated.lines(worker, COLD)
        assert [f"{line['why']}: everything starts cold" for line in cold] == 2 * cost[0]["what"]
        documents = await operated.forecasts(before)
        assert {document["step_ms"] for document in documents} == {step_ms} and len(documents) >= 24
        await operated.written()
        worker = await operated.next("kill", 10)
        assert operated.lines(worker, COLD) == []
    filled = [json.loads(r.value)["ts"] for r in await read_all(operated.broker, f"{operated.app}.imputed")]
    assert all(START_MS <= ts <= START_MS + 1000 * operated.step for ts in filled)
    assert await operated.refused() <= {"duplicate"}  # several records in a step of 5 s, `within: one`
    check_forecasts(await operated.forecasts())


async def test_names_decide_and_not_places(operated: Operated) -> None:
    """Channels in another order, one renamed, levels of the same number: no forecast comes from another one's state."""
    await operated.send(60)
    await operated.run()
    operated.configure({"channels": ["pressure", "temp"], "quantiles": [0.1, 0.5, 0.9]})
    told = command("validate", "-c", operated.config)
    worker = await operated.next("restart", 30)
    lines = operated.lines(worker, CARRIED)
    assert len(lines) == PARTITIONS
    for words in ("channel pressure starts cold: it is new", "the offsets of 0.1, 0.9 start cold"):
        assert words in told and any(words in what for what in lines[0]["what"])
    check_forecasts(await operated.forecasts(), ("temp",))
    levels = {
        level for d in (await operated.forecasts())[-6:] for c in d["channels"].values() for level in c["quantiles"]
    }
    assert levels == {"0.1", "0.5", "0.9"}


LONG = [
    (name, how, EVENTS[(i + h) % 3], DELIVERIES[(i + h + i // 3) % 2])
    for (i, name), (h, how) in product(enumerate(CASES), enumerate(HISTORIES))
]


@pytest.mark.kafka_long
@pytest.mark.parametrize(("name", "how", "event", "delivery"), LONG)
async def test_the_matrix_of_changes_on_a_real_broker(
    broker: Broker, tmp_path: Path, unique: Callable[[str], str], name: str, how: str, event: str, delivery: str
) -> None:
    """As `tests/service/test_identity.py`, with processes that are really killed."""
    operated = Operated(broker, tmp_path, unique("matrix"), delivery)
    try:
        changes = through(how, name)
        history = [operated.configure(changes[0])]
        await operated.send(40)
        await operated.run()
        for change in changes[1:]:
            await operated.written()
            history.append(operated.configure(change))
            worker = await operated.next(event, 25)
            cold, carried = len(operated.lines(worker, COLD)), len(operated.lines(worker, CARRIED))
            changed = history[-1].meaning() != history[-2].meaning()
            assert (cold, carried) == ((PARTITIONS, 0) if CASES[name].cold else (0, PARTITIONS * changed))
            await operated.written()
            worker = await operated.next("restart" if event == "kill" else "kill", 10)
            assert operated.lines(worker, COLD) == operated.lines(worker, CARRIED) == []
        check_forecasts(await operated.forecasts(), () if CASES[name].cold else kept(history)[0], read(history))
    finally:
        operated.end()
