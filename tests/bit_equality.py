"""Whether two checkouts of streamrnn do the same, bit for bit: `python tests/bit_equality.py --against ../other`.

One recorded stream, the simulators' with every kind of fault, is run through both checkouts, each in a process of its own:
three configurations, both deliveries. In each life an operator and a trainer publish weights, one worker is killed, another
joins while a third serves, and all but one end. Everything runs on a virtual clock, so that a checkout compared with itself
has no difference.

Compared are what readers of the topics see (forecasts, fills, dead letters), the changelog, the models topic, committed offsets,
and every column of every series' state in the last worker. The first difference of each is shown with its place.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "simulation"))

from clock import VirtualLoop, run  # noqa: E402 - found by the path above

START = 1_700_000_000_000
PARTITIONS = 2
DELIVERIES = ("at-least-once", "exactly-once")
# Where other commits have the same module.
FORMER_NAMES: Mapping[str, str] = {
    "config.settings": "service.config",
    "serving.worker": "service.worker",
    "monitor.observer": "service.observe",
    "stores.models": "transports.models",
    "training.trainer": "service.trainer",
    "transports.memory.transport": "transports.memory",
}
# Few and small steps of training: what is compared is which bits come of them.
LEARN: dict[str, Any] = {
    "interval": "2s", "min_steps": 40, "updates": 4, "window": 64, "holdout": 8, "chunk_len": 8, "burn_in": 4,
    "length": 24, "batch_series": 4, "lr": 0.03, "keep": 4, "swap_min": "500ms", "device": "cpu",
}  # fmt: skip
BASE: dict[str, Any] = {
    "app": "app",
    "input": "ticks",
    "channels": ["temp", "flow", "pressure"],
    "step": "1s",
    "horizon": 3,
    "quantiles": [0.1, 0.5, 0.9],
    "warm_up": 8,
    "poll_timeout": "50ms",
    "batch_records_max": 40,
    "checkpoint": {"interval": "500ms"},
    "model": {"hidden": 8, "layers": 1},
    "learn": LEARN,
    "train": "off",
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {"experts": "off"},
    "all-experts": {
        "experts": "full", "season": "1m", "calendar": ["1h"], "lateness": "3s", "within": "last", "imputed": "all",
        "duplicates": "refuse",
    },
    "no-grid": {"step": "irregular", "complete": "channels", "lateness": "2s", "gap_max": 0},
}  # fmt: skip

# How a blob of weights begins, and what else of it stands in its manifest: its bytes are compared themselves.
WEIGHTS, OF_A_BLOB = b"SRNNW", {"bytes", "sha256"}

# partition, key, value, time
Sent = tuple[int, bytes | None, bytes | None, int]
# What is compared, by kind: place (in words) → what stands there.
Found = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """`kind` of what was compared; `place` of the first that differs, what both have there, and how many differ."""

    kind: str
    place: str
    ours: str
    theirs: str
    count: int
    of: int

    def __str__(self) -> str:
        return (
            f"{self.kind}: {self.count} of {self.of} differ, first at {self.place}\n"
            f"      here:  {self.ours}\n      there: {self.theirs}"
        )


# ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────────────


def stream(steps: int, long: bool, series: int = 6) -> list[Sent]:
    """The simulators' sensors with every fault; `long`: a record for each channel."""
    from simulators.faults import FaultPlan
    from simulators.registry import make
    from simulators.stream import Ticks

    plan = FaultPlan(
        missing_channels=0.08, missing_ticks=0.05, duplicates=0.03, disorder=0.08, late=0.02, spikes=0.01, poison=0.02,
        future=0.01, seed=5,
    )  # fmt: skip
    signal = make("sensors", series, ("temp", "flow", "pressure"), 3, 60.0)
    found: list[Sent] = []
    for record in Ticks(signal, plan, START, 1000, long, steps=steps):
        # By its key, where it has one, as producers do.
        place = sum(record.key) % PARTITIONS if record.key else len(found) % PARTITIONS
        found.append((place, record.key, record.value, record.ts_ms))
    return found


# ── a life, by the code of whichever checkout this process has ───────────────────────────────────────────────────────


def part(name: str) -> ModuleType:
    """A module of streamrnn, under the name that it has in this checkout."""
    import streamrnn

    # Looked for on disk: an editable installation would lend another checkout's.
    here = Path(streamrnn.__file__).parent.joinpath(*name.split(".")).with_suffix(".py")
    return importlib.import_module(f"streamrnn.{name if here.is_file() else FORMER_NAMES[name]}")


def lived(configuration: str, delivery: str, sent: Sequence[Sent]) -> Found:
    """What has come of a stream, on the virtual clock."""
    random.seed(7)
    return run(_Life({**BASE, **CONFIGURATIONS[configuration], "delivery": delivery}, sent).run())


