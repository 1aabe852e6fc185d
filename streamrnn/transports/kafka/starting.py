"""Starting aiokafka's clients: within a time, and with the reason where it fails.

When no server lets it in, the client says "unable to bootstrap" and nothing else: that the password is wrong, or the
certificate another host's, it only writes into its log. So the question is asked again, by one connection of our own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError

from streamrnn.transports.kafka.errors import explained

if TYPE_CHECKING:
    from streamrnn.transports.kafka.settings import KafkaSettings

# A client sends several requests when it starts; each has the request's time-out, all of them this much more.
SPARE_S = 10.0


async def start_client(client: Any, settings: KafkaSettings, doing: str) -> None:
    """Raises the TransportError that says why the client could not start; it is to be closed all the same."""
    try:
        await asyncio.wait_for(client.start(), settings.request_timeout_ms / 1000 + SPARE_S)
    except KafkaConnectionError as error:
        raise explained(await _refusal(settings) or error, settings, doing) from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise explained(error, settings, doing) from error


async def _refusal(settings: KafkaSettings) -> BaseException | None:
    """What the first of the servers that does not let us in has against it."""
    options = settings.client()
    del options["metadata_max_age_ms"]
    for host, port, _ in collect_hosts(options.pop("bootstrap_servers")):
        try:
            connection = await create_conn(host, port, **options)
        except (KafkaError, OSError, TimeoutError) as error:
            return error
        await connection.close()
    return None
