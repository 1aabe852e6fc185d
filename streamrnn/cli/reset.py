"""`reset`: start anew, or process again."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamrnn.cli.options import AsJson, BadUse, Bootstrap, Config, Sets, overrides, settings_from

if TYPE_CHECKING:
    from streamrnn.config.settings import Settings
    from streamrnn.serving.reset import Plan


def reset(
    config: Config = None,
    sets: Sets = None,
    bootstrap_servers: Bootstrap = None,
    state: Annotated[bool, typer.Option("--state", help="Delete all series' states.")] = False,
    models: Annotated[bool, typer.Option("--models", help="Delete all weights.")] = False,
    offsets: Annotated[bool, typer.Option("--offsets", help="Set where the input is read on from; see --to.")] = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="earliest, latest, a time with its zone (2026-11-27T18:00:00Z), an offset (1200), a distance (-100, +100), "
            "or an offset each (0:1200,3:900).",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without, it is only said what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start anew (--state, --models), or process records again or skip some (--offsets --to WHERE).

    Refused with exit code 8 while workers or trainers of this `app` are alive.
    """
    if not (state or models or offsets):
        raise BadUse("say what is to be reset: --state, --models, --offsets --to WHERE, or several of them")
    if offsets != (to is not None):
        raise BadUse("--offsets and --to WHERE belong together")
    settings = settings_from(config, overrides(sets, bootstrap_servers))
    made = asyncio.run(_reset(settings, state, models, to, yes))
    if as_json:
        typer.echo(json.dumps(_document(made, yes)))
        return
    done = "deleted" if yes else "would be deleted"
    if state:
        typer.echo(f"{settings.topics.state}: {made.series} states in {len(made.states)} partitions {done}")
    if models:
        typer.echo(f"{settings.topics.models}: {made.versions} versions of the weights {done}")
    for move in made.moves:
        now = "nowhere" if move.now is None else str(move.now)
        what = f"{move.records} records again" if move.records > 0 else f"{-move.records} records skipped"
        typer.echo(
            f"{move.topic}/{move.partition}: {now} -> {move.to} "
            f"(of {move.begin} to {move.end}; {what if move.records else 'no change'})"
        )
    if not yes:
        typer.echo("nothing was done: --yes does it")


async def _reset(settings: Settings, state: bool, models: bool, to: str | None, yes: bool) -> Plan:
    from streamrnn.serving.reset import execute, plan
    from streamrnn.transports.kafka.transport import KafkaTransport

    transport = KafkaTransport(settings.kafka_settings())
    made = await plan(transport, settings, state, models, to)
    if yes:
        await execute(transport, settings, made)
    return made


def _document(made: Plan, done: bool) -> dict[str, Any]:
    moves = [
        {"topic": m.topic, "partition": m.partition, "now": m.now, "to": m.to, "records_again": m.records}
        for m in made.moves
    ]
    return {"done": done, "states": made.series, "weights": made.versions, "offsets": moves}


def register(app: typer.Typer) -> None:
    app.command()(reset)