class _Life:
    def __init__(self, chosen: dict[str, Any], sent: Sequence[Sent]) -> None:
        memory = part("transports.memory.transport")
        self._settings = part("config.settings").load([], chosen, {})
        self._sent = sent
        self._broker = memory.MemoryBroker(1.0, 60.0)
        self._transport = memory.MemoryTransport
        self._broker.create("ticks", PARTITIONS)
        for need in self._settings.topic_needs(PARTITIONS):
            self._broker.create(need.name, need.partitions)
        self._running: dict[str, tuple[Any, asyncio.Task[None]]] = {}

    def _now_ms(self) -> int:
        return START + int(asyncio.get_running_loop().time() * 1000)

    def _begin(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        transport = self._transport(self._broker, name)
        if name.startswith("trainer"):
            made = part("training.trainer").Trainer(self._settings, transport, self._now_ms)
        else:
            observer = part("monitor.observer").WorkerObserver(self._settings.stream_spec())
            made = part("serving.worker").Worker(self._settings, transport, observer, now_ms=self._now_ms)
        self._running[name] = made, loop.spawn(name, made.run())

    async def _end(self, name: str) -> None:
        made, task = self._running.pop(name)
        made.stop()
        async with asyncio.timeout(120.0):
            await task

    def _kill(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.stop_process(name)
        self._running.pop(name)

    async def _publish(self, number: int) -> None:
        """Weights by an operator, as large as those that are learnt: whatever the trainer's gate says, some are served."""
        import torch

        models, weights = part("stores.models"), part("model.weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            network = part("model.network").Network(self._settings.model_spec())
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, 0.0, 0.2)
        name = weights.weights_id(network)
        writer = models.ModelsWriter(self._transport(self._broker).sink(), self._settings.topics.models)
        blob = weights.pack(network, weights.WeightsMeta(), self._settings.meaning())
        await writer.upload(name, blob, {}, self._now_ms())
        await writer.point(models.Pointer(name, at_ms=self._now_ms()))

    async def run(self) -> Found:
        await self._publish(1)
        events: dict[int, Callable[[], Any]] = {
            40: lambda: self._kill("first"),
            45: lambda: self._begin("second"),
            70: lambda: self._begin("third"),
        }
        self._begin("first")
        self._begin("trainer")
        await asyncio.sleep(1.0)
        half = len(self._sent) // 2
        due = {len(self._sent) * percent // 100: event for percent, event in events.items()}
        for at, (partition, key, value, ts) in enumerate(self._sent):
            if at in due:
                due[at]()
            if at == half:
                await self._publish(2)
            self._broker.append("ticks", partition, key, value, ts)
            if at % 16 == 15:
                self._broker.announce()
                await asyncio.sleep(0.1)
        self._broker.announce()
        await self._read_to_the_end()
        await self._end("trainer")
        await self._end("second")
        await self._read_to_the_end()
        await asyncio.sleep(5.0)  # weights that came last are swapped in
        states = self._states(self._running["third"][0])
        await self._end("third")
        return {**self._topics(), "states": states, "offsets": self._offsets()}

    async def _read_to_the_end(self) -> None:
        ends = {f"ticks/{p}": str(self._broker.end("ticks", p)) for p in range(PARTITIONS)}
        async with asyncio.timeout(300.0):
            while {place: said.split()[0] for place, said in self._offsets().items()} != ends:
                await asyncio.sleep(0.2)

    def _offsets(self) -> dict[str, str]:
        group = self._broker.groups.get("app")
        known = group.committed if group is not None else {}
        return {f"{t}/{p}": f"{entry.offset} {entry.metadata}" for (t, p), entry in sorted(known.items())}

    def _topics(self) -> Found:
        names = {
            "forecasts": "app.forecasts",
            "fills": "app.imputed",
            "dead letters": "app.dlq",
            "changelog": self._settings.topics.state,
            "models": self._settings.topics.models,
        }
        return {kind: dict(self._records(topic)) for kind, topic in names.items()}

    def _records(self, topic: str) -> Iterator[tuple[str, Any]]:
        for partition in range(len(self._broker.topics[topic])):
            records, _ = self._broker.read(topic, partition, 0, 10**9)
            for number, record in enumerate(records):
                headers = [(name, value) for name, value in record.headers]
                yield (
                    f"record {number} of {topic}/{partition}",
                    [record.key, record.value, record.timestamp, headers],
                )

    def _states(self, worker: Any) -> dict[str, Any]:
        table = worker.engine.table
        found: dict[str, Any] = {"weights in use": worker.engine.model}
        for partition in range(PARTITIONS):
            for series, row in sorted(table.series(partition).items()):
                for column, values in table.columns.items():
                    found[f"{column} of {series} in partition {partition}"] = values[row].tobytes()
        return found


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def differences(ours: Found, theirs: Found, but_for: frozenset[str] = frozenset()) -> list[Difference]:
    """One for each kind that is not the same, in every bit. `but_for`: fields of documents that only one of the two may have."""
    found: list[Difference] = []
    for kind in sorted(ours.keys() | theirs.keys()):
        here, there = ours.get(kind, {}), theirs.get(kind, {})
        places = [*here, *(place for place in there if place not in here)]
        other = [place for place in places if here.get(place) != there.get(place)]
        if but_for:
            other = [p for p in other if not _same_but_for(here.get(p), there.get(p), but_for)]
        if other:
            first = other[0]
            found.append(Difference(kind, first, *_both(here.get(first), there.get(first)), len(other), len(places)))
    return found


def _same_but_for(ours: Any, theirs: Any, fields: frozenset[str]) -> bool:
    """Whether two records are the same once fields that only one of them has are left out, with what follows from them."""
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return False
    values = [_without_digest(each[1]) for each in (ours, theirs)]
    if None in values:
        return False
    (our_text, our_rest), (their_text, their_rest) = values
    document, other = (msgspec.json.decode(text) for text in (our_text, their_text))
    same = ours[0] == theirs[0] and ours[2:] == theirs[2:] and our_rest == their_rest
    return same and _common(document, other, fields)


def _without_digest(value: bytes | None) -> tuple[bytes, bytes] | None:
    """A record's JSON, and the bytes that follow it where it is a blob of weights; None for anything else."""
    if value is not None and value.startswith(WEIGHTS):
        at = len(WEIGHTS) + 1 + 32  # the version, and the digest of all that follows
        end = at + 4 + int.from_bytes(value[at : at + 4], "big")
        return value[at + 4 : end], value[end:]
    return (value, b"") if value is not None and value.startswith(b"{") else None


def _common(ours: Any, theirs: Any, fields: frozenset[str]) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        alone = (ours.keys() ^ theirs.keys()) - fields
        return not alone and all(
            key in OF_A_BLOB or _common(ours[key], theirs[key], fields) for key in ours.keys() & theirs.keys()
        )
    return bool(ours == theirs)


def _both(ours: Any, theirs: Any) -> tuple[str, str]:
    """What both hold, from shortly before the first byte in which they differ."""
    if ours is None or theirs is None:
        return _shown(ours), _shown(theirs)
    if isinstance(ours, list) and isinstance(theirs, list):
        for name, a, b in zip(("key", "value", "time", "headers"), ours, theirs, strict=True):
            if a != b:
                a, b = _both(a, b)
                return f"{name} {a}", f"{name} {b}"
    if isinstance(ours, bytes) and isinstance(theirs, bytes):
        at = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        begin = max(0, at - 40)
        return tuple(f"byte {at} of {len(each)}: {each[begin : at + 24]!r}" for each in (ours, theirs))  # type: ignore[return-value]
    return _shown(ours), _shown(theirs)


def _shown(what: Any) -> str:
    return "nothing" if what is None else repr(what)[:160]


# ── two checkouts ────────────────────────────────────────────────────────────────────────────────────────────────────


def record(streams: Path, out: Path, tree: Path) -> None:
    """Lives all lives by the checkout `tree`, whose code this process has."""
    import streamrnn

    if not Path(streamrnn.__file__).is_relative_to(tree):
        sys.exit(f"{streamrnn.__file__} is not of {tree}")
    _quiet()
    sent = msgspec.msgpack.decode(streams.read_bytes(), type=dict[str, list[Sent]])
    lives = {}
    for configuration in CONFIGURATIONS:
        for delivery in DELIVERIES:
            lives[f"{configuration}, {delivery}"] = lived(configuration, delivery, sent[configuration])
    out.write_bytes(msgspec.msgpack.encode(lives))


def _quiet() -> None:
    import structlog
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _of(tree: Path, streams: Path, out: Path) -> dict[str, Found]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, str(HERE / "bit_equality.py"), "--record", str(streams), str(out), str(tree)],
        env=environment, cwd=tree, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"{tree}: its lives came to no end")
    return msgspec.msgpack.decode(out.read_bytes(), type=dict[str, Found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="the root of another checkout; by default this one once more")
    parser.add_argument("--steps", type=int, default=240, help="of the stream, for each of its six series")
    parser.add_argument(
        "--but-for",
        default="",
        metavar="FIELD,FIELD",
        help="of documents that one of the two does not write; may differ",
    )
    parser.add_argument("--record", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.record:
        record(*options.record)
        return
    here = HERE.parent.resolve()
    there = (options.against or here).resolve()
    if not (there / "streamrnn" / "__init__.py").is_file():
        sys.exit(f"{there} holds no streamrnn")
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder) / "streams"
        sys.path.insert(0, str(here))
        written = {name: stream(options.steps, long=name == "no-grid") for name in CONFIGURATIONS}
        streams.write_bytes(msgspec.msgpack.encode(written))
        ours, theirs = (_of(tree, streams, Path(folder) / name) for tree, name in ((here, "here"), (there, "there")))
    different = 0
    for life, found in ours.items():
        compared = ", ".join(f"{len(places)} {kind}" for kind, places in found.items())
        other = differences(found, theirs[life], frozenset(filter(None, options.but_for.split(","))))
        different += bool(other)
        print(f"{life}: {'different' if other else 'the same'} ({compared})")
        for each in other:
            print(f"    {each}")
    but_for = f" but for {options.but_for}" if options.but_for else ""
    print(f"{len(ours) - different} of {len(ours)} lives are the same{but_for}, bit for bit")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
