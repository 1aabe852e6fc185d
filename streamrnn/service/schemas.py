"""The schemas that records name, for whoever decodes: fetched beside a worker, or at once for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamrnn.codec import Decoder
from streamrnn.records import Record
from streamrnn.transports.registry import Registry, SchemaFetcher

if TYPE_CHECKING:
    from streamrnn.service.config import Settings


def fetcher_of(settings: Settings, decoder: Decoder) -> SchemaFetcher | None:
    """None where nothing has to be asked for. Raises ConfigError, RegistryRefuses."""
    registry, schemas = settings.registry_settings(), decoder.schemas
    if registry is None or schemas is None or not schemas.asks:
        return None
    return SchemaFetcher(Registry(registry), schemas)


def fetch(settings: Settings, decoder: Decoder, records: Sequence[Record]) -> None:
    """Whatever schemas these records need. Raises ConfigError, RegistryAway, RegistryRefuses."""
    fetcher = fetcher_of(settings, decoder)
    if fetcher is not None:
        asyncio.run(fetcher.once(records))
