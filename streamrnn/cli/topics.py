"""`topics` and `validate`: is everything there that the service needs?"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamrnn.cli.exit_codes import ExitCode
from streamrnn.cli.options import AsJson, Bootstrap, Config, Sets, overrides, settings_from

if TYPE_CHECKING:
    from streamrnn.service.config import Settings


def topics(
    config: Config = None,
    sets: Sets = None,
    bootstrap_servers: Bootstrap = None,
    create: Annotated[bool, typer.Option("--create", help="Create the ones that are missing.")] = False,
    partitions: Annotated[
        int | None, typer.Option(help="Also create the input topic, with so many partitions, if it is missing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the topics the service needs, and create them."""
    settings = settings_from(config, overrides(sets, bootstrap_servers))
    rows = asyncio.run(_topics(settings, create, partitions))
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        for row in rows:
            typer.echo(f"{row['topic']:<40} {row['wanted']:>4} partitions   {row['state']}")
        if any(row["state"] == "missing" for row in rows):
            typer.echo("`streamrnn topics --create` makes the missing ones (the input topic with --partitions N).")
    if any(row["state"] not in ("exists", "created") for row in rows):
        raise typer.Exit(ExitCode.TOPIC)


async def _topics(settings: Settings, create: bool, partitions: int | None) -> list[dict[str, Any]]:
    from streamrnn.transports.base import TopicNeed
    from streamrnn.transports.kafka import KafkaTransport

    admin = KafkaTransport(settings.kafka_settings()).admin()
    await admin.start()
    try:
        made: list[str] = []
        found = await admin.describe([settings.input])
        inputs = found[settings.input] or partitions
        if create and found[settings.input] is None and partitions:
            made += await admin.create([TopicNeed(settings.input, partitions, {})])
        needs = [TopicNeed(settings.input, inputs or 1, {}), *settings.topic_needs(inputs or 1)]
        if create and inputs:
            made += await admin.create(needs[1:])
        found = await admin.describe([need.name for need in needs])
    finally:
        await admin.stop()
    rows: list[dict[str, Any]] = []
    for need in needs:
        have = found[need.name]
        state = "missing" if have is None else "exists"
        if need.name in made:
            state = "created"
        elif have is not None and have < need.partitions:
            state = f"has only {have}"
        rows.append({"topic": need.name, "wanted": need.partitions, "have": have, "state": state})
    return rows


def validate(
    config: Config = None,
    sets: Sets = None,
    bootstrap_servers: Bootstrap = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the configuration only, not the broker.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check configuration, broker and topics; print the effective configuration with secrets masked."""
    settings = settings_from(config, overrides(sets, bootstrap_servers))
    from streamrnn.codec import Decoder

    Decoder(settings.stream_spec(), settings.decode_spec())  # an impossible mapping is told here
    rows = [] if offline else asyncio.run(_topics(settings, False, None))
    wrong = [row for row in rows if row["state"] != "exists"]
    if as_json:
        typer.echo(json.dumps({"ok": not wrong, "topics": rows, "configuration": settings.effective()}))
    else:
        import yaml

        typer.echo(yaml.safe_dump(settings.effective(), sort_keys=False, allow_unicode=True).rstrip())
        for row in rows:
            typer.echo(f"# topic {row['topic']}: {row['state']}")
        if wrong:
            typer.echo("# `streamrnn topics --create` makes what is missing")
    if wrong:
        raise typer.Exit(ExitCode.TOPIC)


def register(app: typer.Typer) -> None:
    app.command()(validate)
    app.command()(topics)
