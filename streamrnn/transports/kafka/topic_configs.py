"""Setting some of a topic's configurations and leaving the others as they are (KIP-339), which aiokafka 0.14 cannot: its
`alter_configs` resets all that it does not name."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

_TEXT = String("utf-8")
_TOPIC, _SET = 2, 0


class _Answer(Response):  # type: ignore[misc] # aiokafka has no types
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("responses", Array(("error_code", Int16), ("error_message", _TEXT), ("type", Int8), ("name", _TEXT))),
    )


class _Question(RequestStruct):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("type", Int8),
                ("name", _TEXT),
                ("configs", Array(("name", _TEXT), ("operation", Int8), ("value", _TEXT))),
            ),
        ),
        ("validate_only", Boolean),
    )


class AlterTopic(Request[_Question]):  # type: ignore[misc]
    """For one topic. Brokers before Kafka 2.3 do not answer it (NotImplementedError or IncompatibleBrokerVersion)."""

    API_KEY = 44

    def __init__(self, topic: str, config: Mapping[str, str]) -> None:
        self._topic, self._config = topic, dict(config)

    def build(self, request_struct_class: type[_Question]) -> _Question:
        configs = [(name, _SET, value) for name, value in self._config.items()]
        return request_struct_class([(_TOPIC, self._topic, configs)], False)
