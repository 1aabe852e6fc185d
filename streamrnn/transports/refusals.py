"""Sending on when the broker refuses records for what they hold: what both transports have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from streamrnn.transports.base import Instead, Outgoing, RecordRefused, Refused

# A record, what is sent instead of it, what is sent instead of that, ...: whoever answers so often does not end.
ROUNDS_MAX = 8


async def replace(
    refused: Sequence[Refused],
    instead: Instead | None,
    send: Callable[[Sequence[Outgoing]], Awaitable[Sequence[Refused]]],
) -> None:
    """Sends what is to be sent instead, until nothing of it is refused.

    `send` returns when all is acknowledged, with what was refused. Raises RecordRefused, and what `instead` and `send`
    raise.
    """
    for _ in range(ROUNDS_MAX):
        if not refused:
            return
        if instead is None:
            break
        records = instead(refused)
        refused = await send(records) if records else ()
    if refused:
        raise RecordRefused(explained(refused))


def explained(refused: Sequence[Refused]) -> str:
    """The first of the refusals in words, and how many there are."""
    record, error, detail = refused[0]
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return (
        f"{record.topic}/{record.partition} refuses a record for what it holds: {error}"
        + (f": {detail}" if detail else "")
        + more
    )
