"""What is said beforehand of topics that would lose or refuse what is sent to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from running import settings
from structlog.testing import capture_logs
from topics import DAY_MS, Given, examined

from streamrnn.config.sizes import sizes_of
from streamrnn.serving.start_checks import check_topics
from streamrnn.transports.memory.transport import MemoryBroker, MemoryTransport


async def hints(given: Mapping[str, Mapping[str, str]], **changes: Any) -> dict[str, tuple[str, ...]]:
    states = await examined(given, settings(**changes))
    assert not any(state.fault for state in states)
    return {state.need.name.removeprefix("app."): state.hints for state in states if state.hints}


def made(chosen: Any) -> dict[str, dict[str, str]]:
    """As `topics --create` makes them."""
    return {need.name.removeprefix("app."): dict(need.config) for need in chosen.topic_needs(2)}


async def test_topics_as_they_are_created_give_no_hint() -> None:
    for timestamp in ("now", "event"):
        assert not await hints(made(settings(output={"timestamp": timestamp})), output={"timestamp": timestamp})


async def test_the_present_time_needs_no_setting_of_a_topic() -> None:
    given = {"forecasts": {"retention.ms": "1000", "message.timestamp.before.max.ms": "1000"}}
    assert not await hints(given)


@pytest.mark.parametrize(
    ("given", "of", "words"),
    [
        ({"ticks": {"retention.ms": "-1"}}, "forecasts", "keeps event times for 7d (retention.ms), the input for ever"),
        ({"ticks": {"retention.ms": str(60 * DAY_MS)}}, "imputed", "the input for 60d"),
        (
            {"forecasts": {"message.timestamp.before.max.ms": "3600000"}},
            "forecasts",
            "refuses event times more than 1h ago",
        ),
        ({}, "forecasts", "refuses event times more than 1h ahead, and the input may have them up to 61m"),
        ({"ticks": {"message.timestamp.after.max.ms": str(2**63 - 1)}}, "imputed", "up to ever"),
        ({"forecasts": {"message.timestamp.type": "LogAppendTime"}}, "forecasts", "carry the broker's time"),
    ],
    ids=["kept for ever", "kept for longer", "old ones", "ahead", "any time", "the broker's time"],
)
async def test_event_times_that_a_topic_deletes_or_refuses_are_named(
    given: dict[str, dict[str, str]], of: str, words: str
) -> None:
    found = await hints(given, output={"timestamp": "event"})
    assert any(words in hint for hint in found[of]), found
    assert not await hints(given)


async def test_a_compacted_topic_of_dead_letters_is_named() -> None:
    (hint,) = (await hints({"dlq": {"cleanup.policy": "compact"}}))["dlq"]
    assert "newest dead letter of a key" in hint


async def test_forecasts_that_a_topic_may_refuse_are_named() -> None:
    chosen = settings(channels=[f"c{i}" for i in range(100)], horizon=100)
    states = await examined({"state": {"max.message.bytes": "20000000"}}, chosen)
    assert not any(state.fault for state in states)
    [hint] = [hint for state in states for hint in state.hints]
    assert "max.message.bytes=1048588, and a forecast of these channels" in hint
    assert "--entity-name app.forecasts --add-config max.message.bytes=1310720" in hint


async def test_a_start_says_so_in_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Given, "given", {"dlq": {"cleanup.policy": "compact"}}, raising=False)
    monkeypatch.setattr(MemoryTransport, "admin", lambda self: Given(self.broker))
    chosen, broker = settings(), MemoryBroker()
    broker.create(chosen.input, 2)
    for need in chosen.topic_needs(2):
        broker.create(need.name, need.partitions)
    with capture_logs() as logs:
        await check_topics(MemoryTransport(broker), chosen, sizes_of(chosen))
    assert [(entry["topic"], entry["event"]) for entry in logs] == [("app.dlq", "a topic will lose or refuse outputs")]
