"""Learning from the stream: when to train, on what, and whether the result may serve. No clock, no I/O: ticks are passed in.

Of more than `series_max` series a sample is kept (`stream.sample`), so that those that are kept have a history.

The ticks go through an engine of its own, with all experts and no network: what its mixture leaves is what a network learns.

A round: train on from the latest own weights (optimizer state kept) up to the held-out steps, then let the gate compare
the averaged weights with the incumbent on steps that neither was trained on. After REFUSALS_MAX refusals in a row the
own weights are thrown away for the incumbent's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from streamrnn.learning import UPDATES, LearnSpec, usual_updates
from streamrnn.model.gate import Evaluation, Verdict, evaluate, judge
from streamrnn.model.network import Network
from streamrnn.model.tbptt import Average, Kept, make_optimizer, train_sequences
from streamrnn.model.weights import finite
from streamrnn.records import I64, TickBatch, take
from streamrnn.spec import ModelSpec, StreamSpec
from streamrnn.stream.drift import DriftWatch
from streamrnn.stream.engine import Engine
from streamrnn.stream.replay import ReplayBuffer
from streamrnn.stream.resting import REST, Worth
from streamrnn.stream.sample import SeriesSample

REFUSALS_MAX = 4
EVALUATED_SERIES = 64
WATCHED_SERIES = 32
BLOCK_LEAST = 8  # steps whose errors count as one observation at the gate, or a horizon
WATCH_EVERY = 16  # steps per series between two looks at the errors in use


@dataclass(frozen=True, slots=True)
class Round:
    """What a round came to. `network` is the accepted candidate on the processor, None when it was refused."""

    number: int
    verdict: Verdict
    updates: int
    loss: float
    candidate: Evaluation | None
    incumbent: Evaluation | None
    network: Network | None


@dataclass(frozen=True, slots=True)
class Lack:
    """What is missing for a first round: `have` of `need` steps, `each` of a series or of all together."""

    have: int
    need: int
    each: bool


class Learner:
    """Owns the replay buffer, the weights in training, and a copy of the incumbent's."""

    def __init__(
        self, stream: StreamSpec, model: ModelSpec, spec: LearnSpec, device: torch.device | None = None
    ) -> None:
        self.spec, self.model_spec = spec, model
        self.device = device if device is not None else torch.device("cpu")
        self.engine = Engine(replace(stream, series_max=spec.series_max), record=True)
        self.front = self.engine.front
        self.buffer = ReplayBuffer(self.engine.spec, len(self.engine.inputs), spec.window, spec.holdout, spec.bytes_max)
        self.sample = SeriesSample(spec.series_max)
        self._spoke: I64 = np.zeros(spec.series_max, dtype=np.int64)  # by row: `ticks` when its series last took a step
        self._searched = 0  # `ticks` when silent members were last looked for
        self.incumbent: Network | None = None
        self.drifted = False
        self.ticks = 0
        self.steps = 0
        self._round_at = 0  # `steps` at the last round
        self.rounds = self.accepted = self.refused = 0
        self.worth = Worth()
        self._looked_at = 0  # `steps` when the weights in use were last judged
        self._rests_until = 0  # `steps`
        self._refused_in_a_row = 0
        self._watch = DriftWatch()
        self._watched_at = 0
        self._rng = np.random.default_rng([spec.train.seed, 5])
        torch.manual_seed(spec.train.seed)
        self._network = Network(model).to(self.device)
        self._optimizer = make_optimizer(self._network, spec.train)
        self._average = Average(self._network, spec.train.ema_decay)

    @property
    def drifts(self) -> int:
        return self._watch.events

    # ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────

    def feed(self, batch: TickBatch) -> None:
        """Ticks as they arrive; late and double ones fall out as they do in serving."""
        self.ticks += len(batch)
        batch = self._sampled(batch)
        for frames, recorded in self.engine.watch(batch):
            self._spoke[frames.slot] = self.ticks
            self.buffer.extend(frames, recorded)
            self.steps += len(frames)
            if self.spec.drift and self.incumbent is not None:
                self._look_for_drift()

    def _sampled(self, batch: TickBatch) -> TickBatch:
        """The ticks of series that are members of the sample, or become members by them."""
        held = self.sample.held
        names = list(zip(batch.partition.tolist(), batch.series, strict=True))
        new = set(names) - held.keys()
        if not new:
            return batch
        self._forget_silent()
        for partition, series in sorted(self.sample.offer(new)):  # rows are given out again in this order
            self._forget(partition, series)
        rows = [row for row, name in enumerate(names) if name in held]
        return batch if len(rows) == len(names) else take(batch, np.array(rows, dtype=np.int64))

    def _forget(self, partition: int, series: str) -> None:
        row = self.front.table.find(partition, series)
        if row is not None:
            self.buffer.forget([row])
            self.front.forget(partition, series)

    def _forget_silent(self) -> None:
        """Members that are silent for good make room: those without a step while the stream went on by a whole window of a
        sample's series."""
        silence = self.spec.window * self.sample.size
        if not self.sample.turned_away or self.ticks - self._searched < silence // 16:
            return
        self._searched = self.ticks
        table = self.front.table
        for row in np.flatnonzero(self.ticks - self._spoke[: table.used] > silence):
            name = table.names[row]
            if name is not None:
                partition = int(table.partition[row])
                self.sample.forget((partition, name))
                self._forget(partition, name)

    def ready(self) -> bool:
        """Whether there is enough for a first round: steps over all series, and a stretch worth a chunk."""
        return self.lacks() is None

    def lacks(self) -> Lack | None:
        """What a first round waits for; None where there is enough."""
        if self.steps < self.spec.min_steps:
            return Lack(self.steps, self.spec.min_steps, each=False)
        need = self.spec.holdout + 1 + self.spec.train.length
        have = self.buffer.typical(need, self.spec.train.batch_series)
        return None if have >= need else Lack(have, need, each=True)

    @property
    def rests(self) -> bool:
        """Whether there is nothing to be gained from a round now: the weights in use add next to nothing."""
        return self.steps < self._rests_until and not self.drifted

    def adopt(self, network: Network | None) -> None:
        """These weights serve now (another trainer's, a rollback, or found at the start): train on from them.

        None: what serves is nothing that can be trained on, or persistence. Fresh weights, then.
        """
        self.incumbent = None if network is None else network.copied().to(self.device).eval()
        self._reset()
        self._watch.forget()

    def _look_for_drift(self) -> None:
        series = max(1, int((self.buffer.count > 0).sum()))
        if self.steps - self._watched_at < WATCH_EVERY * series:
            return
        self._watched_at = self.steps
        batch = self.buffer.newest(self._rng, WATCHED_SERIES, 0)
        if batch is None:
            return
        # One step ahead: the errors of the mixture, which a change of the world makes larger. [T, series, channel]
        error = batch.targets[-WATCH_EVERY - 1 : -1, :, 0].abs()
        error = error.reshape(len(error), -1, batch.channels)
        # The middle series: one that is full of garbage is not the world's drift.
        for value in torch.nanmedian(torch.nanmean(error, dim=2), dim=1).values.tolist():
            if value == value and self._watch.update(value):
                self.drifted = True

    # ── a round ──────────────────────────────────────────────────────────────────────────────────────────────────

    def round(self, enough: Callable[[], bool] = lambda: False) -> Round:
        """Trains for as many updates as a round has, or until `enough()`, and asks the gate. Needs `ready()`."""
        spec, most = self.spec.train, self._updates()
        self.rounds += 1
        drifted, self.drifted = self.drifted, False
        since, self._round_at = self.steps - self._round_at, self.steps
        if drifted:
            self.worth = Worth()
        updates, loss, diverged = 0, 0.0, ""
        kept = Kept(self._network)
        while updates < most and not enough():
            steps = self.buffer.training(self._rng, spec.batch_steps, 1)
            batch = None
            if updates % spec.recurrent_every == 0:
                batch = self.buffer.training(self._rng, spec.batch_series, spec.length)
            if steps is None:
                break
            stats = train_sequences(
                self._network,
                self._optimizer,
                steps.to(self.device),
                None if batch is None else batch.to(self.device),
                spec,
                self._average.update,
            )
            updates += max(stats.updates, 1)
            loss = stats.loss if loss == 0.0 else loss + 0.1 * (stats.loss - loss)
            if stats.diverged:
                diverged = stats.diverged
                break
        candidate = self._average.shadow.copied()
        if diverged or not finite(candidate):
            kept.give_back()
            self._reset()
            return self._refuse(Verdict(False, "diverged"), updates, loss, None, None, since)
        newest = self.buffer.newest(self._rng, EVALUATED_SERIES, spec.burn_in)
        if newest is None:
            return self._refuse(Verdict(False, "no-data"), updates, loss, None, None, since)
        newest = newest.to(self.device)
        block = max(self.engine.spec.horizon, BLOCK_LEAST)
        mine = evaluate(candidate, newest, block)
        theirs = evaluate(self.incumbent, newest, block) if self.incumbent is not None else None
        if theirs is not None:
            self._look_whether_it_adds(theirs, since)
        verdict = judge(mine, theirs, self.spec.gate)
        if not verdict.accepted:
            return self._refuse(verdict, updates, loss, mine, theirs, since)
        # One gate's steps are few, and a first network is soon outdone.
        candidate.credit.copy_(torch.from_numpy(mine.credit * self.worth.vouches))
        self.accepted += 1
        self._refused_in_a_row = 0
        self.incumbent = candidate.copied().eval()
        self._watch.forget()
        accepted = candidate.copied().to(torch.device("cpu")).eval()
        return Round(self.rounds, verdict, updates, loss, mine, theirs, accepted)

    def _updates(self) -> int:
        """Of a round at most. A first network is wanted soon."""
        if self.spec.updates is not None:
            return self.spec.updates
        return UPDATES if self.incumbent is None else usual_updates(self.engine.spec.horizon)

    def _look_whether_it_adds(self, theirs: Evaluation, since: int) -> None:
        """`since`: steps since the last round."""
        series = max(1, int((self.buffer.count > 0).sum()))
        if self.steps - self._looked_at < self.spec.holdout * series:
            return  # what was looked at then is looked at again
        self._looked_at = self.steps
        self.worth.look(theirs)
        if self.worth.little:
            self._rests_until = self.steps + REST * since

    def _refuse(
        self,
        verdict: Verdict,
        updates: int,
        loss: float,
        mine: Evaluation | None,
        theirs: Evaluation | None,
        since: int,
    ) -> Round:
        self.refused += 1
        self._refused_in_a_row += 1
        if self.incumbent is None and verdict.reason == "adds-nothing":
            self.worth.nothing_added()
            if self.worth.in_vain:
                self._rests_until = self.steps + REST * since
        if self._refused_in_a_row >= REFUSALS_MAX:
            self._reset()
        return Round(self.rounds, verdict, updates, loss, mine, theirs, None)

    def _reset(self) -> None:
        """Back to the incumbent's weights, or to fresh ones where there are none."""
        self._refused_in_a_row = 0
        fresh = self.incumbent if self.incumbent is not None else Network(self.model_spec).to(self.device)
        self._network.load_state_dict(fresh.state_dict())
        self._restart_training()

    def _restart_training(self) -> None:
        self._optimizer = make_optimizer(self._network, self.spec.train)
        self._average = Average(self._network, self.spec.train.ema_decay)
