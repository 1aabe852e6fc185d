"""A batch that Kafka refuses for what one of its records holds is sent again without that record.

A broker refuses such a batch whole and appends nothing of it (INVALID_TIMESTAMP, MESSAGE_TOO_LARGE, INVALID_RECORD, ...).
aiokafka 0.14 then fails the batch and has already counted its records: the partition's next batch meets
OUT_OF_ORDER_SEQUENCE_NUMBER, and so do all after it, for as long as the producer lives. It also asks in a version of the
protocol in which brokers do not name the records, and takes INVALID_RECORD, whose code it does not know, for an unknown error.

Here the answer is looked at before the client sees it, and the batch sent once more in a version that has the records named
(KIP-467). Where they are, the others are sent again; where they are not, the batch is halved until the broker takes a part or
refuses a single record. That happens while the client waits for the answer and holds the partition's next batches back, so
that nothing overtakes; the sequence numbers go on where the broker's do, so that nothing is taken twice. A transaction is none
the worse for it: what was refused is not in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import KafkaError, KafkaTimeoutError, for_code
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol.api import Request
from aiokafka.protocol.produce import (
    ProduceRequest_v3,
    ProduceRequest_v4,
    ProduceRequest_v5,
    ProduceRequest_v6,
    ProduceRequest_v7,
    ProduceRequest_v8,
)
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from streamrnn.transports.base import Outgoing, Refused
from streamrnn.transports.kafka.errors import CONTENT, kind_of

TOO_LARGE = 10
DUPLICATE = 46  # a batch that was taken before
ATTEMPTS_MAX = 50
# A broker closes the connection of a request beyond socket.request.max.bytes (100 MiB unless set) without a word.
REQUEST_BYTES_MAX = 100 * 1024 * 1024 - 4096


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the broker says of one batch."""

    code: int
    offset: int = -1
    at: Mapping[int, str] = field(default_factory=dict)  # index of a record → what is wrong with it
    text: str = ""

    @classmethod
    def of(cls, entry: Sequence[Any]) -> _Answer:
        """From a partition's part of a ProduceResponse of any version."""
        _, code, offset, *rest = entry
        if len(rest) < 4:
            return cls(code, offset)
        _, _, errors, text = rest[:4]
        return cls(code, offset, {at: why or "" for at, why in errors or ()}, text or "")


LARGER = _Answer(TOO_LARGE, text="larger than a request may be")


def mend(producer: Any) -> None:
    """From now on this AIOKafkaProducer, which has not been started, sends what it can of a batch that is refused.

    What is left out is found by `refused_of`.
    """
    sender = producer._sender  # noqa: SLF001

    async def send(node_id: int, batches: dict[TopicPartition, Any]) -> None:
        try:
            await _Mending(sender, batches).do(node_id)
        finally:
            sender._in_flight.remove(node_id)  # noqa: SLF001
            for tp in batches:
                sender._muted_partitions.remove(tp)  # noqa: SLF001

    sender._send_produce_req = send  # noqa: SLF001


def refused_of(batch: Any) -> list[Refused]:
    """The records of a batch of the client's that were left out of it; empty before it is acknowledged."""
    found: list[Refused] = getattr(batch, "refused", [])
    return found


def runs_of(batch: Any) -> list[tuple[int, int]] | None:
    """Where the broker has put the parts of a batch that was mended, as (first offset, records); None for others."""
    return getattr(batch, "runs", None)


