"""The back-test has the season and the experts of the service: by the same defaults, by options, and by a configuration."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamrnn.backtest.rows import Options, read
from streamrnn.cli import app
from streamrnn.config.settings import load
from streamrnn.spec import EXPERTS, StreamSpec
from streamrnn.transports.files import InputError


def rows(path: Path, every: timedelta, count: int = 60) -> Path:
    begin = datetime(2026, 1, 1)  # noqa: DTZ001
    path.write_text("time,x\n" + "".join(f"{begin + k * every:%Y-%m-%d %H:%M:%S},{k % 7}\n" for k in range(count)))
    return path


def spec(path: Path, every: timedelta = timedelta(hours=1), **changes: Any) -> StreamSpec:
    return read(Options(rows(path / "t.csv", every), **{"horizon": 3, **changes})).spec


def test_by_default_the_step_of_the_file_decides_as_in_the_service(tmp_path: Path) -> None:
    for every, step in (
        (timedelta(hours=1), "1h"),
        (timedelta(minutes=15), "15m"),
        (timedelta(days=1), "1d"),
        (timedelta(seconds=1), "1s"),
    ):
        service = load([], {"input": "t", "channels": ["x"], "step": step, "horizon": 3}, {}).stream_spec()
        found = spec(tmp_path, every)
        assert (found.seasons, found.experts) == (service.seasons, service.experts)


def test_options_name_the_season_and_the_experts(tmp_path: Path) -> None:
    assert [each.name for each in spec(tmp_path, seasons="8h,1d").seasons] == ["8h", "1d"]
    off = spec(tmp_path, seasons="off")
    assert (off.seasons, off.experts) == ((), ("moves", "stack"))
    assert spec(tmp_path, experts="light").experts == ("season-ago", "profile")
    assert spec(tmp_path, experts="stack,moves").experts == ("moves", "stack")
    assert spec(tmp_path, experts="off").experts == ()


def test_a_configuration_counts_unless_an_option_says_otherwise(tmp_path: Path) -> None:
    base = {"input": "t", "channels": ["x"], "step": "1h", "horizon": 3, "timezone": "Europe/London"}
    chosen = load([], {**base, "season": {"key": "day_type", "holidays": ["2026-01-06"]}, "experts": "light"}, {})
    found = spec(tmp_path, settings=chosen)
    assert (found.seasons, found.experts) == (chosen.stream_spec().seasons, ("season-ago", "profile"))
    assert spec(tmp_path, settings=chosen, seasons="1d", experts="full").experts == EXPERTS
    fleet = load([], {**base, "series_max": 1_000_000}, {})  # as many as the service will have, not as the file has
    stream = read(Options(rows(tmp_path / "t.csv", timedelta(hours=1)), settings=fleet))
    assert stream.spec.experts == fleet.stream_spec().experts == ()
    assert any(note.startswith("experts: off: full takes") for note in stream.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seasons": "dayly"}, "--season dayly: .*did you mean 1d"),
        ({"seasons": "1h"}, "--season 1h: 1h: a season has two steps at least"),
        ({"experts": "lite"}, "--experts lite: .*did you mean light"),
        ({"experts": "moves,ridge"}, "--experts moves,ridge: 'ridge' is not an expert"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        spec(tmp_path, **changes)


def test_the_report_says_what_the_forecasts_were_made_by(tmp_path: Path) -> None:
    file, out = rows(tmp_path / "t.csv", timedelta(hours=1), 120), tmp_path / "out.json"
    command = [
        "backtest",
        file,
        "--horizon",
        3,
        "--no-train",
        "--baselines",
        "seasonal",
        "--season",
        "7h,1d",
        "--json",
        out,
    ]
    done = CliRunner().invoke(app, [*map(str, command), "--experts", "profile,moves"])
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text())
    protocol = document["protocol"]
    assert (protocol["seasons"], protocol["experts"]) == (["7h", "1d"], ["profile", "moves"])
    assert (protocol["season"], protocol["season_rows"]) == ("7h", 7)  # the baseline's
    overall = [row for row in document["rows"] if row["model"] == "seasonal" and row["channel"] is None]
    assert all(row["mse"] < 1e-20 for row in overall)
