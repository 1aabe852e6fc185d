"""One simulated life of the service: its input, workers and trainers that die and come back, and what must hold."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import xxhash
from clock import VirtualLoop
from content import REFUSED, Content
from faults import KINDS, POLL_INTERVAL_S, SESSION_S, Faults
from ledger import EFFECTS, Ledger, Violation
from oracle import Oracle
from recorder import FORMER, Packed, Recorder, Watch
from stream import CHANGES, LETTERS, MODELS, OUTPUTS, PARTITIONS, START, STATE, Raw, gathered, ticks, weights, written

from streamrnn.config.settings import load
from streamrnn.model.weights import weights_id
from streamrnn.serving.refused import LETTER_BYTES_LEFT
from streamrnn.serving.worker import Worker
from streamrnn.stores.models import ModelsFollower, ModelsWriter, Pointer, rolled_back
from streamrnn.stream.engine import NO_MODEL, Engine
from streamrnn.training.trainer import Trainer
from streamrnn.transports.base import Committed, OperatorNeeded, TransportError
from streamrnn.transports.memory.transport import Flaws, MemoryBroker, MemoryTransport

# How long after the last fault everything must have been read, delivered and committed.
HEAL_S = 200.0
# How long a process may take to end when it is asked to, whatever is broken.
END_S = 60.0
# How many of the runs begin in an input that was made anew.
MADE_ANEW = 0.1
# How many have a configuration that changes.
CONFIGURED = 0.3
# How many of the others begin where an operator has set the group's offsets back to the begin of an input that was served.
SET_BACK = 0.1
# Of seeds whose records hold no tick, one, or several.
GATHERED = 0.2
# How many keep their checkpoints to a budget that none of them can keep.
TIGHT = 0.3
# Columns of a state that say by NaN that a value is missing.
INCOMPLETE: tuple[str, ...] = ()


@dataclass
class Report:
    """What a run did, for the tally over many seeds."""

    seed: int
    delivery: str
    trained: bool = False
    records: int = 0
    repeated: int = 0  # outputs said more than once
    starts: int = 0
    weights: int = 0  # that came into use
    accepted: int = 0  # by the trainers' gates
    lineages: int = 0
    refused: int = 0  # outputs, by the broker for what they hold
    configured: int = 0  # times an operator changed the configuration
    tight: bool = False  # its checkpoints had a budget that could not be kept
    gathered: bool = False  # its records held several ticks, or none
    inexact: int = 0  # partitions that are not held against an uninterrupted run
    virtual_s: float = 0.0
    digest: str = ""  # of all that happened: the same seed, the same digest
    fired: Counter[str] = field(default_factory=Counter)


class World:
    """Everything of one seed."""

    def __init__(
        self,
        seed: int,
        kinds: tuple[str, ...] = KINDS,
        delivery: str = "",
        trained: bool | None = None,
        several: bool | None = None,
    ) -> None:
        """`trained`, `several` (records of no, one or more ticks): None leaves it to the seed."""
        self.seed, self.kinds = seed, kinds
        rng = self.random = random.Random(f"world-{seed}")
        random.seed(seed)  # the service's own back-off
        self.crowded = rng.random() < 0.1
        chosen = written(rng, delivery or rng.choice(["at-least-once", "exactly-once"]), self.crowded)
        tight = random.Random(f"budget-{seed}")  # drawn apart, like what follows
        self.tight = tight.random() < TIGHT
        if self.tight:
            chosen["checkpoint"] |= {"bytes_per_second": tight.choice([1, 300, 3000])}
            if tight.random() < 0.5:
                chosen["checkpoint"] |= {"interval": "200ms", "interval_max": tight.choice(["1s", "5s"])}
        self.settings = load([], chosen, {})
        # Few, for each costs as much as twenty others.
        self.trained = (rng.random() < 0.03) if trained is None else trained
        self.logs = ticks(rng, rng.choice([120, 250] if self.trained else [40, 120, 250]))
        self.swaps = rng.choice([0, 0, 1, 3])
        self.served = rng.random() < 0.8
        # The input may have had a life before, of which all that the service wrote down is still there. Drawn apart, so
        # that all else of a seed is as it would be without.
        before = random.Random(f"former-{seed}")
        self.former = ticks(before, before.choice([10, 60, 160])) if before.random() < MADE_ANEW else None
        # Or its records hold no tick, one, or several. Drawn apart, too.
        gathering = random.Random(f"gathered-{seed}")
        self.gathered = gathering.random() < GATHERED if several is None else several
        if self.gathered:
            chosen["decode"] = {"each": "r[*]", "tombstones": gathering.choice(["skip", "refuse"])}
            self.settings = load([], chosen, {})
            self.logs = gathered(gathering, self.logs)
            self.former = gathered(gathering, self.former) if self.former is not None else None
        # What an operator changes between two lives, drawn apart as well: by name, the one that all begin with first.
        self.changing = random.Random(f"configured-{seed}")
        self.configured = not self.trained and self.changing.random() < CONFIGURED
        others = self.changing.sample(CHANGES[1:], self.changing.choice([1, 1, 2])) if self.configured else []
        self.configurations = {f"@{k}": load([], {**chosen, **change}, {}) for k, change in enumerate([{}, *others])}
        self.configuration = "@0"
        # Or an operator has it processed again: what was read of it before.
        again = random.Random(f"set-back-{seed}")
        self.set_back = self.former is None and again.random() < SET_BACK
        if self.set_back:
            self.former = [log[: again.randint(1, len(log))] for log in self.logs]
        self.content = Content(seed)
        self.broker = MemoryBroker(SESSION_S, POLL_INTERVAL_S)
        self.broker.refuses = self.content.refuses if self.content.rate else None
        self.broker.create("ticks", PARTITIONS)
        for need in self.settings.topic_needs(PARTITIONS):
            self.broker.create(need.name, need.partitions)
        self.report = Report(seed, self.settings.delivery, self.trained, tight=self.tight, gathered=self.gathered)
        self.workers: dict[str, tuple[Worker, Watch]] = {}  # those alive, by client
        self.trainers: dict[str, Trainer] = {}
        self._stops: dict[str, Callable[[], None]] = {}
        self._killed: dict[str, asyncio.Event] = {}
        self._over = False
        self._digest = xxhash.xxh3_64()

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> Report:
        loop = _loop()
        begun = loop.time()
        self._violation: asyncio.Future[None] = loop.create_future()
        loop.set_exception_handler(self._noticed)
        self.faults = Faults(self.seed, self.broker, self.kill, self._terminate, self.kinds)
        loop.thread_s = lambda: self.faults.random.uniform(0.05, 1.0)
        self._open_books({})
        living = asyncio.create_task(self._live())
        await asyncio.wait({living, self._violation}, return_when=asyncio.FIRST_COMPLETED)
        if self._violation.done():
            self._violation.result()
        await living
        self.report.virtual_s = loop.time() - begun
        self.report.fired = self.faults.fired
        self.report.refused = len(self.content.refused)
        self.report.digest = self._digest.hexdigest()
        return self.report

    def _open_books(self, former: dict[bytes, Packed]) -> None:
        """`former`: states in the changelog that are of an input that is no more."""
        self.content.refused.clear()
        self.recorder = Recorder(lambda what: self._violated(Violation(what)), former)
        blobs: dict[str, bytes] = {}
        self.oracle = Oracle(self.configurations, self.logs, blobs)
        exactly_once = self.settings.delivery == "exactly-once"
        self.ledger = Ledger(
            self.broker, self.oracle, self.recorder, self.content, exactly_once, exact=not self.crowded
        )
        self.ledger.blobs = blobs
        self.recorder.available = self.ledger.manifests.__contains__

    async def _live(self) -> None:
        if self.former is not None:
            await self._live_before(self.former)
        self.broker.hook = self._request
        rng = self.random
        self.operator = ModelsWriter(MemoryTransport(self.broker).sink(), MODELS)
        if self.served:
            await self._publish(0)
        self.faults.begin()
        slots = [asyncio.create_task(self._slot(f"w{i}", self._worker)) for i in range(rng.choice([1, 2, 3]))]
        if self.trained:
            slots += [asyncio.create_task(self._slot(f"t{i}", self._trainer)) for i in range(rng.choice([1, 2]))]
        operating = [asyncio.create_task(self._operate())]
        if self.configured:
            operating.append(asyncio.create_task(self._reconfigure()))
        await self._feed()
        await asyncio.gather(*operating)
        await asyncio.sleep(rng.uniform(0.0, 5.0))
        self.faults.stop()
        await self._healed()
        self._check_states()
        await self._check_weights()
        await self._end(slots)
        await self._live_once_more()
        self.check_end()

    async def _live_before(self, logs: list[list[Raw]]) -> None:
        """An input of the same name, read to its end, then deleted and made anew while nobody was there to see it; or the
        same input, whose offsets an operator then sets back to its begin. Either way no state of then may be used."""
        now, self.logs = self.logs, logs
        self._open_books({})
        self.broker.hook = self._request
        self.faults.quiet = True
        for p, log in enumerate(logs):
            for key, value, ts in log:
                self.broker.append("ticks", p, key, value, ts)
        await self._live_alone("w.former")
        self.faults.quiet = False
        former = {value: replace(packed, lineage=FORMER) for value, packed in self.recorder.packed.items()}
        if self.set_back:
            begin = {("ticks", p): Committed(0) for p in range(PARTITIONS)}
            self.broker.groups["app"].committed |= begin
            self.faults.fired["set-back"] += 1
        else:
            self.broker.delete("ticks")
            self.broker.create("ticks", PARTITIONS)
        self.logs = now
        self._open_books(former)
        self.ledger.begin()

    async def _request(self, what: str, client: str, effect: Callable[[], Any]) -> Any:
        self._digest.update(f"{what} {client} {_loop().time():.6f}".encode())

        def seen() -> Any:
            answer = effect()
            try:
                self.ledger.look(client)
            except Violation as violation:
                self._violated(violation)
            return answer

        watched = seen if what in EFFECTS else effect
        return await self.faults.request(what, client, watched) if client else watched()

    def _violated(self, violation: Violation) -> None:
        if not self._violation.done():
            self._violation.set_exception(violation)

    def _noticed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, (TransportError, asyncio.CancelledError)):
            self._violated(Violation(f"I10 liveness: something ended without a word: {error!r} ({context['message']})"))

    async def _feed(self) -> None:
        at = [len(self.broker.topics["ticks"][p]) for p in range(PARTITIONS)]
        while any(at[p] < len(self.logs[p]) for p in range(PARTITIONS)):
            p = self.random.randrange(PARTITIONS)
            for key, value, ts in self.logs[p][at[p] : at[p] + self.random.choice([1, 2, 5, 30])]:
                self.broker.append("ticks", p, key, value, ts)
                at[p] += 1
            self.broker.announce()
            await asyncio.sleep(self.random.expovariate(1 / 0.05))

    async def _operate(self) -> None:
        """Weights that others have trained, and an operator who goes back to older ones."""
        for number in range(self.swaps):
            await asyncio.sleep(self.random.uniform(0.5, 4.0))
            older = sorted(self.ledger.manifests)
            if number and len(older) > 1 and self.random.random() < 0.5:
                await self._roll_back(self.random.choice(older))
            else:
                await self._publish(number + 1)

    async def _reconfigure(self) -> None:
        """An operator changes the configuration, and perhaps back, and starts the workers anew, one after the other."""
        rng = self.changing
        for _ in range(rng.choice([1, 2, 2, 3])):
            await asyncio.sleep(rng.uniform(0.3, 3.0))
            self.configuration = rng.choice([name for name in self.configurations if name != self.configuration])
            self.report.configured += 1
            for client in list(self.workers):
                await asyncio.sleep(rng.expovariate(1 / 0.3))
                if rng.random() < 0.5:
                    self.kill(client)
                elif client in self._stops:
                    self._stops.pop(client)()
                    _loop().call_later(END_S, self._check_gone, client)

    async def _publish(self, number: int) -> None:
        model, blob = weights(number, self.settings.meaning())
        self.ledger.permitted.add(model)
        follower = await self._followed()
        await self.operator.upload(model, blob, {}, self.now_ms())
        known = follower.pointer
        refused = known.refused if known is not None else ()
        if model not in refused:
            base = known.id if known is not None else ""
            await self.operator.point(Pointer(model, at_ms=self.now_ms(), base=base, refused=refused))

    async def _roll_back(self, model: str) -> None:
        follower = await self._followed()
        if follower.pointer is None or follower.pointer.id != model:
            await self.operator.point(rolled_back(follower.pointer, model, self.now_ms()))

    async def _followed(self) -> ModelsFollower:
        follower = ModelsFollower(MemoryTransport(self.broker), MODELS)
        await follower.start()
        await follower.catch_up()
        return follower

    def now_ms(self) -> int:
        return START + int(_loop().time() * 1000)

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _slot(self, slot: str, make: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        """A process supervisor: what ends is started again."""
        for number in count():
            if self._over:
                return
            await self._process(f"{slot}.{number}", make)
            await asyncio.sleep(self.random.uniform(0.05, 1.0))

    async def _process(self, client: str, make: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        loop, killed = _loop(), asyncio.Event()
        self._killed[client] = killed
        self.report.starts += 1
        task = loop.spawn(client, self._life(client, make))
        self.faults.born(client)
        waiting = asyncio.create_task(killed.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        loop.stop_process(client)  # nothing of it goes on, whatever it left running
        self.faults.died(client)
        for known in (self.workers, self.trainers, self._stops, self._killed):
            known.pop(client, None)
        error = task.exception() if task.done() and not task.cancelled() else None
        if error is not None and (isinstance(error, OperatorNeeded) or not isinstance(error, TransportError)):
            raise Violation(f"I10 liveness: {client} died of what is no fault of the broker: {error!r}") from error

    async def _life(self, client: str, make: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        # Asked to end while it was frozen at its first step: nobody listens yet, and the signal kills.
        if not self._over:
            await make(client)

    def transport(self, client: str, flaws: Flaws | None = None) -> MemoryTransport:
        return MemoryTransport(self.broker, client, flaws or self.faults.flaws)

    async def _worker(self, client: str) -> None:
        chosen = self.configurations[self.configuration]
        worker = Worker(chosen, self.transport(client), None, now_ms=self.now_ms)  # type: ignore[arg-type]
        watch = Watch(self.recorder, client, worker, self.configuration, next(iter(self.configurations)))
        self.workers[client] = worker, watch
        self._stops[client] = worker.stop
        await worker.run()

    async def _trainer(self, client: str) -> None:
        trainer = self.trainers[client] = Trainer(self.settings, self.transport(client), self.now_ms)
        learned = trainer.learner.round

        def judged(enough: Callable[[], bool]) -> Any:
            done = learned(enough)
            if done.network is not None:
                self.ledger.permitted.add(weights_id(done.network))
                self.report.accepted += 1
            return done

        trainer.learner.round = judged  # type: ignore[method-assign]
        self._stops[client] = trainer.stop
        await trainer.run()

    def kill(self, client: str) -> None:
        """kill -9: nothing that it was doing goes on."""
        _loop().stop_process(client)
        if client in self._killed:
            self._killed[client].set()

    def _terminate(self, rng: random.Random) -> None:
        """SIGTERM to one of them; it has to end within END_S, whatever is broken."""
        if self._stops:
            client = rng.choice(list(self._stops))
            self._stops.pop(client)()
            _loop().call_later(END_S, self._check_gone, client)

    def _check_gone(self, client: str) -> None:
        if client in self._killed:
            self._violated(Violation(f"I10 liveness: {client} was asked to end and is there after {END_S} s"))

    async def _end(self, slots: list[asyncio.Task[None]]) -> None:
        """All are asked to end, and nothing is broken any more."""
        self._over = True
        for stop in list(self._stops.values()):
            stop()
        _, pending = await asyncio.wait(slots, timeout=END_S)
        if pending:
            raise Violation(f"I10 liveness: {sorted(self._killed)} were asked to end and are there after {END_S} s")
        for slot in slots:
            slot.result()

    # ── what must hold in the end ────────────────────────────────────────────────────────────────────────────────

    async def _healed(self) -> None:
        """I10: with no more faults, everything is read, delivered and committed within a bounded time."""
        until = _loop().time() + HEAL_S
        while not self._at_rest():
            if _loop().time() > until:
                raise Violation(
                    f"I10 liveness: committed {self.ledger.offsets()}, owned {self._owned()} after {HEAL_S} s without faults"
                )
            await asyncio.sleep(0.5)

    def _at_rest(self) -> bool:
        """Everything is committed and nothing open, and every partition has an owner that has come to its end."""
        ends = {p: len(self.logs[p]) for p in range(PARTITIONS)}
        return (
            self.ledger.offsets() == ends
            and self._owned() == ends
            and all(self.broker.stable_end(t, p) == self.broker.end(t, p) for t in OUTPUTS for p in ends)
        )

    def _owned(self) -> dict[int, int]:
        """Positions of the partitions that somebody serves."""
        pumps = [worker.pump for worker, _ in self.workers.values() if worker.pump is not None]
        return {p: owned.position for pump in pumps for p, owned in sorted(pump.owned.items())}

    async def _check_weights(self) -> None:
        """I8, I10: all serve what a fresh reader of the models topic takes for current; nobody went back to nothing."""
        for _, watch in self.workers.values():
            if len(set(watch.models) - self.ledger.pointed):
                raise Violation(f"I8 weights: {watch.models} were swapped in, and nobody pointed at all of them")
        if self.trained:
            return  # they may be publishing right now
        follower = await self._followed()
        current = follower.pointer.id if follower.pointer is not None else NO_MODEL
        until = _loop().time() + HEAL_S
        while {worker.engine.model for worker, _ in self.workers.values()} != {current}:
            if _loop().time() > until:
                serving = {client: worker.engine.model for client, (worker, _) in self.workers.items()}
                raise Violation(f"I10 liveness: {current} are current for {HEAL_S} s, and what serves is {serving}")
            await asyncio.sleep(0.5)

    def _check_states(self) -> None:
        """I4, I5: every state is what an uninterrupted run of the same lineage has, bit for bit."""
        held: set[int] = set()
        for client, (worker, watch) in self.workers.items():
            if len(worker.engine.table) > self.settings.series_max:
                raise Violation("I6 bounds: more series than series_max")
            for p, (position, _) in worker.pump.positions().items() if worker.pump is not None else ():
                if position == self.broker.end("ticks", p):  # or it was evicted, and has not noticed yet
                    held.add(p)
                    self._check_rows(client, worker, watch, p)
        if held != set(range(PARTITIONS)):
            raise Violation(f"I7 ownership: only partitions {held} are served to their end")

    def _check_rows(self, client: str, worker: Worker, watch: Watch, partition: int) -> None:
        table = worker.engine.table
        _check_finite(worker.engine, partition)
        if not self.ledger.exact(partition):
            return  # where it is crowded, which series had to go depends on who shared a worker
        names = table.series(partition).keys()
        for name, row in table.series(partition).items():
            lineage = watch.rows[partition, name]
            theirs = self.oracle.life(partition, lineage).engine.table
            if names != theirs.series(partition).keys():
                raise Violation(
                    f"I4 replay: partition {partition} has {set(names)}, not {set(theirs.series(partition))}"
                )
            other = theirs.series(partition)[name]
            for column, values in table.columns.items():
                if column == "applied" or (column == "state" and not table.columns["generation"][row]):
                    continue  # how often it was written down; the state of no network
                if values[row].tobytes() != theirs.columns[column][other].tobytes():
                    raise Violation(
                        f"I4 replay: {column} of {name} in {client} is not what an uninterrupted run has: "
                        f"{values[row].tolist()}, not {theirs.columns[column][other].tolist()}; {lineage}"
                    )

    async def _live_once_more(self) -> None:
        """A last worker, alone and undisturbed, finds everything in the changelog."""
        await self._live_alone("w.last")

    async def _live_alone(self, client: str) -> None:
        self._over = False
        last = asyncio.create_task(self._process(client, self._worker))
        until = _loop().time() + HEAL_S
        while not self._at_rest():
            if last.done():
                last.result()
            if _loop().time() > until:
                raise Violation(f"I10 liveness: {client}, alone, has not read and committed everything in {HEAL_S} s")
            await asyncio.sleep(0.2)
        self._check_states()
        await self._end([last])
        self._over = False

    def check_end(self) -> None:
        """I1: all that should be said is said, nothing else, and in the words of an uninterrupted run."""
        ledger, report = self.ledger, self.report
        report.records = sum(len(log) for log in self.logs)
        report.repeated = sum(ledger.times.values()) - len(ledger.times)
        report.weights = len(ledger.pointed) - 1
        report.lineages = sum(len(known) for known in self.recorder.lineages.values())
        for topic in (*OUTPUTS, STATE, MODELS):
            for log in self.broker.topics[topic]:
                for record in log:
                    self._digest.update(b"%d%b%b" % (record.offset, record.key or b"-", record.value or b"-"))
        exact = {p for p in range(PARTITIONS) if ledger.exact(p)}
        report.inexact = PARTITIONS - len(exact)
        wanted = {place for place in ledger.wanted() if place[1] in exact}
        said = {place: values for place, values in ledger.said.items() if place[1] in exact}
        lost, extra = sorted(wanted - said.keys()), sorted(said.keys() - wanted)
        if lost or extra:
            raise Violation(
                f"I1 conservation: {len(lost)} outputs lost, {len(extra)} nobody should have said; "
                f"lost {lost[:2]}, extra {extra[:2]}"
            )
        # Elsewhere what is refused need not be refused, and counted, again: whoever died over it may have said other things.
        refused = sum(place[1] in exact for place in self.content.refused)
        if self.recorder.refused < refused:
            raise Violation(f"I1 conservation: {refused} are refused, and {self.recorder.refused} counted")
        lives = {p: [self.oracle.life(p, line) for line in self.recorder.lineages[p]] for p in exact}
        for place, values in said.items():
            for value in values:
                if place[0] == LETTERS and place[4].partition("#")[0] == REFUSED:
                    if not _is_letter_of(value, self.logs[place[1]][place[2]][1] or b""):
                        raise Violation(f"I1 conservation: {place} is not the record that led to it: {value!r}")
                elif place[0] == LETTERS and any(_is_letter_of(value, life.said[place]) for life in lives[place[1]]):
                    continue
                elif not any(life.said[place] == value for life in lives[place[1]]):
                    raise Violation(f"I4 replay: {place} is not what an uninterrupted run says: {value!r}")


def _is_letter_of(value: bytes, whole: bytes) -> bool:
    """Whether a dead letter has the record, or so much of it as is left of one that the broker called too large."""
    return value == whole or (len(value) in LETTER_BYTES_LEFT and whole.startswith(value))


def _check_finite(engine: Engine, partition: int) -> None:
    """I5: no state holds an infinite number, nor one that is none where a fresh row has one."""
    table = engine.table
    for name, row in table.series(partition).items():
        for column, values in table.columns.items():
            if values.dtype.kind != "f":
                continue
            missing = column in INCOMPLETE or np.isnan(table.fields[column].fill)
            if np.isinf(values[row]).any() or (not missing and np.isnan(values[row]).any()):
                raise Violation(f"I5 finite: {column} of {name} is {values[row].tolist()}")


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop
