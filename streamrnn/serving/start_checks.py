"""What a worker looks at and reports before it serves: how large things are, what makes the forecasts, whether the topics are
as they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from streamrnn.config.sizes import Sizes, too_much_memory, written
from streamrnn.experts import AUTO, FULL
from streamrnn.inputs import Numbering
from streamrnn.memory import format_bytes
from streamrnn.runtime.limits import memory_bytes
from streamrnn.serving.topics import examine, examine_access, input_state, refuse
from streamrnn.transports.base import Transport

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings

log = structlog.get_logger(__name__)


def report_sizes(settings: Settings, sizes: Sizes) -> None:
    limit = memory_bytes()
    log.info(
        "sizes", series=written(sizes.series), series_max=sizes.series_max, memory_at_series_max=written(sizes.memory),
        memory_limit=written(limit), state_record=written(sizes.state_usual),
        state_record_max=written(sizes.state_largest), forecast_record_max=written(sizes.forecast_largest),
    )  # fmt: skip
    if why := too_much_memory(settings, sizes, limit):
        log.warning("series_max needs more memory than there is", why=why)


def report_experts(settings: Settings) -> None:
    said = settings.forecasting()
    log.info(
        "experts", season=said["season"], experts=said["experts"], chosen=said["experts_chosen"], reason=said["experts_why"],
        series=format_bytes(said["experts_series_bytes"]), memory_at_series_max=format_bytes(said["experts_bytes"]),
    )  # fmt: skip
    if settings.experts == AUTO and said["experts_chosen"] != FULL:
        log.warning("experts_memory_max has no room for all experts", reason=said["experts_why"])


async def check_topics(transport: Transport, settings: Settings, sizes: Sizes) -> Numbering | None:
    """The numbers of the input's partitions, where there is a directory of them.

    Raises TopicMissing, TopicUnfit, NotPermitted; TransportError where the broker cannot be asked.
    """
    admin = transport.admin()
    await admin.start()
    try:
        inputs = await input_state(admin, settings, transport)
        states = await examine(admin, settings, inputs, sizes=sizes, settled=True)
        refuse(states)
        refuse((), await examine_access(admin, settings, inputs.names()))
        for state in states:
            for hint in state.hints:
                if state.need.name in inputs.missing:
                    continue  # that is said where they are looked for
                if state.need.name in inputs.counts:
                    log.warning("the input is kept for less than a replay may need", topic=state.need.name, hint=hint)
                else:
                    log.warning("a topic will lose or refuse outputs", topic=state.need.name, hint=hint)
        return inputs.numbering
    finally:
        await admin.stop()
