"""`simulate KIND`: ticks with a known truth, into a topic or a file."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from streamrnn.cli.options import BadUse, Bootstrap, Config, Sets, overrides, settings_from

Rate = Annotated[float, typer.Option(min=0.0, max=1.0)]


def simulate(
    kind: Annotated[str, typer.Argument(help="sensors, prices or book")],
    config: Config = None,
    sets: Sets = None,
    bootstrap_servers: Bootstrap = None,
    topic: Annotated[
        str | None, typer.Option(help="The topic to send to; by default the configuration's input.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write JSON lines to this file instead.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Write what really was, step by step, to this file.")] = None,
    series: Annotated[int, typer.Option(min=1)] = 20,
    rate: Annotated[float, typer.Option(min=0.0, help="Records a second; 0: flat out.")] = 1000.0,
    slice_ms: Annotated[
        int,
        typer.Option(min=1, max=1000, help="How finely the rate is kept: what is due in so long goes out together."),
    ] = 10,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="End after so long.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many records.")] = None,
    step_ms: Annotated[int, typer.Option(min=1, help="Event time between two ticks of a series.")] = 1000,
    start_ms: Annotated[int | None, typer.Option(help="Event time of the first tick; by default a day ago.")] = None,
    channels: Annotated[
        str | None, typer.Option(help="Comma-separated; by default the configuration's or the kind's.")
    ] = None,
    cycle_steps: Annotated[float, typer.Option(help="sensors: length of a day in steps.")] = 600.0,
    seed: int = 0,
    missing_channels: Rate = 0.0,
    missing_ticks: Rate = 0.0,
    duplicates: Rate = 0.0,
    disorder: Rate = 0.0,
    late: Rate = 0.0,
    spikes: Rate = 0.0,
    poison: Rate = 0.0,
    future: Rate = 0.0,
    drift: Annotated[str, typer.Option(help="step, scale, swap, dead or period, from --drift-at on.")] = "",
    drift_at: Annotated[int, typer.Option(help="The step at which the drift begins.")] = 1000,
    long: Annotated[bool, typer.Option("--long", help="One record per channel.")] = False,
) -> None:
    """Send simulated ticks, with everything that goes wrong at the given rates."""
    from simulators import drive
    from simulators.faults import FaultPlan
    from simulators.registry import make
    from simulators.stream import Ticks

    settings = settings_from(config, overrides(sets, bootstrap_servers)) if config or sets else None
    names = tuple(channels.split(",")) if channels else settings.channels if settings else ()
    try:
        signal = make(kind, series, names, seed, cycle_steps, drift, drift_at)
        plan = FaultPlan(
            missing_channels,
            missing_ticks,
            duplicates,
            disorder,
            late=late,
            spikes=spikes,
            poison=poison,
            future=future,
            seed=seed,
        )
    except ValueError as error:
        raise BadUse(str(error)) from error
    start = start_ms if start_ms is not None else (int(time.time()) - 86_400) * 1000
    ticks = Ticks(signal, plan, start, step_ms, long, keep_truth=truth is not None)
    if out is not None:
        if count is None:
            raise BadUse("--out needs --count: a file cannot be written for ever")
        written, skipped = drive.write_file(out, ticks, count)
        typer.echo(f"{written} records written to {out}, {skipped} left out (not a line of text)", err=True)
    else:
        sent = asyncio.run(_send(settings, bootstrap_servers, topic, ticks, rate, slice_ms / 1000, count, seconds))
        typer.echo(f"{sent} records sent", err=True)
    if truth is not None:
        drive.write_truth(truth, ticks)


async def _send(
    settings: Any,
    bootstrap: str | None,
    topic: str | None,
    ticks: Any,
    rate: float,
    slice_s: float,
    count: int | None,
    seconds: float | None,
) -> int:
    from simulators import drive
    from streamrnn.transports.base import LONG_AGO_S, Deadline
    from streamrnn.transports.kafka.settings import KafkaSettings
    from streamrnn.transports.kafka.transport import KafkaTransport

    if topic is None and settings is None:
        raise BadUse("say where to: --topic and --bootstrap-servers, a configuration with -c, or a file with --out")
    kafka = settings.kafka_settings() if settings else KafkaSettings(bootstrap_servers=bootstrap or "localhost:9092")
    sink = KafkaTransport(kafka).sink()
    await sink.start()
    shown = [LONG_AGO_S]

    def progress(sent: int) -> None:
        if sys.stderr.isatty() and time.monotonic() - shown[0] > 0.5:
            shown[0] = time.monotonic()
            sys.stderr.write(f"\r{sent} records sent")
            sys.stderr.flush()

    try:
        return await drive.produce(
            sink,
            topic or next(iter(settings.written_inputs.names)),
            ticks,
            rate,
            count,
            seconds,
            progress,
            now_ms=lambda: int(time.time() * 1000),
            slice_s=slice_s,
        )
    finally:
        await sink.stop(Deadline(10.0))


def register(app: typer.Typer) -> None:
    app.command()(simulate)
