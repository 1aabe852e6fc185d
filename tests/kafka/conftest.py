"""One broker for the whole session; tests that kill one make their own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest
from broker import Broker, quick_java
from clients import settings_for

from streamrnn.transports.kafka.transport import KafkaTransport

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _quick_java(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    if "KAFKA_OPTS" not in os.environ:
        kept = request.config.cache.mkdir("kafka")  # type: ignore[union-attr]
        os.environ["KAFKA_OPTS"] = quick_java(kept, tmp_path_factory.mktemp("archived"))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    running = Broker(tmp_path_factory.mktemp("kafka")).start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def _spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    running = Broker(tmp_path_factory.mktemp("spare")).start()
    yield running
    running.stop()


@pytest.fixture
def own_broker(_spare: Broker) -> Iterator[Broker]:
    """For tests that stop, kill or freeze it: one after the other they have it for themselves, running and whole."""
    yield _spare
    _spare.go_on()
    if not _spare.runs:
        _spare.start()


@pytest.fixture
def transport(broker: Broker) -> KafkaTransport:
    return KafkaTransport(settings_for(broker))


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Names nobody else uses."""
    return lambda prefix: f"{prefix}-{next(_numbers)}"
