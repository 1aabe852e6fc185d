"""`demo`: everything on one machine."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    seconds: Annotated[float | None, typer.Option(min=5.0, help="End after so long, with a summary.")] = None,
    bootstrap_servers: Annotated[
        str | None, typer.Option("--bootstrap-servers", help="Use this Kafka instead of the built-in broker.")
    ] = None,
    kind: Annotated[str, typer.Option(help="sensors, prices or book")] = "sensors",
    series: Annotated[int, typer.Option(min=1)] = 20,
    rate: Annotated[float, typer.Option(min=1.0, help="Ticks a second.")] = 1000.0,
    horizon: Annotated[int, typer.Option(min=1)] = 12,
    http_port: Annotated[int, typer.Option(help="Port of the live page; 0: any.")] = 8080,
    seed: int = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Broker, simulator, worker, trainer and live page, with nothing to install."""
    from streamrnn.app import demo as service

    service.run(
        service.Options(
            seconds=seconds,
            bootstrap_servers=bootstrap_servers,
            kind=kind,
            series=series,
            rate=rate,
            horizon=horizon,
            http_port=http_port,
            seed=seed,
            as_json=as_json,
        )
    )


def register(app: typer.Typer) -> None:
    app.command()(demo)
