"""Accuracy: every development row through the product's own back-test, one process a row, beside the bars.

    python tests/benchmarks/accuracy.py --data DIR [--rows 'ETTh1-A-*,NAB-1'] [--train off] [--experts a,b] [--seeds 3]
        [--baselines rls,ewa] [--set KEY=VALUE] [--json OUT] [--list]

`--data` (or STREAMRNN_DATA) is the folder of the public sets: ETTh1, ETTh2, ETTm1, AirQualityUCI, CTA_ridership_daily,
elec2_normalised (`.csv.gz`), and nab/, prices/, skab/. One set of defaults serves all rows. `--train off`: the mixture
without the network. `--experts a,b`: only these beside persistence; `--experts none` with training: the network alone.
`--set` changes a setting, as on the command line of the service. Rows run one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import accuracy_rows as rows_of
from accuracy_rows import Bench, benches

from streamrnn.backtest.run import Measured, Options, measure
from streamrnn.backtest.score import Row, origins_of, targets_of
from streamrnn.records import F64
from streamrnn.season import DAY_TYPE, SeasonSetting, season_of

Figures = dict[str, float | None]
Found = dict[str, Figures]  # by model

SCORES = ("mse", "mae", "mase", "pinball", "crps", "nll", "winkler", "width", "rolling_min", "rolling_max")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


# ── figures of one back-test ─────────────────────────────────────────────────────────────────────────────────────────


def means(rows: list[Row], task: str = "forecast", channel: str | None = None) -> Found:
    """Each model's scores, the mean over its seeds (`mse_sd`: their spread), with its error over persistence."""
    found: Found = {}
    for model in dict.fromkeys(row.model for row in rows if row.task == task):
        mine = [row for row in rows if row.model == model and row.task == task and row.channel == channel]
        whole = [row for row in mine if row.horizon is None]
        figures: Figures = {"n": whole[0].n}
        for name in SCORES:
            values = [getattr(row, name) for row in whole]
            known = [value for value in values if value is not None]
            if known:
                figures[name] = fmean(known)
        errors = [row.mse for row in whole if row.mse is not None]
        if len(errors) > 1:
            figures["mse_sd"] = stdev(errors)
        if all(row.inside is not None for row in whole):
            figures["coverage"] = fmean(row.inside or 0.0 for row in whole)
            by_horizon: dict[int | None, list[float]] = {}
            for row in mine:
                if row.horizon is not None:
                    by_horizon.setdefault(row.horizon, []).append(row.inside or 0.0)
            shares = [fmean(each) for each in by_horizon.values()]
            figures |= {"coverage_min": min(shares), "coverage_max": max(shares)}
        elif all("inside" in row.coverage for row in whole):
            figures["coverage"] = fmean(row.coverage["inside"] for row in whole)
        if task == "imputation":
            figures["unfilled"] = fmean(row.unfilled or 0 for row in whole)
        found[model] = figures
    anchor = found.get("persistence", {}).get("mse")
    for figures in found.values():
        if anchor and figures.get("mse") is not None:
            figures["ratio"] = float(figures["mse"] or 0.0) / anchor
    return found


def squares(found: Measured, model: str) -> tuple[Any, F64]:
    """One-step errors on the z-scale of a model's first seed, squared: rows of the targets [n], [n, channel]."""
    made = next(each for name, seed, each in found.models if name == model and seed == 0)
    origins = origins_of(found.steps, found.score_rows, 1)
    error = (made.mean[origins, :, 0] - targets_of(found.steps, origins, 1)[:, :, 0]) / found.scale.spread[0]
    return np.searchsorted(found.steps.rows, found.steps.step[origins]) + 1, error**2


# ── kinds of rows ────────────────────────────────────────────────────────────────────────────────────────────────────


