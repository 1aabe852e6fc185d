"""The schemas that records name: fetched while a worker decodes, or at once for a command. And those of the service's own
outputs: registered at the start of a worker and by `topics --create`, looked at by `validate`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamrnn.records import Record
from streamrnn.transports.registry import Registry, SchemaFetcher, registered
from streamrnn.wire.codec import Decoder
from streamrnn.wire.mapping import Format
from streamrnn.wire.output_schemas import WHATS, What, definition, subject_of
from streamrnn.wire.schemas import Definition, Schemas

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


# ── of our own outputs ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class OwnSchema:
    """A schema of an output at the registry: `id` where it is registered, `fault` where it would not be taken."""

    subject: str
    id: int | None
    fault: str = ""

    def __str__(self) -> str:
        return self.fault or (
            f"registered as {self.id}" if self.id is not None else "not registered yet: the start does it"
        )


def own_schemas(settings: Settings) -> dict[What, tuple[str, Definition]]:
    """(subject, schema) of what is written; empty where it is plain JSON."""
    output, spec = settings.output.spec(), settings.stream_spec()
    if output.format == "json":
        return {}
    return {what: (subject_of(getattr(settings.topics, what)), definition(spec, output, what)) for what in WHATS}


async def register(settings: Settings, away: Callable[[str], None]) -> Mapping[What, int]:
    """The numbers of our schemas. Waits for a registry that is away, and `away` hears why. Raises ConfigError,
    RegistryRefuses."""
    registry, own = settings.registry_settings(), own_schemas(settings)
    if registry is None or not own:
        return {}
    ids = await registered(Registry(registry), dict(own.values()), away)
    return {what: ids[subject] for what, (subject, _) in own.items()}


def look_at_own(settings: Settings, create: bool = False) -> list[OwnSchema]:
    """How it stands with them, after they were registered with `create`. Raises ConfigError, RegistryAway, RegistryRefuses."""
    settled, own = settings.registry_settings(), own_schemas(settings)
    if settled is None or not own:
        return []
    registry, found = Registry(settled), list[OwnSchema]()
    for subject, schema in own.values():
        id = registry.registered(subject, schema)
        fault = registry.unfit(subject, schema) if id is None else ""
        if create and id is None and not fault:
            id = registry.register(subject, schema)
        found.append(OwnSchema(subject, id, fault))
    return found
