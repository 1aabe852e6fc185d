"""`topics` and `validate`: is everything there that the service needs?"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamrnn.cli.options import AsJson, Bootstrap, Config, Sets, overrides, settings_from
from streamrnn.runtime.exit_codes import exit_code_of

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings
    from streamrnn.config.sizes import Sizes
    from streamrnn.serving.costs import Cost
    from streamrnn.serving.schemas import OwnSchema
    from streamrnn.serving.topics import Access, Fault, InputState, TopicState
    from streamrnn.transports.base import Admin, Transport

# How long the input's offsets are watched for its rate.
RATE_S = 2.0


def topics(
    config: Config = None,
    sets: Sets = None,
    bootstrap_servers: Bootstrap = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create the ones that are missing, add partitions to those with too few.")
    ] = False,
    partitions: Annotated[
        int | None,
        typer.Option(
            help="Room for an input of so many partitions; the input itself is made with them if it is missing."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the topics the service needs, and create them."""
    from streamrnn.transports.base import NotPermitted

    settings = settings_from(config, overrides(sets, bootstrap_servers))
    from streamrnn.config.sizes import sizes_of, too_much_memory
    from streamrnn.runtime.limits import memory_bytes

    sizes, limit = sizes_of(settings), memory_bytes()
    states, made = asyncio.run(_created(settings, sizes, create, partitions))
    from streamrnn.serving.schemas import look_at_own

    schemas = look_at_own(settings, create)
    # Whoever makes the topics need not be the one who serves.
    faults = [state.fault for state in states if state.fault is not None and state.fault.kind is not NotPermitted]
    rows = [_row(state, faults, made) for state in states]
    if as_json:
        typer.echo(json.dumps([*rows, *map(_schema_row, schemas)]))
    else:
        for row in rows:
            typer.echo(f"{row['topic']:<40} {row['wanted']:>4} partitions   {row['state']}")
        for remedy in dict.fromkeys(row["remedy"] for row in rows if row["remedy"]):
            typer.echo(remedy)
        for schema in schemas:
            typer.echo(f"{schema.subject:<40}      schema         {schema}")
        for line in _hints(states):
            typer.echo(line)
        for line in [*sizes.lines(None, limit), *filter(None, [too_much_memory(settings, sizes, limit)])]:
            typer.echo(f"size: {line}")
    _exit([*faults, *_schema_faults(schemas)])


