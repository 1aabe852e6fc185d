"""What the configuration at hand would cost, held against what lies in the state and models topics.

By the same comparison that a worker makes when it takes the states and the weights up (`streamrnn.meaning.Change`,
`streamrnn.model.weights.fitted`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamrnn.meaning import Change
from streamrnn.model.weights import WeightsError, fitted
from streamrnn.serving.input_topics import numbering_of
from streamrnn.serving.members import refuse_another_input
from streamrnn.stores.changelog import newest_checkpoints
from streamrnn.stores.models import ModelsFollower
from streamrnn.stream.forecasting import inputs_of
from streamrnn.transports.base import Deadline, Transport

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

TIMEOUT_S = 30.0
UNDESCRIBED = "of a version that kept no names: taken for this configuration's as far as their shapes agree with it"


@dataclass(frozen=True, slots=True)
class Cost:
    """What becomes of the states of these partitions, or of the weights (`partitions` empty)."""

    of: str
    what: tuple[str, ...]  # in the words of the configuration; empty: it all goes on as it is
    cold: bool = False
    partitions: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.of}: {'; '.join(self.what) or 'carried as it is'}"


async def costs(transport: Transport, settings: Settings) -> list[Cost]:
    """Raises TransportError, and OperatorNeeded where the topics hold what this version cannot read."""
    return [*await _of_states(transport, settings), *await _of_weights(transport, settings)]


async def _of_states(transport: Transport, settings: Settings) -> list[Cost]:
    own, numbering = settings.meaning(), await numbering_of(transport, settings)
    by_fate: dict[tuple[tuple[str, ...], bool], list[int]] = {}
    for partition, checkpoint in sorted(
        (await newest_checkpoints(transport, settings.topics.state, TIMEOUT_S)).items()
    ):
        if numbering.knows(partition):
            refuse_another_input(settings.topics.state, numbering, partition, checkpoint)
        fate: tuple[tuple[str, ...], bool]
        if checkpoint.meaning is None:
            fate = (UNDESCRIBED,), False
        else:
            change = Change(checkpoint.meaning, own)
            fate = change.words, bool(change.cold)
        by_fate.setdefault(fate, []).append(partition)
    return [
        Cost(f"state of partition{'s' if len(which) > 1 else ''} {_ranges(which)}", what, cold, tuple(which))
        for (what, cold), which in by_fate.items()
    ]


async def _of_weights(transport: Transport, settings: Settings) -> list[Cost]:
    follower = ModelsFollower(transport, settings.topics.models)
    await follower.start()
    try:
        current = await follower.catch_up(TIMEOUT_S)
    finally:
        await follower.stop(Deadline(2.0))
    found: list[Cost] = []
    for model, blob in current:
        try:
            what, cold = fitted(blob, settings.meaning(), inputs_of(settings.stream_spec())).words, False
        except WeightsError as error:
            what, cold = (f"{error}: not served, and a new network is trained",), True
        found.append(Cost(f"weights {model}", what, cold))
    return found


def _ranges(numbers: list[int]) -> str:
    """`0-3, 7` of sorted numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
