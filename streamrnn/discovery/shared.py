"""Whether series of the input lie in several partitions, or their channels in several topics: by a sample."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamrnn.inputs import Place
from streamrnn.records import Record
from streamrnn.serving.schemas import fetch
from streamrnn.wire.codec import Decoder

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

# The newest records that are looked at.
SAMPLE = 2000


def recommendation(settings: Settings, records: Sequence[Record]) -> str:
    """Why `repartition: on` should be set; "" where nothing says so. Raises what `serving.schemas.fetch` does."""
    decoder = Decoder(settings.stream_spec(), settings.decode_spec())
    fetch(settings, decoder, records)
    batch = decoder.read(records).batch
    places: dict[str, set[Place]] = defaultdict(set)
    for name, record in zip(batch.series, batch.records, strict=True):
        places[name].add((record.topic, record.partition))
    shared = {name: where for name, where in places.items() if len(where) > 1}
    if not shared:
        return ""
    topics = any(len({topic for topic, _ in where}) > 1 for where in shared.values())
    example, where = min(shared.items())
    shown = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(where)[:4])
    return (
        f"{len(shared)} of {len(places)} series lie in several {'topics' if topics else 'partitions'} ({example!r}: {shown}): "
        "each partition keeps a state of its own, and sees gaps that are none. Set repartition: on"
        + ("" if topics else ", or key the records by series")
    )
