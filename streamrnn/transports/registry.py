"""Schemas by their ids from a registry, by Confluent's own client; and the waiting for one that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from streamrnn.records import Record
from streamrnn.transports.base import LONG_AGO_S, OperatorNeeded, TransportError, clock_s
from streamrnn.wire.schemas import Definition, SchemaId, Schemas, name_of

log = structlog.get_logger(__name__)

TIMEOUT_S = 10.0
BACKOFF_S = (0.2, 15.0)
# An id that a registry does not know is asked for once more after AGAIN_S (one of several registries may lag), and its
# records are refused for UNKNOWN_S before it is asked for again.
AGAIN_S, UNKNOWN_S = 0.5, 60.0
# Between two lines about a registry that stays away.
SAID_S = 60.0
THREADS = 4
# Schemas that one refers to, with theirs.
REFERENCES_MAX = 100


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Where the registry is, and who asks. `password` is not shown."""

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl_cafile: str | None = None

    @property
    def shown(self) -> str:
        """Of several addresses the first."""
        return self.url.split(",")[0]


class RegistryAway(TransportError):
    """The registry cannot be reached, or does not answer as one."""


class RegistryRefuses(OperatorNeeded):
    """The registry does not let us in."""


class SchemaRefused(RegistryRefuses):
    """The registry does not take a schema of ours."""


class UnknownSchema(Exception):
    """The registry has no schema of this id."""


class Registry:
    """Asks, and waits for the answer: to be called in a thread."""

    def __init__(self, settings: RegistrySettings) -> None:
        try:
            from confluent_kafka.schema_registry import SchemaRegistryClient
        except ImportError as error:
            raise RegistryRefuses(f"registry: needs more packages: pip install 'streamrnn[avro]' ({error})") from None

        self._settings = settings
        config: dict[str, Any] = {"url": settings.url, "timeout": TIMEOUT_S, "max.retries": 0}
        if settings.username is not None:
            config["basic.auth.user.info"] = f"{settings.username}:{settings.password or ''}"
        if settings.ssl_cafile is not None:
            config["ssl.ca.location"] = settings.ssl_cafile
        try:
            # The client keeps what it was given, whatever the form: each form is asked for by a client of its own.
            self._client, self._serialized = SchemaRegistryClient(config), SchemaRegistryClient(config)
        except (ValueError, OSError) as error:  # ssl.SSLError is an OSError
            raise RegistryRefuses(f"registry: cannot be used as it is configured: {error}") from None

    def look(self) -> None:
        """Whether we are let in. Raises RegistryAway, RegistryRefuses."""
        try:
            self._asked(self._client.get_schema_types)
        except UnknownSchema:
            pass  # one that has no such question

    def definition(self, id: SchemaId) -> Definition:
        """Raises UnknownSchema, RegistryAway, RegistryRefuses."""
        form, schema = None, self._schema(id, None)
        if schema.schema_type == "PROTOBUF":
            form, schema = "serialized", self._schema(id, "serialized")
        found: dict[tuple[str, int], tuple[str, str]] = {}
        self._references(schema, form, found, 0)
        return Definition(schema.schema_type or "AVRO", schema.schema_str or "", tuple(found.values()))

    def registered(self, subject: str, definition: Definition) -> int | None:
        """The number of this schema under this subject; None where it has none. Raises RegistryAway, RegistryRefuses."""
        try:
            found = self._asked(lambda: self._client.lookup_schema(subject, _written(definition)))
        except UnknownSchema:
            return None
        return _number(found.schema_id)

    def register(self, subject: str, definition: Definition) -> int:
        """Its number, from now on. Raises SchemaRefused, RegistryAway, RegistryRefuses."""
        known = self.registered(subject, definition)
        if known is not None:
            return known
        try:
            return _number(self._asked(lambda: self._client.register_schema(subject, _written(definition)), subject))
        except UnknownSchema as error:
            raise RegistryAway(f"the registry {self._settings.shown} takes no schemas: {error}") from None

    def unfit(self, subject: str, definition: Definition) -> str:
        """Why this schema would not be taken; "" where it would. Raises RegistryAway, RegistryRefuses."""
        try:
            fits = self._asked(lambda: self._client.test_compatibility(subject, _written(definition)), subject)
        except UnknownSchema:
            return ""  # the subject has no schema yet
        except SchemaRefused as error:
            return str(error)
        return "" if fits else _unlike(self._settings.shown, subject, "it is not compatible with the last one")

    def _schema(self, id: SchemaId, form: str | None) -> Any:
        client = self._client if form is None else self._serialized
        if isinstance(id, int):
            return self._asked(lambda: client.get_schema(id, fmt=form))
        return self._asked(lambda: client.get_schema_by_guid(str(UUID(bytes=id)), fmt=form))

    def _references(
        self, schema: Any, form: str | None, found: dict[tuple[str, int], tuple[str, str]], depth: int
    ) -> None:
        for reference in schema.references or ():
            at = (str(reference.subject), int(reference.version or 0))
            if at in found:
                continue
            if len(found) >= REFERENCES_MAX or depth > REFERENCES_MAX:
                raise UnknownSchema(f"it refers to more than {REFERENCES_MAX} others, or to itself")
            client = self._client if form is None else self._serialized
            inner = self._asked(partial(client.get_version, *at, fmt=form)).schema
            self._references(inner, form, found, depth + 1)
            found[at] = (str(reference.name), str(inner.schema_str or ""))

    def _asked(self, ask: Any, subject: str = "") -> Any:
        """`subject`: of a schema that is handed over."""
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        where = self._settings.shown
        try:
            return ask()
        except SchemaRegistryError as error:
            status = error.http_status_code
            said = f"{error.error_message} (HTTP {status})"[:200]
            if subject and status in (409, 422):
                raise SchemaRefused(_unlike(where, subject, said)) from None
            if subject and status == 403:
                raise RegistryRefuses(
                    f"the registry {where} does not permit us to register the schema of {subject}: {said}. Permit it, or let "
                    "`streamrnn topics --create` do it as somebody who may"
                ) from None
            if status in (401, 403):
                raise RegistryRefuses(
                    f"the registry {where} does not let us in: {said}. Look at registry.username and registry.password_file"
                ) from None
            if status == 404:
                raise UnknownSchema(said) from None
            raise RegistryAway(f"the registry {where} does not answer: {said}") from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RegistryAway(f"the registry {where} does not answer: {_said(error)}") from None
        except Exception as error:  # noqa: BLE001 - whatever the HTTP client under the client raises
            raise RegistryAway(f"the registry {where} cannot be reached: {_said(error)}") from None