class _Mending(SendProduceReqHandler):  # type: ignore[misc]
    """The client's request with batches for partitions of one node."""

    def __init__(self, sender: Any, batches: dict[TopicPartition, Any]) -> None:
        super().__init__(sender, dict(batches))
        self._refused: list[tuple[TopicPartition, Any]] = []

    async def do(self, node_id: int) -> None:
        for tp, batch in list(self._batches.items()):
            if len(batch.get_data_buffer()) > REQUEST_BYTES_MAX:
                self._refused.append((tp, self._batches.pop(tp)))
        if self._batches:
            await super().do(node_id)
        for tp, batch in self._refused:
            try:
                await self._mend(node_id, tp, batch)
            except KafkaError as error:
                batch.failure(exception=error)
            except Exception as error:  # noqa: BLE001 - the client has no other place for it: it would wait for ever
                batch.failure(exception=KafkaError(f"{type(error).__name__}: {error}"))

    def handle_response(self, response: Any) -> None:
        topics = response.topics
        if any(kind_of(entry[1]) == "content" for _, partitions in topics for entry in partitions):
            topics = [(topic, [e for e in entries if not self._taken(topic, e)]) for topic, entries in topics]
            response = SimpleNamespace(API_VERSION=response.API_VERSION, topics=topics)
        super().handle_response(response)

    def _taken(self, topic: str, entry: Sequence[Any]) -> bool:
        """Whether a partition's answer is a refusal, which is then seen to here."""
        tp = TopicPartition(topic, entry[0])
        batch = self._batches.get(tp)
        if batch is None or kind_of(entry[1]) != "content":
            return False
        self._refused.append((tp, batch))
        return True

    async def _mend(self, node_id: int, tp: TopicPartition, batch: Any) -> None:
        """Sends what the broker takes. Raises KafkaError when that fails for another reason."""
        sent = DefaultRecordBatch(bytes(batch.get_data_buffer()))
        sequence, runs, refused = sent.base_sequence, list[tuple[int, int]](), dict[int, Refused]()  # by offset in it
        least: float = inf  # bytes of the smallest record that was too large
        # First the whole once more: the client's own request got an answer that names no records.
        parts = deque([list(sent)])
        while parts:
            records = parts.popleft()
            if least < inf:  # of others as large nobody need be asked
                refused |= {
                    r.offset: Refused(_outgoing(tp, r), CONTENT[TOO_LARGE]) for r in records if _size(r) >= least
                }
                records = [record for record in records if record.offset not in refused]
                if not records:
                    continue
            said = await self._send(node_id, tp, batch, records, sequence)
            if not said.code:
                runs.append((said.offset, len(records)))
                sequence += len(records)
                continue
            bad = {at: why for at, why in said.at.items() if 0 <= at < len(records)}
            if len(records) == 1:
                bad = {0: bad.get(0, "")}
                if said.code == TOO_LARGE and not sent.compression_type:  # compressed, a larger one may be smaller
                    least = _size(records[0])
            for at, why in sorted(bad.items()):
                refused[records[at].offset] = Refused(_outgoing(tp, records[at]), CONTENT[said.code], why or said.text)
            if not bad:
                half = len(records) // 2
                parts.extendleft([records[half:], records[:half]])
            elif rest := [record for at, record in enumerate(records) if at not in bad]:
                parts.appendleft(rest)
        manager = self._sender._txn_manager  # noqa: SLF001
        if manager is not None:
            # The client counted the whole batch when it took it up, and has taken up none of this partition since.
            manager.increment_sequence_number(tp, -len(refused))
        batch.refused, batch.runs = [refused[offset] for offset in sorted(refused)], runs
        batch.done(runs[0][0] if runs else -1)

    async def _send(
        self, node_id: int, tp: TopicPartition, batch: Any, records: Sequence[Any], sequence: int
    ) -> _Answer:
        """The broker's word on these records: no error, or a refusal. Raises KafkaError for all else."""
        sender, manager = self._sender, self._sender._txn_manager  # noqa: SLF001
        builder = sender._message_accumulator.create_builder()  # noqa: SLF001
        for record in records:  # a part is never larger than the whole, which was not too large for a batch
            builder.append(timestamp=record.timestamp, key=record.key, value=record.value, headers=list(record.headers))
        if manager is not None:
            builder._set_producer_state(manager.producer_id, manager.producer_epoch, sequence)  # noqa: SLF001
        data = builder._build()  # noqa: SLF001
        if len(data) > REQUEST_BYTES_MAX:
            return LARGER
        request = _NamingRequest(
            manager.transactional_id if manager is not None else None,
            sender._acks,  # noqa: SLF001
            sender._request_timeout_ms,  # noqa: SLF001
            [(tp.topic, [(tp.partition, data)])],
        )
        # The broker knows a batch by its sequence number: to send it again after an unclear answer takes it once.
        for _ in range(ATTEMPTS_MAX):
            if batch.future.done():  # the client was closed
                break
            try:
                answer = _Answer.of((await self._client.send(node_id, request)).topics[0][1][0])
            except KafkaError as error:
                failed = error
            else:
                if not answer.code or kind_of(answer.code) == "content":
                    return answer
                if answer.code == DUPLICATE:
                    return _Answer(0)
                failed = for_code(answer.code)()
            if not failed.retriable:
                raise failed
            if getattr(failed, "invalid_metadata", False):
                await self._client.force_metadata_update()
                leader = self._client.cluster.leader_for_partition(tp)
                node_id = leader if leader is not None and leader >= 0 else node_id
            await asyncio.sleep(self._default_backoff)
        raise KafkaTimeoutError


class _NamingRequest(
    Request[  # type: ignore[misc]
        ProduceRequest_v3
        | ProduceRequest_v4
        | ProduceRequest_v5
        | ProduceRequest_v6
        | ProduceRequest_v7
        | ProduceRequest_v8
    ]
):
    """The client's ProduceRequest, in a version whose answer names the records that are refused where the broker has it."""

    API_KEY = 0

    def __init__(
        self,
        transactional_id: str | None,
        acks: int,
        timeout_ms: int,
        topics: list[tuple[str, list[tuple[int, bytes]]]],
    ) -> None:
        self._values = transactional_id, acks, timeout_ms, topics

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(*self._values)


def _size(record: Any) -> int:
    """Bytes of a record in a batch of its own."""
    size: int = DefaultRecordBatchBuilder.size_of(record.key, record.value, list(record.headers))
    return size


def _outgoing(tp: TopicPartition, record: Any) -> Outgoing:
    return Outgoing(tp.topic, tp.partition, record.key, record.value, record.timestamp, tuple(record.headers))
