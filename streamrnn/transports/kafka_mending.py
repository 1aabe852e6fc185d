"""A batch that Kafka refuses for what one of its records holds is sent again without that record.

A broker refuses such a batch whole and appends nothing of it (INVALID_TIMESTAMP, MESSAGE_TOO_LARGE, INVALID_RECORD, ...).
aiokafka 0.14 then fails the batch and has already counted its records: the partition's next batch meets
OUT_OF_ORDER_SEQUENCE_NUMBER, and so do all after it, for as long as the producer lives. It also drops what the broker says of
single records (KIP-467), and takes INVALID_RECORD, whose code it does not know, for an unknown error.

Here the answer is looked at before the client sees it. Where the broker names the records, the others are sent again; where
it does not, the batch is halved until it takes a part or refuses a single record. That happens while the client waits for
the answer and holds the partition's next batches back, so that nothing overtakes; the sequence numbers go on where the
broker's do. A transaction is none the worse for it: what was refused is not in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from aiokafka.errors import KafkaError, for_code
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.structs import TopicPartition

from streamrnn.transports.base import Outgoing, Refused
from streamrnn.transports.kafka_errors import CONTENT

CORRUPT = 2
# A broker closes the connection of a request beyond socket.request.max.bytes (100 MiB unless set) without a word.
REQUEST_BYTES_MAX = 100 * 1024 * 1024 - 4096


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the broker says of one batch."""

    code: int
    offset: int = -1
    at: Mapping[int, str] | None = None  # index of a record → what is wrong with it
    text: str = ""

    @classmethod
    def of(cls, entry: Sequence[Any]) -> _Answer:
        """From a partition's part of a ProduceResponse of any version."""
        _, code, offset, *rest = entry
        if len(rest) < 4:
            return cls(code, offset)
        _, _, errors, text = rest[:4]
        return cls(code, offset, {at: why or "" for at, why in errors or ()}, text or "")


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


class _Mending(SendProduceReqHandler):  # type: ignore[misc]
    """The client's request with batches for partitions of one node."""

    def __init__(self, sender: Any, batches: dict[TopicPartition, Any]) -> None:
        super().__init__(sender, dict(batches))
        self._refused: list[tuple[TopicPartition, Any, _Answer]] = []

    async def do(self, node_id: int) -> None:
        for tp, batch in list(self._batches.items()):
            if len(batch.get_data_buffer()) > REQUEST_BYTES_MAX:
                self._refused.append((tp, self._batches.pop(tp), _Answer(10, text="larger than a request may be")))
        if self._batches:
            await super().do(node_id)
        for tp, batch, answer in self._refused:
            try:
                await self._mend(node_id, tp, batch, answer)
            except KafkaError as error:
                batch.failure(exception=error)
            except Exception as error:  # noqa: BLE001 - the client has no other place for it: it would wait for ever
                batch.failure(exception=KafkaError(f"{type(error).__name__}: {error}"))

    def handle_response(self, response: Any) -> None:
        topics = response.topics
        if any(entry[1] in CONTENT for _, partitions in topics for entry in partitions):
            topics = [(topic, [e for e in entries if not self._taken(topic, e)]) for topic, entries in topics]
            response = SimpleNamespace(API_VERSION=response.API_VERSION, topics=topics)
        super().handle_response(response)

    def _taken(self, topic: str, entry: Sequence[Any]) -> bool:
        """Whether a partition's answer is a refusal, which is then seen to here."""
        tp = TopicPartition(topic, entry[0])
        batch = self._batches.get(tp)
        if batch is None or entry[1] not in CONTENT:
            return False
        self._refused.append((tp, batch, _Answer.of(entry)))
        return True

    async def _mend(self, node_id: int, tp: TopicPartition, batch: Any, answer: _Answer) -> None:
        """Sends what the broker takes. Raises KafkaError when it fails for any other reason."""
        sent = DefaultRecordBatch(bytes(batch.get_data_buffer()))
        sequence, first, refused = sent.base_sequence, -1, list[Refused]()
        parts: deque[tuple[list[Any], _Answer | None]] = deque([(list(sent), answer)])
        while parts:
            records, said = parts.popleft()
            if said is None:
                said = await self._send(node_id, tp, records, sequence)
                if said.code == CORRUPT and len(records) == 1:  # damage on the way is not met twice
                    said = await self._send(node_id, tp, records, sequence)
                if not said.code:
                    first, sequence = (said.offset if first < 0 else first), sequence + len(records)
                    continue
                if said.code not in CONTENT:
                    raise for_code(said.code)()
            bad = {at: why for at, why in (said.at or {}).items() if 0 <= at < len(records)}
            if not bad and len(records) == 1 and (said.code != CORRUPT or said is not answer):
                bad = {0: said.text}
            if bad:
                refused += [
                    Refused(_outgoing(tp, records[at]), CONTENT[said.code], why or said.text)
                    for at, why in sorted(bad.items())
                ]
                rest = [record for at, record in enumerate(records) if at not in bad]
                if rest:
                    parts.appendleft((rest, None))
            elif len(records) == 1:
                parts.appendleft((records, None))
            else:
                half = len(records) // 2
                parts.extendleft([(records[half:], None), (records[:half], None)])
        manager = self._sender._txn_manager  # noqa: SLF001
        if manager is not None:
            # The client counted the whole batch when it took it up, and has taken up none of this partition since.
            manager.increment_sequence_number(tp, -len(refused))
        batch.refused = refused
        batch.done(first)

    async def _send(self, node_id: int, tp: TopicPartition, records: Sequence[Any], sequence: int) -> _Answer:
        sender = self._sender
        builder = sender._message_accumulator.create_builder()  # noqa: SLF001
        for record in records:
            # Of a batch that was not too large no part is.
            builder.append(timestamp=record.timestamp, key=record.key, value=record.value, headers=list(record.headers))
        manager = sender._txn_manager  # noqa: SLF001
        if manager is not None:
            builder._set_producer_state(manager.producer_id, manager.producer_epoch, sequence)  # noqa: SLF001
        request = ProduceRequest(
            required_acks=sender._acks,  # noqa: SLF001
            timeout=sender._request_timeout_ms,  # noqa: SLF001
            topics=[(tp.topic, [(tp.partition, builder._build())])],  # noqa: SLF001
            transactional_id=manager.transactional_id if manager is not None else None,
        )
        response = await self._client.send(node_id, request)
        return _Answer.of(response.topics[0][1][0])


def _outgoing(tp: TopicPartition, record: Any) -> Outgoing:
    return Outgoing(tp.topic, tp.partition, record.key, record.value, record.timestamp, tuple(record.headers))
