"""The schemas that records name, for whoever decodes: fetched beside a worker, or at once for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamrnn.records import Record
from streamrnn.transports.registry import Registry, SchemaFetcher
from streamrnn.wire.codec import Decoder
from streamrnn.wire.mapping import Format
from streamrnn.wire.schemas import Schemas

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings


def fetcher_of(settings: Settings, decoder: Decoder) -> SchemaFetcher | None:
    """None where nothing has to be asked for. Raises ConfigError, RegistryRefuses."""
    registry, schemas = settings.registry_settings(), decoder.schemas
    if registry is None or schemas is None or not schemas.asks:
        return None
    return SchemaFetcher(Registry(registry), schemas)


def known_for(settings: Settings, records: Sequence[Record]) -> tuple[Format, Schemas] | None:
    """(the format of these records, their schemas), by the registry of the configuration; None where there is no registry, or
    they name no schema. Raises ConfigError, RegistryAway, RegistryRefuses."""
    registry, schemas = settings.registry_settings(), Schemas("avro", keys=True)
    if registry is None or not schemas.missing(records):
        return None
    asyncio.run(SchemaFetcher(Registry(registry), schemas).once(records))
    format = schemas.settle()
    return (format, schemas) if format is not None else None


def look(settings: Settings) -> None:
    """Whether the registry of the configuration lets us in. Raises ConfigError, RegistryAway, RegistryRefuses."""
    registry = settings.registry_settings()
    if registry is not None:
        Registry(registry).look()


def fetch(settings: Settings, decoder: Decoder, records: Sequence[Record]) -> None:
    """Whatever schemas these records need. Raises ConfigError, RegistryAway, RegistryRefuses."""
    fetcher = fetcher_of(settings, decoder)
    if fetcher is not None:
        asyncio.run(fetcher.once(records))
