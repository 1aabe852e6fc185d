"""`backtest FILE`: the same engine and learner over a file, row by row, against baselines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from streamrnn.cli.options import BadUse, Config, Sets, overrides, settings_from
from streamrnn.runtime.exit_codes import ExitCode


class Duplicates(StrEnum):
    first = "first"
    last = "last"


class Align(StrEnum):
    floor = "floor"
    nearest = "nearest"


class Decimal(StrEnum):
    point = "."
    comma = ","


def backtest(
    file: Annotated[
        Path,
        typer.Argument(help="CSV (also .gz) or Parquet with one row a step, or JSON lines as the service reads them."),
    ],
    config: Config = None,
    sets: Sets = None,
    time: Annotated[
        str, typer.Option("--time", help="The column that holds the time; of two columns, Date,Time.")
    ] = "time",
    time_format: Annotated[
        str | None,
        typer.Option(help="How times are written: strptime (such as %d/%m/%Y), or s, ms, us, ns since 1970, or excel."),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            help="Zone of times without an offset, such as Europe/London (default UTC), and of steps of days and months. "
            "A local time that happens twice is read by the order of the rows; one that never does is refused."
        ),
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="The column that names a row's series (several: a,b joined by /).")
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="Comma-separated columns; by default all that hold numbers.")
    ] = None,
    decimal: Annotated[
        Decimal | None, typer.Option(help="The decimal mark; by default what each column proves.")
    ] = None,
    missing: Annotated[
        list[str] | None, typer.Option(help="A further word for a missing value, such as '?'; may be repeated.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Steps ahead; 24 without a configuration.")] = None,
    step: Annotated[
        str | None, typer.Option(help="Such as 1h, 1d, 1mo; by default the usual distance of two rows.")
    ] = None,
    align: Annotated[
        Align | None, typer.Option(help="nearest: a time just before a step's edge belongs to the step it is near to.")
    ] = None,
    duplicates: Annotated[
        Duplicates | None,
        typer.Option(
            help="Which of several rows with one time counts. Without it the first, and the others are refused."
        ),
    ] = None,
    train_rows: Annotated[
        str | None,
        typer.Option(
            help="BEGIN:END, 0-based, end exclusive: they set the z-scale. Rows are counted by their time, oldest first, "
            "in panels over all series."
        ),
    ] = None,
    score_rows: Annotated[
        str | None, typer.Option(help="BEGIN:END: rows whose values are forecast and scored.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    baselines: Annotated[
        str,
        typer.Option(
            help="Comma-separated: persistence,ewma94,seasonal,rls,ewa,holt-winters,snarimax; ppc,lebre,fracast where they "
            "are installed; path:FOLDER with the weights that --keep wrote."
        ),
    ] = ("persistence,seasonal,rls,ewa"),
    season: Annotated[
        str | None,
        typer.Option(
            help="What repeats: auto, off, 1d, or 1d,7d (the second on top). The seasonal baseline takes the first; by default "
            "1d, of daily rows 1w, of longer steps 1y."
        ),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(
            help="auto, full, light, off, or names: season-ago,profile,moves,deviations,stack; beside the last value and the "
            "network."
        ),
    ] = None,
    calendar: Annotated[
        str | None, typer.Option(help="Periods whose phase the network is shown; 1d,7d without a configuration.")
    ] = None,
    train: Annotated[
        bool, typer.Option(help="Let the network learn; without it, persistence is calibrated only.")
    ] = True,
    train_every: Annotated[int, typer.Option(min=1, help="Rows between two rounds of training.")] = 240,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write protocol and scores to this file.")] = None,
    forecasts: Annotated[Path | None, typer.Option(help="Write every forecast, in the wire format.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write plots (PNG) into this folder.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Write the weights that served last into this folder.")] = None,
    hide: Annotated[
        Path | None,
        typer.Option(help="A file of `row,channel` lines (panels: `row,channel,series`): cells to hide and to fill."),
    ] = None,
    allow_refused: Annotated[
        bool, typer.Option("--allow-refused", help="Rows may be refused: they are counted, and the exit code is 0.")
    ] = False,
) -> None:
    """Score the service on a file as if it were a stream: every forecast is fixed before its targets are shown.

    Every row is accounted for. Where rows were refused the scores are written, and the exit code is 7.
    """
    from streamrnn.backtest.run import Options, run

    changes = overrides(sets)
    accounts = run(
        Options(
            file=file,
            time=time,
            channels=_list(channels),
            horizon=horizon,
            step=step,
            train_rows=_rows(train_rows, "--train-rows"),
            score_rows=_rows(score_rows, "--score-rows"),
            seeds=seeds,
            baselines=_list(baselines),
            season=_first_season(season),
            seasons=season,
            experts=experts,
            calendar=None if calendar is None else _list(calendar),
            train=train,
            train_every=train_every,
            json_out=json_out,
            forecasts_out=forecasts,
            plots=plots,
            keep=keep,
            hide=hide,
            settings=settings_from(config, changes) if config else None,
            changes={} if config else changes,
            series=_list(series),
            time_format=time_format,
            timezone=timezone,
            decimal=None if decimal is None else decimal.value,
            missing=tuple(missing or ()),
            duplicates=None if duplicates is None else duplicates.value,
            align=None if align is None else align.value,
            allow_refused=allow_refused,
        )
    )
    if accounts.unasked and not allow_refused:
        why = "; ".join(accounts.hints) or ", ".join(f"{count} {reason}" for reason, count in accounts.refused.items())
        typer.echo(
            f"streamrnn: {accounts.unasked} of {accounts.total} rows were refused, and the scores are those of the others "
            f"(--allow-refused accepts this): {why}",
            err=True,
        )
        raise typer.Exit(ExitCode.ROWS_REFUSED)


def _list(text: str | None) -> tuple[str, ...]:
    return tuple(part for part in (text or "").split(",") if part)


def _first_season(text: str | None) -> str | None:
    """The period of the seasonal baseline, where one is named."""
    return next((part for part in _list(text) if part not in ("auto", "off")), None)


def _rows(text: str | None, option: str) -> tuple[int, int] | None:
    if text is None:
        return None
    begin, sign, end = text.partition(":")
    if not sign or not begin.isdigit() or not end.isdigit() or int(begin) >= int(end):
        raise BadUse(f"{option} {text}: write BEGIN:END with BEGIN below END")
    return int(begin), int(end)


def register(app: typer.Typer) -> None:
    app.command()(backtest)