def _written(definition: Definition) -> Any:
    from confluent_kafka.schema_registry import Schema

    return Schema(definition.text, definition.kind)


def _number(id: Any) -> int:
    """Raises RegistryAway."""
    if not isinstance(id, int) or not 0 <= id < 1 << 31:
        raise RegistryAway("the registry does not answer as one: a schema's id is no number")
    return id


def _unlike(where: str, subject: str, said: str) -> str:
    return (
        f"the registry {where} does not take our schema for {subject}: {said}. Another output.layout, output.format or step "
        "needs another topic (topics.forecasts, topics.imputed); or delete the subject there, or set its compatibility to NONE"
    )


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]


def plain_url(url: str) -> str:
    """Raises ValueError where it is no address, or holds a password."""
    for each in url.split(","):
        parts = urlsplit(each.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write it as http://host:8081 or https://host (several: with commas between)")
        if parts.username or parts.password:
            raise ValueError("no name and password in it: write registry.username and registry.password_file")
    return url


async def registered(
    registry: Registry, wanted: Mapping[str, Definition], away: Callable[[str], None]
) -> dict[str, int]:
    """The numbers of our own schemas by subject; those that the registry does not know are registered. Waits with back-off
    while it is away, of which `away` says why; "" when it is there. Raises RegistryRefuses."""
    ids, wait_s, said_s = dict[str, int](), BACKOFF_S[0], LONG_AGO_S
    threads = ThreadPoolExecutor(1, "schema-registry")
    loop = asyncio.get_running_loop()
    try:
        while missing := [subject for subject in wanted if subject not in ids]:
            try:
                for subject in missing:
                    ids[subject] = await loop.run_in_executor(threads, registry.register, subject, wanted[subject])
            except RegistryAway as error:
                away(str(error))
                if clock_s() - said_s > SAID_S:
                    said_s = clock_s()
                    log.warning(
                        "outputs wait for their schemas: the registry is asked again and again", error=str(error)
                    )
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, BACKOFF_S[1])
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    if said_s > LONG_AGO_S:
        log.info("the schema registry answers again")
    away("")
    log.info("outputs have schemas", ids=ids)
    return ids


