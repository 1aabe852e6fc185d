"""Scores of a back-test, on the z-scale of the train rows; every origin is scored on all its horizons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrnn.records import F64, Bool, ForecastBatch
from streamrnn.spec import StreamSpec
from streamrnn.transports.files import Table


@dataclass(slots=True)
class Forecasts:
    """By origin row: `mean` [row, channel, horizon], `quantiles` [row, channel, level, horizon]; NaN where none was made."""

    mean: F64
    quantiles: F64

    @classmethod
    def empty(cls, rows: int, spec: StreamSpec) -> Forecasts:
        channels, levels = len(spec.channels), len(spec.quantiles)
        return cls(
            np.full((rows, channels, spec.horizon), np.nan),
            np.full((rows, channels, levels, spec.horizon), np.nan),
        )

    def take(self, batch: ForecastBatch, begin: int) -> None:
        self.mean[begin + batch.tick] = batch.mean
        self.quantiles[begin + batch.tick] = batch.quantiles


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result; `channel` or `horizon` None is the mean over them; `coverage` maps a level to its share."""

    model: str
    channel: str | None
    horizon: int | None
    n: int
    mse: float
    mae: float
    mase: float | None
    pinball: float | None
    coverage: dict[str, float]
    seed: int = 0
    task: str = "forecast"


def score(
    model: str,
    made: Forecasts,
    table: Table,
    spec: StreamSpec,
    train_rows: tuple[int, int],
    score_rows: tuple[int, int],
    season: int,
    seed: int,
) -> list[Row]:
    """Origins t with t + 1 ≥ begin and t + H < end of the scored rows; their targets are rows t + 1 … t + H."""
    horizon = spec.horizon
    known = table.values[slice(*train_rows)]
    center, spread = np.nanmean(known, axis=0), np.nanstd(known, axis=0) + 1e-12
    z = (table.values - center) / spread
    origins = np.arange(max(score_rows[0] - 1, 0), score_rows[1] - horizon)
    target = np.stack([z[origins + k + 1] for k in range(horizon)], axis=2)  # [n, C, H]
    mean = (made.mean[origins] - center[:, None]) / spread[:, None]
    error = mean - target
    usable: Bool = ~np.isnan(error)
    seasonal = np.abs(z[season : train_rows[1]] - z[: train_rows[1] - season])
    scale = np.nanmean(seasonal, axis=0) if len(seasonal) else np.full(len(spec.channels), np.nan)
    levels = np.array(spec.quantiles)
    with_quantiles = not np.isnan(made.quantiles[origins]).all()
    pinball = hit = None
    if with_quantiles:
        quantile = (made.quantiles[origins] - center[:, None, None]) / spread[:, None, None]  # [n, C, Q, H]
        gap = target[:, :, None, :] - quantile
        pinball = np.maximum(levels[:, None] * gap, (levels[:, None] - 1.0) * gap).mean(axis=2)
        hit = gap <= 0.0

    rows: list[Row] = []
    names: list[str | None] = [None, *spec.channels]
    steps: list[int | None] = [None, *range(1, horizon + 1)]
    for name in names:
        c = slice(None) if name is None else slice(spec.channels.index(name), spec.channels.index(name) + 1)
        for step in steps:
            h = slice(None) if step is None else slice(step - 1, step)
            good = usable[:, c, h]
            n = int(good.sum())
            if n == 0:
                continue
            part = error[:, c, h][good]
            scaled = np.abs(error[:, c, h]) / scale[c][None, :, None]
            mase = float(np.nanmean(scaled)) if np.isfinite(scaled).any() else None
            coverage: dict[str, float] = {}
            if hit is not None:
                for q, level in enumerate(spec.quantiles):
                    coverage[f"{level:g}"] = float(hit[:, c, q, h][good].mean())
            rows.append(
                Row(
                    model,
                    name,
                    step,
                    n,
                    float((part**2).mean()),
                    float(np.abs(part).mean()),
                    mase,
                    None if pinball is None else float(np.nanmean(pinball[:, c, h])),
                    coverage,
                    seed,
                )
            )
    return rows


def imputation_rows(
    model: str, fills: dict[tuple[int, int], float], table: Table, hidden: Bool, train_rows: tuple[int, int], seed: int
) -> list[Row]:
    """Errors on the hidden cells, overall and by channel."""
    known = table.values[slice(*train_rows)]
    spread = np.nanstd(known, axis=0) + 1e-12
    rows: list[Row] = []
    for channel in [None, *range(table.values.shape[1])]:
        cells = [(r, c) for r, c in zip(*np.nonzero(hidden), strict=True) if channel is None or c == channel]
        errors = np.array(
            [
                (fills[int(r), int(c)] - table.values[r, c]) / spread[c]
                for r, c in cells
                if (int(r), int(c)) in fills and not np.isnan(table.values[r, c])
            ]
        )
        if len(errors) == 0:
            continue
        name = None if channel is None else table.channels[channel]
        mse, mae = float((errors**2).mean()), float(np.abs(errors).mean())
        rows.append(Row(model, name, None, len(errors), mse, mae, None, None, {}, seed, "imputation"))
    return rows
