"""`run` and `train`: the two processes of the service."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrnn.cli.options import Bootstrap, Config, Sets, arguments_again, overrides, settings_from


def run(
    config: Config = None,
    sets: Sets = None,
    bootstrap_servers: Bootstrap = None,
    train: Annotated[str | None, typer.Option(help="auto: supervise a trainer; off: leave it to another.")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of the live page, health and metrics; 0: any.")] = None,
) -> None:
    """Serve: read ticks, send forecasts and filled gaps, until SIGTERM or Ctrl-C."""
    changes = overrides(sets, bootstrap_servers, train=train, http__port=http_port)
    settings = settings_from(config, changes)
    from streamrnn.runtime import logs
    from streamrnn.serving import worker

    logs.configure(settings.log.level, settings.log.format)
    worker.run(settings, arguments_again(config, {**changes, "train": "off"}))


def train(
    config: Config = None,
    sets: Sets = None,
    bootstrap_servers: Bootstrap = None,
    supervised: Annotated[
        bool, typer.Option("--supervised", help="As a worker's child: heartbeats on stdout, end when stdin closes.")
    ] = False,
) -> None:
    """Train alone: read the input topic, learn, publish what the gate accepts. On a GPU where there is one."""
    settings = settings_from(config, overrides(sets, bootstrap_servers))
    from streamrnn.runtime import logs
    from streamrnn.training import process

    logs.configure(settings.log.level, settings.log.format)
    process.run(settings, supervised)


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(train)
