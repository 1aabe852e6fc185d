"""A back-test's result for people: a table on the terminal, plots in a folder."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from streamrnn.backtest.intervals import ROLLING, rolling_coverage
from streamrnn.backtest.score import Forecasts, Row, Steps
from streamrnn.records import F64
from streamrnn.spec import StreamSpec
from streamrnn.transports.files import InputError


def table(console: Console, rows: list[Row], document: dict[str, Any]) -> None:
    """Scores with the number of cells behind each, and what became of every row of the file."""
    protocol = document["protocol"]
    made = RichTable(
        title=f"{protocol['file']}, rows {protocol['score_rows'][0]}..{protocol['score_rows'][1]}, "
        f"horizon {protocol['horizon']}: z-scored by the train rows, means over horizons and channels",
        title_justify="left",
    )
    for column in ("model", "n", "MSE", "MAE", "MASE", "pinball"):
        made.add_column(column, justify="left" if column == "model" else "right")
    for model in dict.fromkeys(row.model for row in rows if row.task == "forecast"):
        mine = [
            r for r in rows if r.model == model and r.channel is None and r.horizon is None and r.task == "forecast"
        ]
        made.add_row(
            model,
            f"{mine[0].n:,}",
            _mean([r.mse for r in mine]),
            _mean([r.mae for r in mine]),
            _mean([r.mase for r in mine]),
            _mean([r.pinball for r in mine]),
        )
    console.print(made)
    _intervals(console, rows, protocol)
    hidden = [r for r in rows if r.task == "imputation" and r.channel is None]
    if hidden:
        filled = RichTable(title="hidden cells of the scored rows, filled", title_justify="left")
        for column in ("model", "n", "unfilled", "MSE", "MAE", "inside its interval"):
            filled.add_column(column, justify="left" if column == "model" else "right")
        for model in dict.fromkeys(r.model for r in hidden):
            mine = [r for r in hidden if r.model == model]
            filled.add_row(
                model,
                f"{mine[0].n:,}",
                f"{mine[0].unfilled or 0:,}",
                _mean([r.mse for r in mine]),
                _mean([r.mae for r in mine]),
                _mean([r.coverage.get("inside") for r in mine]),
            )
        console.print(filled)
    refused = document["rows_refused"]
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in refused.items())
    series = f" in {protocol['series']} series" if protocol["series"] > 1 else ""
    accounts = f"{protocol['rows']:,} rows{series}: {document['rows_used']:,} used, {sum(refused.values()):,} refused"
    console.print(accounts + (f" ({reasons})" if reasons else ""), highlight=False)
    for note in document["notes"]:
        console.print(f"- {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{document['wall_s']} s, {document['peak_rss_mb']} MB at most", highlight=False)


def _intervals(console: Console, rows: list[Row], protocol: dict[str, Any]) -> None:
    whole = [r for r in rows if r.task == "forecast" and r.channel is None and r.horizon is None]
    if all(r.inside is None for r in whole):
        return
    levels = protocol["quantiles"]
    made = RichTable(
        title=f"intervals of {levels[-1] - levels[0]:.3g}; baselines: normal, of the EWMA of their squared errors",
        title_justify="left",
    )
    for column in ("model", "inside", "of 500 rows", "width", "Winkler", "CRPS", "NLL"):
        made.add_column(column, justify="left" if column == "model" else "right")
    for model in dict.fromkeys(r.model for r in whole):
        mine = [r for r in whole if r.model == model]
        least, most = [r.rolling_min for r in mine], [r.rolling_max for r in mine]
        known = [value for value in (*least, *most) if value is not None]
        made.add_row(
            model,
            _mean([r.inside for r in mine]),
            f"{min(known):.3f}..{max(known):.3f}" if known else "–",
            _mean([r.width for r in mine]),
            _mean([r.winkler for r in mine]),
            _mean([r.crps for r in mine]),
            _mean([r.nll for r in mine]),
        )
    console.print(made)


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.4f}{spread}"


def plots(
    folder: Path,
    rows: list[Row],
    forecasts: Forecasts,
    swaps: list[int],
    steps: Steps,
    spec: StreamSpec,
    score_rows: tuple[int, int],
) -> None:
    """Error, coverage and interval scores by horizon; error with the swaps, and coverage, over time; one fan.

    Of a panel the last three show its first series.

    Raises InputError without matplotlib.
    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
    except ImportError as error:
        raise InputError("--plots needs pip install 'streamrnn[plots]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    by_horizon: dict[str, list[Row]] = {}
    for row in rows:
        if row.channel is None and row.horizon is not None and row.task == "forecast" and row.seed == 0:
            by_horizon.setdefault(row.model, []).append(row)

    _by_horizon(folder, by_horizon, spec.quantiles)
    one = np.flatnonzero((steps.series == 0) & steps.real)
    values, mean = steps.values[one], forecasts.mean[one]
    _error_over_time(folder, values, mean, swaps)
    if forecasts.quantiles is not None and len(one) > ROLLING:
        _coverage_over_time(folder, values, forecasts.quantiles[one], spec)
    middle = steps.rows[(score_rows[0] + score_rows[1]) // 2]
    origin = int(np.clip(np.searchsorted(steps.step[one], middle), 0, len(one) - 1))
    fan = None if forecasts.quantiles is None else forecasts.quantiles[one[origin], 0]
    _fan(folder, values, mean, fan, origin, spec)


def _by_horizon(folder: Path, by_horizon: Mapping[str, list[Row]], levels: Sequence[float]) -> None:
    """Error, calibration and interval scores; `by_horizon`: the rows of each model, in the order of their horizons."""
    import matplotlib.pyplot as plt

    def line(axes: Any, name: str, title: str, unit: str) -> None:
        for model, mine in by_horizon.items():
            scores = [getattr(r, name) for r in mine]
            axes.plot(
                [r.horizon or 0 for r in mine],
                [np.nan if value is None else value for value in scores],
                marker=".",
                label=model,
                lw=2.5 if model == "streamrnn" else 1.2,
            )
        axes.set(xlabel="horizon (steps)", ylabel=unit, title=title)

    figure, axes = plt.subplots(figsize=(8, 4.5))
    line(axes, "mse", "Error by horizon", "MSE (z-scale)")
    axes.legend()
    _save(figure, folder / "error_by_horizon.png")

    figure, axes = plt.subplots(figsize=(8, 4.5))
    for level in levels:
        shares = [r.coverage[f"{level:g}"] for r in by_horizon["streamrnn"]]
        axes.plot(range(1, len(shares) + 1), shares, marker=".", label=f"{level:g}")
        axes.axhline(level, color="grey", lw=0.6)
    axes.set(
        xlabel="horizon (steps)", ylabel="share of targets at or below", title="Calibration by horizon", ylim=(0, 1)
    )
    axes.legend(title="quantile", ncol=4)
    _save(figure, folder / "calibration_by_horizon.png")

    figure, both = plt.subplots(1, 2, figsize=(11, 4.5))
    line(both[0], "crps", "CRPS", "z-scale")
    line(both[1], "winkler", "Interval (Winkler) score", "z-scale")
    both[0].legend()
    _save(figure, folder / "intervals_by_horizon.png")


def _error_over_time(folder: Path, values: F64, mean: F64, swaps: list[int]) -> None:
    """One step ahead, with the rows at which weights came into use; `values` [row, channel], `mean` [row, channel, horizon]."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.5))
    spread = np.nanstd(values, axis=0)
    spread[~(spread > 0.0)] = np.nan
    miss = np.abs(mean[:-1, :, 0] - values[1:]) / spread
    naive = np.abs(values[:-1] - values[1:]) / spread
    width = max(24, len(miss) // 100)
    for errors, label in ((miss, "streamrnn"), (naive, "persistence")):
        known = np.isfinite(errors)
        means = np.where(known, errors, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        smooth = np.convolve(means, np.ones(width) / width, "valid")
        axes.plot(np.arange(len(smooth)) + width, smooth, label=label)
    for swap in swaps:
        axes.axvline(swap, color="grey", lw=0.4)
    axes.set(xlabel="row", ylabel=f"one-step error, mean of {width} rows", title="Error over time (grey: new weights)")
    axes.legend()
    _save(figure, folder / "error_over_time.png")


def _coverage_over_time(folder: Path, values: F64, quantiles: F64, spec: StreamSpec) -> None:
    """Of the outer interval one step ahead; `quantiles` [row, channel, level, horizon]."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.5))
    low, high = quantiles[:-1, :, 0, 0], quantiles[:-1, :, -1, 0]
    for c, channel in enumerate(spec.channels[:12]):
        known = np.flatnonzero(np.isfinite(low[:, c]) & np.isfinite(high[:, c]) & np.isfinite(values[1:, c]))
        within = (values[1:, c] >= low[:, c]) & (values[1:, c] <= high[:, c])
        rolling = rolling_coverage(within[known], np.zeros(len(known), dtype=np.int64))
        axes.plot(known[ROLLING - 1 :] + 1, rolling, label=channel, lw=0.9)
    axes.axhline(spec.quantiles[-1] - spec.quantiles[0], color="grey", lw=0.6)
    axes.set(xlabel="row", ylabel=f"share inside, {ROLLING} rows", title="Coverage of the one-step interval over time")
    axes.legend(ncol=4)
    _save(figure, folder / "coverage_over_time.png")


def _fan(folder: Path, values: F64, mean: F64, fan: F64 | None, origin: int, spec: StreamSpec) -> None:
    """The first channel before and after one forecast; `fan` [level, horizon]: its quantiles."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.5))
    past = slice(max(0, origin - 3 * spec.horizon), origin + spec.horizon + 1)
    shown = range(past.start, past.start + len(values[past]))
    axes.plot(shown, values[past, 0], color="black", label="actual")
    ahead = np.arange(origin + 1, origin + 1 + spec.horizon)
    axes.plot(ahead, mean[origin, 0], label="forecast")
    if fan is not None:
        axes.fill_between(ahead, fan[0], fan[-1], alpha=0.3)
    axes.set(title=f"{spec.channels[0]}: one forecast with its outer interval", xlabel="row")
    axes.legend()
    _save(figure, folder / "fan.png")


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
