"""What the broker has come to hold, looked at as it comes: nothing may be wrong at any moment, not only at the end.

The invariants are those of the design, by number:

I1 conservation    what is committed has been said; nothing is said that should not be; exactly once where promised
I2 order           a partition's outputs follow its input
I3 checkpoints     nothing is written down that is not delivered, nor pointed at that is not committed
I5 finite          no output and no weight that is not a number
I7 one owner       committed offsets never go back; under exactly-once nobody speaks between another's words
I8 weights         serve only after a gate or an operator said so, and never change under their name
I9 intervals       quantiles do not cross
I11 identity       a changed configuration makes nothing cold that can be carried (`recorder`)

What the broker refuses for what it holds (`content`) must be dead-lettered instead, and is as well known beforehand.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise

import msgspec
import torch
from content import REFUSED, Content
from oracle import Oracle, Place, element
from recorder import Recorder
from stream import FORECASTS, IMPUTED, LETTERS, MODELS, OUTPUTS, PARTITIONS, STATE

from streamrnn.model.weights import build, weights_id
from streamrnn.serving.refused import HEADER_REFUSED
from streamrnn.stores.changelog import CHECKPOINT, SERIES, Checkpoint
from streamrnn.stores.models import BY_GATE, POINTER, Pointer
from streamrnn.stream.engine import NO_MODEL
from streamrnn.transports.memory.transport import MemoryBroker, MemoryRecord

# The requests behind which something may have become visible.
EFFECTS = frozenset({"produce", "end-transaction", "commit"})


class Violation(AssertionError):
    """An invariant does not hold; the message names it."""


class _Source(msgspec.Struct):
    topic: str
    partition: int
    offset: int
    index: int = -1


class _Channel(msgspec.Struct):
    mean: list[float | None]
    quantiles: dict[str, list[float | None]]


class _Forecast(msgspec.Struct):
    series: str
    ts: int
    model: str
    source: _Source
    channels: dict[str, _Channel]


class _Filled(msgspec.Struct):
    lower: float
    upper: float


class _Imputation(msgspec.Struct):
    series: str
    ts: int
    source: _Source
    values: dict[str, float | None]
    imputed: dict[str, _Filled]


class Ledger:
    """`exact`: what is said does not depend on which series share a worker, so that all of it is known before."""

    def __init__(
        self,
        broker: MemoryBroker,
        oracle: Oracle,
        recorder: Recorder,
        content: Content,
        exactly_once: bool,
        exact: bool,
    ) -> None:
        self._broker, self._recorder, self._exactly_once, self._exact = broker, recorder, exactly_once, exact
        self._content = content
        self.said: dict[Place, set[bytes]] = defaultdict(set)
        self.times: Counter[Place] = Counter()
        self.committed: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
        self.blobs: dict[str, bytes] = {}
        self.manifests: set[str] = set()  # of weights that are there now
        self.permitted = {NO_MODEL}  # by a gate or an operator
        self.pointed = {NO_MODEL}
        self._seen: dict[tuple[str, int], int] = defaultdict(int)  # how far each log was looked at
        self._newest: dict[tuple[str, int], int] = defaultdict(int)  # source of the last output
        self._wanted: dict[int, dict[int, list[Place]]] = {p: defaultdict(list) for p in range(PARTITIONS)}
        for partition in range(PARTITIONS):
            for place in sorted(content.left(oracle.life(partition, ((0, NO_MODEL),)).said)):
                self._wanted[partition][place[2]].append(place)

    def exact(self, partition: int) -> bool:
        """Whether everything of a partition has to be what an uninterrupted run says and holds."""
        return self._exact and partition not in self._recorder.inexact

    def wanted(self) -> set[Place]:
        return {place for offsets in self._wanted.values() for places in offsets.values() for place in places}

    def begin(self) -> None:
        """What is there already is not looked at."""
        for topic, partitions in self._broker.topics.items():
            for partition in range(len(partitions)):
                self._seen[topic, partition] = self._broker.end(topic, partition)

    def look(self, client: str) -> None:
        """Something that this client asked for has happened."""
        for topic in OUTPUTS:
            for partition in range(PARTITIONS):
                for record in self._news(topic, partition):
                    self._output(topic, partition, record)
        self._commits(client)
        for partition in range(PARTITIONS):
            for record in self._news(STATE, partition):
                self._state(partition, record)
        for record in self._news(MODELS, 0):
            self._model(record)

    def _news(self, topic: str, partition: int) -> Iterator[MemoryRecord]:
        since = self._seen[topic, partition]
        records, self._seen[topic, partition] = self._broker.read(topic, partition, since, 10**9)
        yield from records

    # ── outputs ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _output(self, topic: str, partition: int, record: MemoryRecord) -> None:
        place, value = self._place(topic, record), record.value or b""
        if place[1] != partition:
            raise Violation(f"I1 conservation: an output of partition {place[1]} stands in {topic}/{partition}")
        self.said[place].add(value)
        self.times[place] += 1
        if not self._exactly_once:
            return
        if self.times[place] > 1:
            raise Violation(f"I1 exactly once: {place} is said {self.times[place]} times")
        if topic == LETTERS and (place[4].partition("#")[0] == REFUSED or HEADER_REFUSED in dict(record.headers)):
            return  # it was written when others had been taken
        if place[2] < self._newest[topic, partition]:
            raise Violation(f"I2 order, I7 one owner: {place} comes after the output of a later record")
        self._newest[topic, partition] = place[2]

    def _place(self, topic: str, record: MemoryRecord) -> Place:
        if topic == LETTERS:
            return self._content.letter_place(record.headers)
        try:
            document = _decoded(topic, record.value or b"")
        except msgspec.MsgspecError as error:
            raise Violation(f"I5 finite: {topic} cannot be read: {error} in {record.value!r}") from error
        if isinstance(document, _Forecast):
            if document.model not in self.pointed:
                raise Violation(f"I8 weights: {document.model} serves, and nobody ever pointed at it")
            for channel in document.channels.values():
                _check_quantiles(channel)
        source = document.source
        number = self._content.number[source.topic, source.partition]
        return topic, number, source.offset, document.ts, element(document.series, source.index)

    # ── offsets ──────────────────────────────────────────────────────────────────────────────────────────────────

    def offsets(self) -> dict[int, int]:
        """What the group has committed, as the broker has it."""
        group = self._broker.groups.get("app")
        number = self._content.number
        return {p: e.offset for p, e in sorted((number[at], e) for at, e in group.committed.items())} if group else {}

    def _commits(self, client: str) -> None:
        for partition, offset in self.offsets().items():
            known = self.committed[partition]
            if offset < known:
                raise Violation(f"I7 one owner: {client} has put partition {partition} back from {known} to {offset}")
            for at in range(known, offset):
                self._check_said(partition, at, f"I1 conservation: {client} committed {offset}")
            if offset > known:
                self._recorder.committed(client, partition, known, offset)
            self.committed[partition] = offset

    def _check_said(self, partition: int, offset: int, what: str) -> None:
        if not self.exact(partition):
            return
        for place in self._wanted[partition][offset]:
            if place not in self.said:
                raise Violation(f"{what} of partition {partition}, and {place} is not delivered")

    # ── states ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _state(self, partition: int, record: MemoryRecord) -> None:
        key, value = record.key or b"", record.value
        if key == CHECKPOINT and value is not None:
            offset, committed = msgspec.json.decode(value, type=Checkpoint).offset, self.committed[partition]
            if offset > committed:
                raise Violation(f"I3 checkpoints: one of {offset} before {committed} was committed")
        elif key.startswith(SERIES) and value is not None:
            series, applied = key[len(SERIES) :].decode(), self._recorder.packed[value].applied
            for offset in range(self.committed[partition], applied):
                for place in self._wanted[partition][offset] if self.exact(partition) else ():
                    if place[4].partition("#")[0] == series and place not in self.said:
                        raise Violation(f"I3 checkpoints: a state of {applied} is written before {place} is delivered")

    # ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _model(self, record: MemoryRecord) -> None:
        key, value = (record.key or b"").decode(), record.value
        kind, _, name = key.partition("/")
        if kind == "manifest":
            (self.manifests.discard if value is None else self.manifests.add)(name)
        elif kind == "weights" and value is not None:
            model, _, piece = name.rpartition("/")
            self.blobs.setdefault(model, value)
            network = build(value)[0]
            # What is known of them may be said anew: two trainers that saw the same come to the same weights.
            if piece != "0" or weights_id(network) != model:
                raise Violation(f"I8 weights: what is called {model} are other weights")
            if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
                raise Violation(f"I5 finite: {model} holds what is no number")
        elif record.key == POINTER and value is not None:
            pointer = msgspec.json.decode(value, type=Pointer)
            if pointer.by == BY_GATE and pointer.id not in self.permitted:
                raise Violation(f"I8 weights: {pointer.id} is current, and no gate accepted it")
            self.permitted.add(pointer.id)
            self.pointed.add(pointer.id)


def _decoded(topic: str, value: bytes) -> _Forecast | _Imputation:
    if topic == FORECASTS:
        return msgspec.json.decode(value, type=_Forecast)
    assert topic == IMPUTED
    return msgspec.json.decode(value, type=_Imputation)


def _check_quantiles(channel: _Channel) -> None:
    quantiles: Mapping[str, list[float | None]] = channel.quantiles
    for lower, upper in pairwise(quantiles[level] for level in sorted(quantiles, key=float)):
        for low, high in zip(lower, upper, strict=True):
            if low is not None and high is not None and low > high:
                raise Violation(f"I9 intervals: quantiles cross: {quantiles}")