def options_of(bench: Bench, file: Path, given: Mapping[str, Any], **more: Any) -> Options:
    time_format = bench.more.get("time_format")
    chosen: dict[str, Any] = {
        "file": file,
        "time": bench.time,
        "channels": bench.channels,
        "horizon": bench.horizon,
        "step": bench.step,
        "train_rows": bench.train,
        "score_rows": bench.scored,
        "time_format": time_format if isinstance(time_format, str) else None,
        "seeds": given["seeds"],
        "baselines": tuple(dict.fromkeys(("persistence", *given["baselines"]))),
        "train": given["train"],
        "changes": given["changes"],
        "spec_changes": {
            key: tuple(value) if isinstance(value, list) else value for key, value in given["spec"].items()
        },
        "allow_refused": True,
    }
    return Options(**(chosen | more))


def forecast(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    return means(measure(options_of(bench, rows_of.prepared(bench, data, folder), given)).rows())


def interval(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    """Width and Winkler score in standard deviations of the scored rows."""
    found = measure(options_of(bench, rows_of.prepared(bench, data, folder), given))
    figures = means(found.rows())
    begin, end = found.score_rows
    unit = float(found.scale.spread[0, 0] / np.nanstd(found.steps.values[found.steps.real][begin:end, 0]))
    for each in figures.values():
        for name in ("winkler", "width"):
            if each.get(name) is not None:
                each[name] = float(each[name] or 0.0) * unit
    return figures


def riders(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    file = rows_of.prepared(bench, data, folder)
    more: dict[str, Any] = {}
    if bench.more.get("day_type"):
        # The calendar of the days to come is known: Sundays' timetables on these dates.
        setting = SeasonSetting(False, (), DAY_TYPE, rows_of.holidays(file))
        more["spec_changes"] = given["spec"] | {"seasons": season_of(setting, 86_400_000, None, bench.horizon)}
    found = measure(options_of(bench, file, given, **more))
    channel = str(bench.more["of"])
    figures = means(found.rows(), channel=channel)
    spread = float(found.scale.spread[0, bench.channels.index(channel)])
    for each in figures.values():
        each["riders"] = float(each["mae"] or 0.0) * spread
    return figures


def price(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    """NLL in units of the data (log returns), CRPS over the mean absolute return, each beside EWMA .94."""
    names = tuple(dict.fromkeys(("persistence", "ewma94", *given["baselines"])))
    found = measure(options_of(bench, rows_of.prepared(bench, data, folder), given, baselines=names))
    figures = means(found.rows())
    move = float(figures["persistence"]["mae"] or 0.0)
    for each in figures.values():
        if each.get("nll") is not None and each.get("crps") is not None:
            each["nll"] = float(each["nll"] or 0.0) + float(np.log(found.scale.spread[0, 0]))
            each["crps_over_mean_move"] = float(each["crps"] or 0.0) / move
    opponent = figures["ewma94"]
    for each in figures.values():
        if each.get("nll") is not None and opponent.get("nll") is not None:
            each["nll_less_ewma"] = float(each["nll"] or 0.0) - float(opponent["nll"] or 0.0)
            each["crps_over_ewma"] = float(each["crps"] or 0.0) / float(opponent["crps"] or 1.0)
    return figures


def fill(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    """Mean over the masks of seeds 0, 1, 2. The masks are what is drawn: the network has one seed."""
    file = rows_of.prepared(bench, data, folder)
    kind, share, size = bench.more["mask"]  # type: ignore[misc]
    window = int(str(bench.more["window"]))
    channels = len(rows_of.table_of(file)[0]) - 1
    parts: list[Found] = []
    for seed in range(3):
        cells = rows_of.hidden_cells(kind, share, size, window, bench.scored, channels, seed)
        hide = folder / f"hide-{seed}.csv"
        hide.write_text("".join(f"{row},{c}\n" for row, c in cells), encoding="utf-8")
        options = options_of(bench, file, given, hide=hide, seeds=1, baselines=("persistence",))
        parts.append(means(measure(options).rows(), "imputation"))
    found: Found = {}
    for model in parts[0]:
        names = set.intersection(*(set(part[model]) for part in parts))
        found[model] = {name: fmean(float(part[model][name] or 0.0) for part in parts) for name in sorted(names)}
        found[model]["mae_sd"] = stdev(float(part[model]["mae"] or 0.0) for part in parts)
    return found


def cold(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    found = measure(options_of(bench, rows_of.prepared(bench, data, folder), given))
    later = bench.horizon - 1
    first, second = means(found.rows((1, 201 + later))), means(found.rows((201, 1001 + later)))
    for model, figures in first.items():
        figures["first_200"], figures["200_to_1000"] = figures.get("ratio"), second[model].get("ratio")
    return first


def nab(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    """Scored after the first 15 % of each set (NAB's own probation)."""
    ratios: dict[str, dict[str, float]] = {}
    inside_of: dict[str, list[float]] = {}
    for path, count in rows_of.nab(data, folder):
        warm = int(0.15 * count)
        found = measure(options_of(bench, path, given, train_rows=(0, warm), score_rows=(warm, count)))
        for model, figures in means(found.rows()).items():
            ratios.setdefault(model, {})[path.stem] = float(figures["ratio"] or np.nan)
            if figures.get("coverage") is not None:
                inside_of.setdefault(model, []).append(float(figures["coverage"] or 0.0))
    made: Found = {}
    for model, each in ratios.items():
        values = np.array(list(each.values()))
        made[model] = {"ratio": float(np.exp(np.log(values).mean())), "worst": float(values.max())}
        if model in inside_of:
            made[model] |= {"coverage_min": min(inside_of[model]), "coverage_max": max(inside_of[model])}
        made[model] |= {f"ratio {name}": value for name, value in each.items()}
    return made


def skab(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    ratios: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    for path, count, changes in rows_of.skab(data, folder):
        options = options_of(bench, path, given, train_rows=(0, 400), score_rows=(400, count))
        found = measure(options)
        for model, figures in means(found.rows()).items():
            ratios.setdefault(model, []).append(float(figures["ratio"] or np.nan))
        row, base = squares(found, "persistence")
        for model in ratios:
            mine = squares(found, model)[1]
            for change in changes:
                near = (row >= change) & (row < change + 200)
                if near.any():
                    after.setdefault(model, []).append(float(np.nansum(mine[near]) / np.nansum(base[near])))
    return {
        model: {"ratio": fmean(each), "worst": max(each), "ratio_200_after": fmean(after[model])}
        for model, each in ratios.items()
    }


def change(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    found = measure(options_of(bench, rows_of.prepared(bench, data, folder), given))
    return _after(found, int(str(bench.more["change"])), None)


def drift(bench: Bench, data: Path, folder: Path, given: Mapping[str, Any]) -> Found:
    found = measure(options_of(bench, rows_of.prepared(bench, data, folder), given))
    live = slice(1, None) if bench.file == "dead" else slice(None)
    before = rows_of.oracle("none")[live] / found.scale.spread[0, live] ** 2
    after = rows_of.oracle(bench.file)[live] / found.scale.spread[0, live] ** 2
    return _after(found, rows_of.CHANGE, (float(before.mean()), float(after.mean())), live)


def _after(found: Measured, at: int, oracle: tuple[float, float] | None, live: slice = slice(None)) -> Found:
    """Error over persistence before the change and in the 200 steps after it; steps until it is as before.

    As before: the mean of 100 steps is within 10 % of the error before, in units of the best possible error where that is
    known, else of persistence's. `outside_3` counts one-step values beyond three times the outer interval's half, before
    the change, in 10,000 steps: false alarms.
    """
    row, base = squares(found, "persistence")
    early, late = row < at, (row >= at) & (row < at + 200)
    made = means(found.rows())
    for model, figures in made.items():
        error = np.nanmean(squares(found, model)[1][:, live], axis=1)
        unit_before = oracle[0] if oracle else float(np.nanmean(base[early][:, live]))
        figures["ratio_before"] = float(np.nanmean(error[early]) / np.nanmean(base[early][:, live]))
        figures["ratio_200_after"] = float(np.nanmean(error[late]) / np.nanmean(base[late][:, live]))
        if oracle:
            figures["over_oracle_before"] = float(np.nanmean(error[early])) / oracle[0]
            figures["over_oracle_200_after"] = float(np.nanmean(error[late])) / oracle[1]
        usual = float(np.nanmean(error[early])) / unit_before
        rest = error[row >= at]
        ahead = np.convolve(np.nan_to_num(rest), np.ones(100) / 100, "valid")
        if oracle:
            again = np.flatnonzero(ahead <= 1.1 * usual * oracle[1])
            figures["steps_until_as_before"] = float(again[0]) if len(again) else None
        outside = _outside(found, model, early)
        if outside is not None:
            figures["outside_3_in_10000"] = outside
    return made


def _outside(found: Measured, model: str, chosen: Any) -> float | None:
    made = next(each for name, seed, each in found.models if name == model and seed == 0)
    if made.quantiles is None:
        return None
    origins = origins_of(found.steps, found.score_rows, 1)
    target = targets_of(found.steps, origins, 1)[:, :, 0]
    low, high = made.quantiles[origins, :, 0, 0], made.quantiles[origins, :, -1, 0]
    far = np.abs(target - (low + high) / 2) > 1.5 * (high - low)
    return float(10_000 * far[chosen].mean())


KINDS: dict[str, Callable[[Bench, Path, Path, Mapping[str, Any]], Found]] = {
    "forecast": forecast,
    "interval": interval,
    "riders": riders,
    "price": price,
    "fill": fill,
    "cold": cold,
    "nab": nab,
    "skab": skab,
    "change": change,
    "drift": drift,
}


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def one(name: str, data: Path, given: Mapping[str, Any], out: Path) -> None:
    """Measures one row in this process, and writes its figures by model."""
    bench = next(each for each in benches() if each.name == name)
    with tempfile.TemporaryDirectory() as folder:
        found = KINDS[bench.kind](bench, data, Path(folder), given)
    out.write_text(json.dumps(found), encoding="utf-8")


def apart(bench: Bench, data: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The row in a process of its own: figures, wall and processor time, peak memory, or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        out, said = Path(folder) / "out.json", Path(folder) / "said"
        command = [sys.executable, __file__, "--one", bench.name, "--data", str(data), "--given", json.dumps(given)]
        began = time.perf_counter()
        with said.open("wb") as errors:
            child = subprocess.Popen(
                [*command, "--json", str(out)], stdout=errors, stderr=errors, env=os.environ | ONE_THREAD
            )
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        cost = {
            "wall_s": round(time.perf_counter() - began, 1),
            "cpu_s": round(used.ru_utime + used.ru_stime, 1),
            "peak_mb": round(used.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2), 1),
        }
        if child.returncode != 0:
            return {"failed": said.read_text(errors="replace")[-2000:], **cost}
        return {"found": json.loads(out.read_text(encoding="utf-8")), **cost}


def table(done: list[tuple[Bench, dict[str, Any]]], others: list[str]) -> str:
    """Markdown: a line for each bar, with the other models' figure beside it, then the row's cost."""
    head = ["row", "figure", "streamrnn", "pass", "goal", "", *others, "wall s", "cpu s", "MB"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for bench, result in done:
        cost = [f"{result['wall_s']:.1f}", f"{result['cpu_s']:.1f}", f"{result['peak_mb']:.0f}"]
        if "failed" in result:
            lines.append("| " + " | ".join([bench.name, "failed", *[""] * (len(head) - 5), *cost]) + " |")
            continue
        found: Found = result["found"]
        bars = bench.bars or tuple(
            rows_of.Bar(name, float("inf"))
            for name in ("ratio", "ratio_200_after", "over_oracle_200_after", "steps_until_as_before")
            if name in found["streamrnn"]
        )
        for k, bar in enumerate(bars):
            value = found["streamrnn"].get(bar.figure)
            passes = (
                ""
                if bar.passes == float("inf")
                else f"{bar.low:g}..{bar.passes:g}"
                if bar.low is not None
                else f"{bar.passes:g}"
            )
            lines.append(
                "| "
                + " | ".join(
                    [
                        bench.name if k == 0 else "",
                        bar.figure,
                        _said(value),
                        passes,
                        f"{bar.goal:g}" if bar.goal is not None else "",
                        bar.verdict(value) if passes else "",
                        *[_said(found.get(other, {}).get(bar.figure)) for other in others],
                        *(cost if k == 0 else ["", "", ""]),
                    ]
                )
                + " |"
            )
    return "\n".join(lines)


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4f}"


def chosen(patterns: str) -> list[Bench]:
    every = benches()
    wanted = [part.strip() for part in patterns.split(",") if part.strip()]
    found = [bench for bench in every if any(fnmatch(bench.name, pattern) for pattern in wanted)]
    for pattern in wanted:
        if not any(fnmatch(bench.name, pattern) for bench in every):
            raise SystemExit(f"--rows {pattern}: no such row; --list names them")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("STREAMRNN_DATA"), help="default: $STREAMRNN_DATA")
    parser.add_argument("--rows", default="*", help="names or patterns, comma-separated")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--train", choices=("auto", "off"), default="auto")
    parser.add_argument("--seeds", type=int, help="default 3, without training 1: nothing is drawn then")
    parser.add_argument("--experts", help="comma-separated, or none: only these beside persistence (and the network)")
    parser.add_argument("--baselines", default="", help="comma-separated, beside persistence")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--given", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.data, json.loads(options.given), options.json)
        return
    benches_chosen = chosen(options.rows)
    if options.list:
        for bench in benches_chosen:
            print(f"{bench.name:22} {bench.what}")
        return
    if options.data is None or not options.data.is_dir():
        raise SystemExit(f"--data {options.data or ''}: give the folder of the data sets, or set STREAMRNN_DATA")
    sets = dict(item.partition("=")[::2] for item in options.sets)
    spec: dict[str, Any] = {}
    if options.experts is not None:
        spec["experts"] = [] if options.experts == "none" else options.experts.split(",")
    given = {
        "train": options.train == "auto",
        "seeds": options.seeds or (3 if options.train == "auto" else 1),
        "baselines": [name for name in options.baselines.split(",") if name],
        "changes": sets,
        "spec": spec,
    }
    done = []
    for bench in benches_chosen:
        result = apart(bench, options.data, given)
        done.append((bench, result))
        print(_line(bench, result), file=sys.stderr, flush=True)
        if options.json:
            kept = [{"row": asdict(each), **found} for each, found in done]
            options.json.write_text(json.dumps({"given": given, "rows": kept}, indent=1) + "\n", encoding="utf-8")
    print(table(done, list(dict.fromkeys(("persistence", *given["baselines"])))))
    if any("failed" in result for _, result in done):
        raise SystemExit(1)


def _line(bench: Bench, result: Mapping[str, Any]) -> str:
    if "failed" in result:
        return f"{bench.name}: failed after {result['wall_s']} s\n{result['failed']}"
    mine: Figures = result["found"]["streamrnn"]
    figures = [f"{bar.figure} {_said(mine.get(bar.figure))} {bar.verdict(mine.get(bar.figure))}" for bar in bench.bars]
    return f"{bench.name}: {', '.join(figures) or _said(mine.get('ratio'))}; {result['wall_s']} s, {result['peak_mb']:.0f} MB"


if __name__ == "__main__":
    main()
