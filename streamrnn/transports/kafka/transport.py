"""Kafka by aiokafka: the transport that makes sources, sinks, readers and admins from its settings."""

from __future__ import annotations

import logging

from streamrnn.transports.base import Inputs
from streamrnn.transports.kafka.admin import KafkaAdmin, KafkaReader
from streamrnn.transports.kafka.bulk_reader import KafkaBulkReader
from streamrnn.transports.kafka.groups import KafkaGroupOffsets
from streamrnn.transports.kafka.settings import KafkaSettings
from streamrnn.transports.kafka.sink import KafkaSink, KafkaTransactionalSink
from streamrnn.transports.kafka.source import KafkaSource

# At DEBUG aiokafka writes every key and value into the log. A command that keeps no log says itself what went wrong; one that
# keeps one has set the level (`runtime.logs`), maybe before this is imported.
if logging.getLogger("aiokafka").level == logging.NOTSET:
    logging.getLogger("aiokafka").setLevel(logging.INFO)
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


class KafkaTransport:
    """See transports.base.Transport."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings

    def source(self, topic: str | Inputs, group: str) -> KafkaSource:
        return KafkaSource(self.settings, topic, group)

    def sink(self) -> KafkaSink:
        return KafkaSink(self.settings)

    def transactional(self, transactional_id: str) -> KafkaTransactionalSink:
        return KafkaTransactionalSink(self.settings, transactional_id)

    def reader(self, bulk: bool = False) -> KafkaReader:
        return KafkaBulkReader(self.settings) if bulk else KafkaReader(self.settings)

    def admin(self) -> KafkaAdmin:
        return KafkaAdmin(self.settings)

    def group_offsets(self, topic: str, group: str) -> KafkaGroupOffsets:
        return KafkaGroupOffsets(self.settings, topic, group)
