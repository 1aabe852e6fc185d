"""`models list|show|rollback`: the weights in the models topic."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamrnn.cli.options import AsJson, BadUse, Bootstrap, Config, Sets, overrides, settings_from
from streamrnn.durations import format_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamrnn.service.config import Settings
    from streamrnn.transports.models import Manifest

app = typer.Typer(help="The weights in the models topic.", no_args_is_help=True)
ModelId = Annotated[str, typer.Argument(help="The weights' id, as `models list` shows it.")]


@app.command("list")
def list_models(
    config: Config = None, sets: Sets = None, bootstrap_servers: Bootstrap = None, as_json: AsJson = False
) -> None:
    """List the versions: the one in use marked with *, those that were rolled back from with x."""
    rows = asyncio.run(_with_follower(settings_from(config, overrides(sets, bootstrap_servers))))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("no weights yet: forecasts are persistence with calibrated intervals")
    for row in rows:
        mark = "*" if row["current"] else "x" if row["refused"] else " "
        typer.echo(f"{mark} {row['id']}  round {row['round']:<4} loss {row['loss']:.4f}  skill {row['skill']:.3f}")


@app.command("show")
def show_model(model: ModelId, config: Config = None, sets: Sets = None, bootstrap_servers: Bootstrap = None) -> None:
    """Show what is known of one version, as JSON."""
    rows = asyncio.run(_with_follower(settings_from(config, overrides(sets, bootstrap_servers))))
    for row in rows:
        if row["id"] == model:
            typer.echo(json.dumps(row, indent=2))
            return
    raise BadUse(f"no weights {model}: `streamrnn models list` shows what there is")


@app.command("rollback")
def rollback(model: ModelId, config: Config = None, sets: Sets = None, bootstrap_servers: Bootstrap = None) -> None:
    """Make an earlier version the one in use; workers swap it in between two batches.

    The trainer goes on from it: nothing else is published for learn.rollback_hold, then only what was trained from it
    and has beaten it, and never the weights that were rolled back from.
    """
    settings = settings_from(config, overrides(sets, bootstrap_servers))
    asyncio.run(_with_follower(settings, model))
    typer.echo(f"{model} is current now; others follow after {format_ms(settings.learn.rollback_hold)} at the earliest")


async def _with_follower(settings: Settings, roll_back_to: str | None = None) -> list[dict[str, Any]]:
    from streamrnn.model.weights import WeightsError, fitted
    from streamrnn.transports.base import Deadline
    from streamrnn.transports.kafka import KafkaTransport
    from streamrnn.transports.models import ModelsFollower, ModelsWriter, rolled_back

    transport = KafkaTransport(settings.kafka_settings())
    follower = ModelsFollower(transport, settings.topics.models)
    await follower.start()
    try:
        await follower.catch_up()
        current = follower.pointer.id if follower.pointer else None
        refused = follower.pointer.refused if follower.pointer else ()
        if roll_back_to is not None:
            blob = follower.blob(roll_back_to)
            if blob is None:
                raise BadUse(f"no whole weights {roll_back_to}: `streamrnn models list` shows what there is")
            try:
                fitted(blob, settings.meaning())
            except WeightsError as error:  # no worker of this configuration would serve them
                raise BadUse(f"{roll_back_to}: {error}") from error
            sink = transport.sink()
            await sink.start()
            try:
                pointer = rolled_back(follower.pointer, roll_back_to, int(time.time() * 1000))
                await ModelsWriter(sink, settings.topics.models).point(pointer)
            finally:
                await sink.stop(Deadline(5.0))
    finally:
        await follower.stop(Deadline(5.0))
    return [_row(manifest, current, refused) for manifest in follower.manifests.values()]


def _row(manifest: Manifest, current: str | None, refused: Sequence[str]) -> dict[str, Any]:
    """What is said of one version; of a manifest that somebody else wrote, no more than its id may make sense."""
    import msgspec

    from streamrnn.model.weights import WeightsMeta

    try:
        meta = msgspec.convert(manifest.meta, WeightsMeta)
    except msgspec.ValidationError:
        meta = WeightsMeta()
    skill = meta.skill or [1.0]
    return {
        **manifest.meta,
        "id": manifest.id,
        "bytes": manifest.bytes,
        "current": manifest.id == current,
        "refused": manifest.id in refused,
        "round": meta.round,
        "loss": meta.loss,
        "skill": sum(skill) / len(skill),
        "skill_by_horizon": skill,
    }