def validate(
    config: Config = None,
    sets: Sets = None,
    bootstrap_servers: Bootstrap = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the configuration only, not the broker.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check configuration, broker, topics and permissions; print the effective configuration with secrets masked.

    States and weights that are there are held against the configuration: what would be carried, and what starts cold.
    """
    settings = settings_from(config, overrides(sets, bootstrap_servers))
    from streamrnn.wire.codec import Decoder

    Decoder(settings.stream_spec(), settings.decode_spec())  # an impossible mapping is refused here
    schemas: list[OwnSchema] = []
    if not offline:
        from streamrnn.serving.schemas import look, look_at_own

        look(settings)
        schemas = look_at_own(settings)
    from streamrnn.config.sizes import sizes_of, too_much_memory
    from streamrnn.runtime.limits import memory_bytes

    sizes, limit = sizes_of(settings), memory_bytes()
    states, access, faults, ticks_s, kept = ([], [], [], None, []) if offline else asyncio.run(_asked(settings, sizes))
    faults = [*faults, *_schema_faults(schemas)]
    hints = settings.hints()
    if not offline and not faults and settings.repartition == "off" and (why := _shared(settings)):
        hints.append(why)
    rows = [_row(state, faults) for state in states]
    shown = [{"of": cost.of, "partitions": cost.partitions, "cold": cost.cold, "what": cost.what} for cost in kept]
    more = [
        {"kind": each.kind, "name": each.name, "state": each.fault.what if each.fault else "permitted"}
        for each in access
    ]
    if as_json:
        document = {
            "ok": not faults, "topics": rows, "schemas": [_schema_row(each) for each in schemas], "access": more,
            "kept": shown, "hints": hints,
            "sizes": sizes.document(ticks_s, limit), "forecasting": settings.forecasting(),
            "configuration": settings.effective(),
        }  # fmt: skip
        typer.echo(json.dumps(document))
    else:
        import yaml

        typer.echo(yaml.safe_dump(settings.effective(), sort_keys=False, allow_unicode=True).rstrip())
        for row in rows:
            typer.echo(f"# topic {row['topic']}: {row['state']}")
        for schema in schemas:
            typer.echo(f"# schema {schema.subject}: {schema}")
        for row in more:
            typer.echo(f"# {row['kind']} {row['name']}: {row['state']}")
        for remedy in dict.fromkeys(fault.remedy for fault in faults):
            typer.echo(f"# {remedy}")
        for line in (*_hints(states), *(f"hint: {hint}" for hint in hints), *map(str, kept)):
            typer.echo(f"# {line}")
        for line in _forecasting(settings.forecasting()):
            typer.echo(f"# {line}")
        for line in [*sizes.lines(ticks_s, limit), *filter(None, [too_much_memory(settings, sizes, limit)])]:
            typer.echo(f"# size: {line}")
    _exit(faults)


def _shared(settings: Settings) -> str:
    """Why the ticks should be repartitioned, if a sample of the input says so; "" where it cannot be had."""
    from streamrnn.discovery import samples
    from streamrnn.discovery.shared import SAMPLE, recommendation
    from streamrnn.transports.base import TransportError
    from streamrnn.transports.kafka.transport import KafkaTransport
    from streamrnn.transports.registry import RegistryAway, RegistryRefuses

    try:
        transport = KafkaTransport(settings.kafka_settings())
        return recommendation(settings, asyncio.run(samples.of_input(transport, settings, None, SAMPLE)))
    except (TransportError, RegistryAway, RegistryRefuses):
        return ""


def _forecasting(said: Mapping[str, Any]) -> list[str]:
    """What forecasts are made by, beside the last value and the network."""
    auto = " (auto)" if said["season_setting"] == "auto" else ""
    return [
        f"season: {', '.join(said['season']) or 'none'}{auto}",
        f"experts: {said['experts_chosen']} ({', '.join(said['experts']) or 'none'}): {said['experts_why']}",
    ]


async def _asked(
    settings: Settings, sizes: Sizes
) -> tuple[list[TopicState], list[Access], list[Fault], float | None, list[Cost]]:
    """(topics, groups and ids, what is wrong with them, the input's present rate, what would become of the states and
    weights that are there). The rate is watched beside the last, which is not asked where something is wrong."""
    from streamrnn.serving.costs import costs
    from streamrnn.transports.kafka.transport import KafkaTransport

    transport = KafkaTransport(settings.kafka_settings())
    states, _, access = await _examined(transport, settings, sizes, access=True)
    faults = [fault for fault in (*(s.fault for s in states), *(a.fault for a in access)) if fault is not None]
    if faults:
        return states, access, faults, await _present_rate(transport, settings), []
    ticks_s, kept = await asyncio.gather(_present_rate(transport, settings), costs(transport, settings))
    return states, access, faults, ticks_s, kept


async def _present_rate(transport: Transport, settings: Settings) -> float | None:
    """Records that come to the input a second, by its offsets over a short time; None where that cannot be asked."""
    from streamrnn.serving.input_topics import to_be_read
    from streamrnn.transports.base import Deadline, TransportError

    reader = transport.reader()
    try:
        await reader.start(await to_be_read(transport, settings), None)
        before, begun_s = sum((await reader.end_offsets()).values()), time.monotonic()
        await asyncio.sleep(RATE_S)
        come = sum((await reader.end_offsets()).values()) - before
        return come / (time.monotonic() - begun_s) if come > 0 else None
    except TransportError:
        return None
    finally:
        await reader.stop(Deadline(2.0))


async def _created(
    settings: Settings, sizes: Sizes, create: bool, partitions: int | None
) -> tuple[list[TopicState], dict[str, str]]:
    """(topics that are there, what was done to which of them now)"""
    from streamrnn.transports.kafka.transport import KafkaTransport

    states, done, _ = await _examined(KafkaTransport(settings.kafka_settings()), settings, sizes, create, partitions)
    return states, done


async def _examined(
    transport: Transport,
    settings: Settings,
    sizes: Sizes,
    create: bool = False,
    partitions: int | None = None,
    access: bool = False,
) -> tuple[list[TopicState], dict[str, str], list[Access]]:
    """(topics that are there, what was done to which of them now, and what else is permitted where `access` asks for it)."""
    from streamrnn.config.sizes import needs_with_limits
    from streamrnn.serving.topics import examine, examine_access, input_state, raise_limits
    from streamrnn.transports.base import TopicNeed

    admin = transport.admin()
    await admin.start()
    try:
        made: list[str] = []
        raised: list[str] = []
        if create:
            inputs = await input_state(admin, settings, transport)
            if partitions:  # those that are named; nobody knows what a pattern's would be called
                names = settings.written_inputs.names
                there = await admin.describe(names)
                made += await admin.create([TopicNeed(name, partitions, {}) for name in names if there[name] is None])
                inputs = await input_state(admin, settings, transport)
            if settings.repartition == "on" and not inputs.counts:
                made += await _make_between(admin, settings, inputs, partitions)
                inputs = await input_state(admin, settings, transport)
            if inputs.counts or partitions:
                room = 1 if settings.repartition == "on" else partitions or 1
                needs = settings.topic_needs(max(inputs.needed(), room))
                made += await admin.create(needs_with_limits(needs, settings, sizes))
                raised = await raise_limits(admin, settings, sizes)
        done = dict.fromkeys(raised, "max.message.bytes raised") | dict.fromkeys(made, "created")
        inputs = await input_state(admin, settings, transport)
        states = await examine(admin, settings, inputs, partitions, sizes)
        return states, done, await examine_access(admin, settings, inputs.names()) if access else []
    finally:
        await admin.stop()


async def _make_between(admin: Admin, settings: Settings, inputs: InputState, partitions: int | None) -> list[str]:
    """The topic between the stages, with as many partitions as what producers write. More are never added: a series would
    come to lie in another one."""
    wanted = partitions or sum(count or 0 for count in inputs.written.values())
    if not wanted:
        return []
    needs = settings.topic_needs(wanted)
    return await admin.create([need for need in needs if need.name == settings.topics.ticks])


def _row(state: TopicState, faults: Sequence[Fault], made: Mapping[str, str] | None = None) -> dict[str, Any]:
    fault, made = state.fault if state.fault in faults else None, made or {}
    shown = fault.what if fault is not None else made.get(state.need.name, "exists")
    row = {"topic": state.need.name, "wanted": state.need.partitions, "have": state.have, "state": shown}
    return {**row, "remedy": fault.remedy if fault is not None else "", "hints": list(state.hints)}


def _schema_row(schema: OwnSchema) -> dict[str, Any]:
    return {"subject": schema.subject, "id": schema.id, "state": str(schema)}


def _schema_faults(schemas: Sequence[OwnSchema]) -> list[Fault]:
    from streamrnn.serving.topics import Fault
    from streamrnn.transports.registry import SchemaRefused

    remedy = "another topic for it, or the subject's compatibility"
    return [Fault(schema.fault, remedy, SchemaRefused) for schema in schemas if schema.fault]


def _hints(states: Sequence[TopicState]) -> list[str]:
    return [f"hint: {state.need.name}: {hint}" for state in states for hint in state.hints]


def _exit(faults: Sequence[Fault]) -> None:
    if faults:
        raise typer.Exit(exit_code_of(faults[0].kind(faults[0].what)))


def register(app: typer.Typer) -> None:
    app.command()(validate)
    app.command()(topics)