class SchemaFetcher:
    """Has the registry asked for what is missing, in threads; waits with back-off while it is away.

    `trouble`: why schemas are waited for, "" where they are not.
    """

    def __init__(self, registry: Registry, schemas: Schemas) -> None:
        self.trouble = ""
        self._registry, self._schemas = registry, schemas
        self._wanted: set[SchemaId] = set()
        self._unknown: dict[SchemaId, float] = {}  # until when it is refused
        self._more = asyncio.Event()
        self._arrived = asyncio.Event()
        self._threads = ThreadPoolExecutor(THREADS, "schema-registry")
        self._said_s = LONG_AGO_S

    def want(self, ids: set[SchemaId]) -> None:
        if ids - self._wanted:
            self._wanted |= ids
            self._more.set()

    def look(self) -> None:
        """Ids that the registry did not know are asked for again after a while."""
        if self._unknown:
            now = clock_s()
            for id in [id for id, until in self._unknown.items() if until <= now]:
                del self._unknown[id]
                self._schemas.forget(id)

    async def run(self) -> None:
        """Until cancelled. Raises RegistryRefuses."""
        try:
            await self._first_look()
            while True:
                await self._more.wait()
                self._more.clear()
                await self._fetch()
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def had(self, records: Sequence[Record]) -> None:
        """Until none of these records' schemas is missing; `run` runs beside."""
        while missing := self._schemas.missing(records):
            self._arrived.clear()
            self.want(missing)
            await self._arrived.wait()

    async def once(self, records: Sequence[Record]) -> None:
        """The same without waiting for a registry that is away. Raises RegistryAway, RegistryRefuses."""
        try:
            for id in self._schemas.missing(records):
                await self._one(id)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _first_look(self) -> None:
        """Whoever is not let in learns it at the start, and not with the first record."""
        try:
            await self._called(self._registry.look)
        except RegistryAway as error:
            log.warning("the schema registry cannot be reached; it is waited for when it is needed", error=str(error))

    async def _fetch(self) -> None:
        wait_s = BACKOFF_S[0]
        while self._wanted:
            ids = list(self._wanted)
            found = await asyncio.gather(*(self._one(id) for id in ids), return_exceptions=True)
            away: RegistryAway | None = None
            for id, error in zip(ids, found, strict=True):
                if isinstance(error, RegistryAway):
                    away = error
                elif isinstance(error, BaseException):
                    raise error
                else:
                    self._wanted.discard(id)
            self._arrived.set()
            if away is None:
                self._over()
                continue
            self._is_away(away)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, BACKOFF_S[1])

    def _is_away(self, error: RegistryAway) -> None:
        self.trouble = str(error)
        if clock_s() - self._said_s > SAID_S:
            self._said_s = clock_s()
            log.warning("records wait for their schemas: the registry is asked again and again", error=str(error))

    def _over(self) -> None:
        if self.trouble:
            self.trouble, self._said_s = "", LONG_AGO_S
            log.info("the schema registry answers again")

    async def _one(self, id: SchemaId) -> None:
        """Raises RegistryAway, RegistryRefuses."""
        for attempt in range(2):
            try:
                definition = await self._called(self._registry.definition, id)
            except UnknownSchema as error:
                if not attempt:
                    await asyncio.sleep(AGAIN_S)
                    continue
                self._unknown[id] = clock_s() + UNKNOWN_S
                self._schemas.refuse(id, f"the registry does not know the schema {name_of(id)}: {error}")
                return
            self._schemas.put(id, definition)
            return

    async def _called(self, call: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
