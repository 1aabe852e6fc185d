"""`backtest FILE`: the same engine and learner over a file, row by row, against baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamrnn.cli.options import BadUse


def backtest(
    file: Annotated[Path, typer.Argument(help="CSV (also .gz) with one row a step, or JSON lines in the wire format.")],
    time: Annotated[str, typer.Option("--time", help="The column that holds the time.")] = "time",
    channels: Annotated[str | None, typer.Option(help="Comma-separated columns; by default all but the time.")] = None,
    horizon: Annotated[int, typer.Option(min=1)] = 24,
    step: Annotated[str | None, typer.Option(help="Such as 1h; by default the usual distance of two rows.")] = None,
    train_rows: Annotated[
        str | None, typer.Option(help="BEGIN:END, 0-based, end exclusive: they set the z-scale.")
    ] = None,
    score_rows: Annotated[
        str | None, typer.Option(help="BEGIN:END: rows whose values are forecast and scored.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    baselines: Annotated[
        str, typer.Option(help="Comma-separated: persistence,seasonal,rls,ewa,holt-winters,snarimax.")
    ] = ("persistence,seasonal,rls,ewa"),
    season: Annotated[str, typer.Option(help="The seasonal baseline's period.")] = "1d",
    calendar: Annotated[str, typer.Option(help="Periods whose phase the network is shown, such as 1d,7d.")] = "1d,7d",
    train: Annotated[
        bool, typer.Option(help="Let the network learn; without it, persistence is calibrated only.")
    ] = True,
    train_every: Annotated[int, typer.Option(min=1, help="Rows between two rounds of training.")] = 240,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write protocol and scores to this file.")] = None,
    forecasts: Annotated[Path | None, typer.Option(help="Write every forecast, in the wire format.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write plots (PNG) into this folder.")] = None,
    hide: Annotated[Path | None, typer.Option(help="A file of `row,channel` lines: cells to hide and to fill.")] = None,
) -> None:
    """Score the service on a file as if it were a stream: every forecast is fixed before its targets are shown."""
    from streamrnn.service.backtest import Options, run

    run(
        Options(
            file=file,
            time=time,
            channels=tuple(channels.split(",")) if channels else (),
            horizon=horizon,
            step=step,
            train_rows=_rows(train_rows, "--train-rows"),
            score_rows=_rows(score_rows, "--score-rows"),
            seeds=seeds,
            baselines=tuple(name for name in baselines.split(",") if name),
            season=season,
            calendar=tuple(text for text in calendar.split(",") if text),
            train=train,
            train_every=train_every,
            json_out=json_out,
            forecasts_out=forecasts,
            plots=plots,
            hide=hide,
        )
    )


def _rows(text: str | None, option: str) -> tuple[int, int] | None:
    if text is None:
        return None
    begin, sign, end = text.partition(":")
    if not sign or not begin.isdigit() or not end.isdigit() or int(begin) >= int(end):
        raise BadUse(f"{option} {text}: write BEGIN:END with BEGIN below END")
    return int(begin), int(end)


def register(app: typer.Typer) -> None:
    app.command()(backtest)
