"""What a broker refuses for what it holds costs the record that led to it: a dead letter, a count, a line in the log."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from running import START, all_committed, documents, made, send, settings, until, worker
from structlog.testing import capture_logs

from streamrnn.inputs import Numbering
from streamrnn.serving import refused as module
from streamrnn.serving.publish import Publisher, Written
from streamrnn.serving.refused import HEADER_REFUSED, HEADER_TRUNCATED, OutputTopics, RefusedOutputs
from streamrnn.spec import PLAIN
from streamrnn.transports.base import Outgoing, Refused, TopicUnfit
from streamrnn.transports.memory.broker import Appended
from streamrnn.transports.memory.transport import MemoryBroker, MemoryRecord
from streamrnn.transports.refusals import ROUNDS_MAX, replace
from streamrnn.wire.output_schemas import source_in

both = pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])


def visible(broker: MemoryBroker, topic: str) -> list[MemoryRecord]:
    return [record for log in broker.topics[topic] for record in log if record.visible]


def source(record: MemoryRecord) -> tuple[int, int]:
    _, partition, offset = dict(record.headers)["streamrnn-source"].decode().split("/")
    return int(partition), int(offset)


def refusing(rng: random.Random, share: float) -> Callable[[str, int, Appended], str]:
    """Refuses a share of the forecasts, by what is in them, whatever is done to them."""
    salt = rng.random()

    def refuses(topic: str, partition: int, record: Appended) -> str:
        chance = random.Random(f"{salt}{record[1]!r}").random()
        return "INVALID_TIMESTAMP" if topic == "app.forecasts" and chance < share else ""

    return refuses


# ── the whole worker ─────────────────────────────────────────────────────────────────────────────────────────────────


@both
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
async def test_refused_forecasts_are_dead_lettered_and_all_others_sent_once(delivery: str, share: float) -> None:
    chosen, broker = made(delivery=delivery)
    send(broker, 60)
    broker.refuses = refusing(random.Random(share), share)
    with capture_logs() as logs:
        async with worker(chosen, broker) as running:
            await until(lambda: all_committed(broker))
    metrics = running.observer.metrics.registry
    assert not metrics.get_sample_value("streamrnn_client_rebuilds_total")
    letters = visible(broker, "app.dlq")
    sent = [(d["source"]["partition"], d["source"]["offset"]) for d in documents(broker, "app.forecasts")]
    assert Counter([*sent, *map(source, letters)]) == Counter({(p, o): 1 for p in range(2) for o in range(120)})
    assert letters
    assert (len(letters) == 240) == (share == 1.0)
    for letter in letters:
        partition, offset = source(letter)
        original = broker.topics["ticks"][partition][offset]
        assert (letter.partition, letter.key, letter.value) == (partition, original.key, original.value)
        headers = dict(letter.headers)
        assert headers["streamrnn-reason"] == b"refused"
        assert headers["streamrnn-detail"] == b"forecasts: INVALID_TIMESTAMP"
    labels = {"kind": "forecast", "error": "INVALID_TIMESTAMP"}
    assert metrics.get_sample_value("streamrnn_outputs_refused_total", labels) == len(letters)
    assert metrics.get_sample_value("streamrnn_rejected_total", {"reason": "refused"}) == len(letters)
    reported = [entry for entry in logs if "refuses outputs" in entry["event"]]
    assert len(reported) == 1  # the rest when the minute is over


async def test_what_was_refused_within_a_minute_is_reported_at_its_end_though_nothing_more_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REPORT_EVERY_S", 0.5)
    chosen, broker = made()
    broker.refuses = refusing(random.Random(3), 0.5)
    with capture_logs() as logs:
        async with worker(chosen, broker):
            send(broker, 60)
            await until(lambda: all_committed(broker))
            letters = len(visible(broker, "app.dlq"))
            await until(lambda: sum(entry.get("refused", 0) for entry in logs) == letters)
    assert letters > 50


@both
async def test_forecasts_of_a_series_keep_their_order_beside_refused_ones(delivery: str) -> None:
    chosen, broker = made(delivery=delivery, batch_records_max=7)
    send(broker, 100)
    broker.refuses = refusing(random.Random(1), 0.3)
    async with worker(chosen, broker):
        await until(lambda: all_committed(broker))
    newest: dict[str, int] = {}
    for document in documents(broker, "app.forecasts"):
        assert document["ts"] > newest.get(document["series"], 0)
        newest[document["series"]] = document["ts"]


async def test_a_state_that_is_refused_ends_the_worker_with_nothing_lost() -> None:
    """New clients would meet the same, and without it a restart would not find the state."""
    chosen, broker = made()
    send(broker, 20)
    broker.refuses = lambda topic, partition, record: "MESSAGE_TOO_LARGE" if topic == "app.state" else ""
    with pytest.raises(TopicUnfit, match=r"app.state refuses a record of the service's own .*MESSAGE_TOO_LARGE"):
        async with worker(chosen, broker) as running:
            await until(running._stopping.is_set, 1.5)


async def test_a_clock_that_is_wrong_ends_the_worker_and_loses_nothing() -> None:
    """Not even dead letters are taken with the time that this machine has: that is no fault of any record."""
    chosen, broker = made()
    send(broker, 20)
    broker.refuses = lambda topic, partition, record: (
        "INVALID_TIMESTAMP" if topic in ("app.forecasts", "app.dlq") else ""
    )
    with pytest.raises(TopicUnfit, match=r"app.dlq refuses the present time as this machine has it.*set the clock"):
        async with worker(chosen, broker) as running:
            await until(running._stopping.is_set, 1.5)
    assert not visible(broker, "app.dlq")
    assert not all_committed(broker)


# ── times ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("timestamp", ["now", "event"])
async def test_records_carry_the_present_time_or_the_event_time_and_dead_letters_the_present(timestamp: str) -> None:
    present = START + 10**9
    chosen, broker = made(output={"timestamp": timestamp}, imputed="all")
    send(broker, 20)
    broker.append("ticks", 0, b"k", b"{", START)
    async with worker(chosen, broker) as running:
        running._now_ms = lambda: present
        await until(lambda: all_committed(broker))
    for topic in ("app.forecasts", "app.imputed"):
        times = [record.timestamp for record in visible(broker, topic)]
        assert times == [present if timestamp == "now" else d["ts"] for d in documents(broker, topic)]
    assert {record.timestamp for record in visible(broker, "app.dlq")} == {present}
    assert {record.timestamp for record in visible(broker, "app.state")} == {present}


def test_an_event_time_that_no_record_can_carry_gives_way_to_the_present() -> None:
    chosen, _ = made(output={"timestamp": "event"})
    publisher = Publisher(
        chosen.stream_spec(), "ticks", Written("f", "i", "d", "event"), lambda partition: pytest.fail(),
        RefusedOutputs(Seen()),
    )  # fmt: skip
    times = np.array([-1, 0, START, 253_402_300_799_999, 253_402_300_800_000, 2**62], dtype=np.int64)
    assert publisher._times(np.minimum(times, 2**62 // 1000) * 1000, 7) == [7, 0, START, 253_402_300_799_999, 7, 7]


# ── dead letters that are refused themselves ─────────────────────────────────────────────────────────────────────────


class Seen:
    """See streamrnn.serving.refused.Observer."""

    def __init__(self) -> None:
        self.counts: Counter[Any] = Counter()

    def refused(self, kind: str, error: str, count: int) -> None:
        self.counts[kind, error] += count

    def dead_lettered(self, count: int) -> None:
        self.counts["dead-lettered"] += count

    def dead_letters_lost(self, count: int) -> None:
        self.counts["lost"] += count


TOPICS = OutputTopics(
    Numbering(one="ticks"), "f", "i", "d", lambda partition: partition, source_in(settings().stream_spec(), PLAIN)
)


def letter(key: bytes | None, value: bytes | None, *headers: tuple[str, bytes]) -> Outgoing:
    ours = [("streamrnn-reason", b"malformed"), ("streamrnn-detail", b"x" * 400), ("streamrnn-source", b"ticks/0/5")]
    return Outgoing("d", 0, key, value, 1, [*headers, *ours])


async def tried(first: Outgoing, takes: Callable[[Outgoing], str]) -> tuple[list[Outgoing], Seen]:
    """What is sent after the first was refused, one after the other."""
    seen, sent = Seen(), list[Outgoing]()

    async def send(records: Sequence[Outgoing]) -> list[Refused]:
        sent.extend(records)
        return [Refused(record, takes(record)) for record in records if takes(record)]

    await replace([Refused(first, takes(first))], RefusedOutputs(seen).instead(TOPICS, [], lambda: 9), send)
    return sent, seen


def test_the_letter_for_an_output_has_the_present_time_and_its_source_s_bytes() -> None:
    """Whatever time the output had, or the record that led to it: that may be what the broker refused."""
    record = MemoryRecord("ticks", 0, 5, 3, b"k", b"{}")
    value = b'{"series":"k","ts":4,"source":{"topic":"ticks","partition":0,"offset":5}}'
    for led in (value, b"no source in it"):
        refused = [Refused(Outgoing("f", 0, b"k", led, 4, ()), "INVALID_TIMESTAMP")]
        (again,) = RefusedOutputs(Seen()).instead(TOPICS, [[record]], lambda: 9)(refused)
        assert (again.topic, again.value, again.timestamp_ms) == ("d", b"{}" if led is value else led, 9)


async def test_one_without_a_key_gets_its_source_for_a_key() -> None:
    sent, seen = await tried(letter(None, b"{"), lambda record: "" if record.key else "INVALID_RECORD")
    (again,) = sent
    assert (again.key, again.value, again.timestamp_ms) == (b"ticks/0/5", b"{", 9)
    assert dict(again.headers)[HEADER_REFUSED] == b"INVALID_RECORD"
    assert seen.counts == {("dead-letter", "INVALID_RECORD"): 1}


def size(record: Outgoing) -> int:
    return len(record.key or b"") + len(record.value or b"") + sum(len(n) + len(v) for n, v in record.headers)


@pytest.mark.parametrize("most", [30_000, 2_000, 900])
async def test_one_that_is_too_large_is_cut_until_it_is_taken(most: int) -> None:
    first = letter(b"k" * 1500, b"v" * 100_000, ("other", b"h" * 3000))
    sent, seen = await tried(first, lambda record: "" if size(record) <= most else "MESSAGE_TOO_LARGE")
    assert size(sent[-1]) <= most
    assert dict(sent[-1].headers)[HEADER_TRUNCATED] == b"100000"
    assert dict(sent[-1].headers)["streamrnn-source"] == b"ticks/0/5"
    assert b"v" * 100_000 == first.value
    assert first.value.startswith(sent[-1].value or b"-")
    assert not seen.counts["lost"]


@pytest.mark.parametrize("error", ["INVALID_RECORD", "MESSAGE_TOO_LARGE", "POLICY_VIOLATION"])
@pytest.mark.parametrize("key", [None, b"k"])
@pytest.mark.parametrize("value", [None, b"v", b"v" * 100_000])
async def test_one_that_is_never_taken_is_given_up_counted_and_logged(
    error: str, key: bytes | None, value: bytes | None
) -> None:
    with capture_logs() as logs:
        sent, seen = await tried(letter(key, value), lambda record: error)
    assert len(sent) == 2 < ROUNDS_MAX
    assert seen.counts["lost"] == 1
    (lost,) = [entry for entry in logs if "given up" in entry["event"]]
    assert lost["source"] == "ticks/0/5"


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A machine that has just booted."""
    now = [3.0]
    monkeypatch.setattr(module, "clock_s", lambda: now[0])
    yield now


def test_refusals_are_reported_once_a_minute_with_their_number_and_an_example(clock: list[float]) -> None:
    outputs = RefusedOutputs(Seen())
    instead = outputs.instead(TOPICS, [], lambda: 9)
    one = Refused(Outgoing("f", 0, b"k", b"{}", 1), "INVALID_TIMESTAMP", "too far ahead")
    with capture_logs() as logs:
        instead([one])
        for _ in range(10):
            clock[0] += 5.0
            instead([one, one])
        assert [entry["refused"] for entry in logs] == [1]
        clock[0] += 10.0
        outputs.report()
        outputs.report()
    assert [entry["refused"] for entry in logs] == [1, 20]
    assert logs[1]["example"] == "f/0: INVALID_TIMESTAMP: too far ahead"
