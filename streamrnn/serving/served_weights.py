"""The weights in use: which they are, which come next, and which a replay needs. Their one owner.

New ones are taken from the models topic and come into use between two batches. A restored partition is replayed with the weights
that its records had then, which are loaded again where they must be; live records have those in use (`serving`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import structlog

from streamrnn.model.weights import Fitted, WeightsError, WeightsMeta, fitted
from streamrnn.stores.models import BY_OPERATOR, ModelsFollower
from streamrnn.stream.engine import Engine
from streamrnn.stream.snapshot import Snapshots
from streamrnn.transports.base import LONG_AGO_S, Deadline, TransportError, Unreadable, clock_s

log = structlog.get_logger(__name__)

MODELS_POLL_S = 0.5
MODELS_ATTEMPTS = 3


class WeightsObserver(Protocol):
    def swapped(self, model: str, meta: WeightsMeta) -> None: ...
    def weights_refused(self, model: str, error: str) -> None: ...


@dataclass(frozen=True, slots=True)
class SwapSettings:
    """`read_s`: how long reading the models topic to its end may take. `least_s`: between two swaps."""

    read_s: float = 30.0
    least_s: float = 0.0


class ServedWeights:
    """Belongs to the worker. `swap`, `recall` and `use` are the pump's, between two batches."""

    def __init__(
        self,
        engine: Engine,
        snapshots: Snapshots,
        follower: ModelsFollower,
        observer: WeightsObserver,
        settings: SwapSettings,
    ) -> None:
        self.serving = engine.model  # of what is live
        self.pending: tuple[str, bytes] | None = None  # (id, blob) that come into use next
        self._engine, self._snapshots, self._follower = engine, snapshots, follower
        self._observer, self._settings = observer, settings
        self._swap_from_s = LONG_AGO_S

    async def start(self) -> None:
        """Reads what there is, and serves with it. Raises TopicMissing, TransportError."""
        await self._follower.start()

    async def stop(self, deadline: Deadline) -> None:
        await self._follower.stop(deadline)

    async def follow(self) -> None:
        """Notes new weights, for ever."""
        while True:
            await asyncio.sleep(MODELS_POLL_S)
            try:
                for weights in await self._follower.poll():
                    self.pending = weights
            except TransportError as error:
                # Weights that do not come cost freshness, not forecasts.
                log.warning("the models topic cannot be read; the weights in use serve on", error=str(error))

    async def catch_up(self) -> None:
        """All weights that there are are known after this; those of a damaged topic are lost."""
        for attempt in range(MODELS_ATTEMPTS):
            try:
                for weights in await self._follower.catch_up(self._settings.read_s):
                    self.pending = weights
                return
            except Unreadable as error:  # a damaged transfer is no damaged log
                if attempt + 1 == MODELS_ATTEMPTS:
                    log.error("the models topic is damaged: what is in it counts as lost", error=str(error))

    def swap_if_due(self) -> None:
        """Between two batches: the newest weights take over, not too often; an operator's rollback at once."""
        if self.pending is None:
            return
        pointer = self._follower.pointer
        ordered = pointer is not None and pointer.by == BY_OPERATOR and pointer.id == self.pending[0]
        if not ordered and clock_s() < self._swap_from_s:
            return
        (model, blob), self.pending = self.pending, None
        try:
            meta = self._load(model, self._fitted(blob))
        except (WeightsError, ValueError) as error:
            log.error("weights refused; the ones in use stay", model=model, error=str(error))
            self._observer.weights_refused(model, str(error))
            return
        self.serving = model
        self._swap_from_s = clock_s() + self._settings.least_s
        self._observer.swapped(model, meta)
        log.info("weights swapped in", model=model, loss=meta.loss)

    def has(self, model: str) -> bool:
        """Whether `use` can switch to these weights."""
        return self._engine.has(model)

    def recall(self, model: str) -> bool:
        """Whether a replay can use these weights: they are loaded from the models topic if they are still there."""
        if self._engine.has(model):
            return True
        blob = self._follower.blob(model)
        if blob is None:
            return False
        try:
            found = self._fitted(blob)
            if self._engine.table.fields["state"].shape != self._engine.state_shape(found.network):
                return False  # of another kind: the states that it moved are not restored either
            self._load(model, found)
        except (WeightsError, ValueError) as error:
            log.error("weights for a replay cannot be used", model=model, error=str(error))
            return False
        self._engine.use(self.serving)
        return True

    def use(self, model: str) -> None:
        """The next batch is processed with these: `serving`, or others of a replay, which `recall` has."""
        if model != self._engine.model:
            self._engine.use(model)

    def _fitted(self, blob: bytes) -> Fitted:
        return fitted(blob, self._snapshots.meaning, self._engine.inputs)

    def _load(self, model: str, found: Fitted) -> WeightsMeta:
        """Processes with these weights, which keep their id in the meaning of now: it is the same recurrent state that they
        move."""
        self._engine.load(found.network, model)
        if found.words:
            log.warning(
                "the weights are carried over into a changed configuration", model=model, what=list(found.words)
            )
        return found.meta
