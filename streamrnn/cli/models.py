"""`models list|show|rollback|pin|unpin`: the weights in the models topic."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamrnn.cli.options import AsJson, BadUse, Bootstrap, Config, Sets, overrides, settings_from
from streamrnn.durations import format_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from streamrnn.config.settings import Settings
    from streamrnn.stores.models import Manifest

app = typer.Typer(help="The weights in the models topic.", no_args_is_help=True)
ModelId = Annotated[str, typer.Argument(help="The weights' id, as `models list` shows it.")]


@app.command("list")
def list_models(
    config: Config = None, sets: Sets = None, bootstrap_servers: Bootstrap = None, as_json: AsJson = False
) -> None:
    """List the versions: the one in use marked with *, those that were rolled back from with x, pinned ones with +."""
    rows = asyncio.run(_with_follower(settings_from(config, overrides(sets, bootstrap_servers))))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("no weights yet: forecasts are persistence with calibrated intervals")
    for row in rows:
        mark = "*" if row["current"] else "x" if row["refused"] else " "
        pin = "+" if row["pinned"] else " "
        typer.echo(f"{mark}{pin} {row['id']}  round {row['round']:<4} loss {row['loss']:.4f}  adds {row['gain']:.1%}")


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


@app.command("pin")
def pin(model: ModelId, config: Config = None, sets: Sets = None, bootstrap_servers: Bootstrap = None) -> None:
    """Have these weights kept, whatever learn.keep is: as long as they are pinned they can be rolled back to."""
    asyncio.run(_with_follower(settings_from(config, overrides(sets, bootstrap_servers)), pinned=(model, True)))
    typer.echo(f"{model} is kept until `streamrnn models unpin {model}`")


@app.command("unpin")
def unpin(model: ModelId, config: Config = None, sets: Sets = None, bootstrap_servers: Bootstrap = None) -> None:
    """Let the trainer delete these weights when learn.keep newer ones are there."""
    settings = settings_from(config, overrides(sets, bootstrap_servers))
    asyncio.run(_with_follower(settings, pinned=(model, False)))
    typer.echo(f"{model} is kept for as long as it is among the newest {settings.learn.keep}")


async def _with_follower(
    settings: Settings, roll_back_to: str | None = None, pinned: tuple[str, bool] | None = None
) -> list[dict[str, Any]]:
    """The versions; before that goes back to one of them, or pins one. Raises BadUse."""
    from streamrnn.model.weights import WeightsError, fitted
    from streamrnn.stores.models import PINS_MAX, ModelsFollower, ModelsWriter, rolled_back
    from streamrnn.stream.forecasting import inputs_of
    from streamrnn.transports.base import Deadline
    from streamrnn.transports.kafka.transport import KafkaTransport

    transport = KafkaTransport(settings.kafka_settings())
    follower = ModelsFollower(transport, settings.topics.models)
    await follower.start()
    try:
        await follower.catch_up()
        current = follower.pointer.id if follower.pointer else None
        refused = follower.pointer.refused if follower.pointer else ()
        named = roll_back_to if pinned is None else pinned[0]
        if named is not None:
            taken_back = pinned is not None and not pinned[1]
            if follower.blob(named) is None and not (taken_back and named in follower.pinned):
                raise BadUse(f"no whole weights {named}: `streamrnn models list` shows what there is")
            if pinned is not None and pinned[1] and len(follower.pinned - {named}) >= PINS_MAX:
                raise BadUse(f"{PINS_MAX} weights are pinned already: `streamrnn models unpin` one of them first")
            if roll_back_to is not None:
                try:
                    fitted(follower.blob(roll_back_to) or b"", settings.meaning(), inputs_of(settings.stream_spec()))
                except WeightsError as error:  # no worker of this configuration would serve them
                    raise BadUse(f"{roll_back_to}: {error}") from error
            sink = transport.sink()
            await sink.start()
            try:
                writer, now_ms = ModelsWriter(sink, settings.topics.models), int(time.time() * 1000)
                if pinned is not None:
                    await writer.pin(*pinned, now_ms)
                else:
                    await writer.point(rolled_back(follower.pointer, named, now_ms))
            finally:
                await sink.stop(Deadline(5.0))
    finally:
        await follower.stop(Deadline(5.0))
    return [_row(manifest, current, refused, follower.pinned) for manifest in follower.manifests.values()]


def _row(manifest: Manifest, current: str | None, refused: Sequence[str], pinned: Collection[str]) -> dict[str, Any]:
    """What is said of one version; of a manifest that somebody else wrote, no more than its id may make sense."""
    import msgspec

    from streamrnn.model.weights import WeightsMeta

    try:
        meta = msgspec.convert(manifest.meta, WeightsMeta)
    except msgspec.ValidationError:
        meta = WeightsMeta()
    gain = meta.gain or [0.0]
    return {
        **manifest.meta,
        "id": manifest.id,
        "bytes": manifest.bytes,
        "current": manifest.id == current,
        "refused": manifest.id in refused,
        "pinned": manifest.id in pinned,
        "round": meta.round,
        "loss": meta.loss,
        "gain": sum(gain) / len(gain),
        "gain_by_rung": gain,
    }
