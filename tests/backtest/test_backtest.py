"""The back-test: every row is accounted for, nothing is guessed, and models are compared on the same cells."""

# ruff: noqa: DTZ001 - naive moments get their zone where they are written

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from streamrnn.backtest import run as backtest
from streamrnn.backtest.rows import read, take
from streamrnn.backtest.run import Options, learn_spec
from streamrnn.backtest.score import Steps
from streamrnn.cli import app
from streamrnn.config.settings import load
from streamrnn.learning import LearnSpec
from streamrnn.training.trainer import learn_spec as service_learn_spec
from streamrnn.transports.files import InputError

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
CONFIG = "input: t\nchannels: [temp, flow]\nstep: 1s\nhorizon: 4\n"


def hours(count: int, seed: int = 0) -> list[tuple[datetime, float]]:
    rng = np.random.default_rng(seed)
    level = 20 + 5 * np.sin(2 * np.pi * np.arange(count) / 24) + rng.normal(0, 0.5, count)
    return [(BEGIN + timedelta(hours=i), float(level[i])) for i in range(count)]


def table(path: Path, rows: Iterable[tuple[datetime, float]], name: str = "x") -> Path:
    path.write_text(
        f"time,{name}\n" + "".join(f"{moment:%Y-%m-%d %H:%M:%S.%f},{value:.3f}\n" for moment, value in rows)
    )
    return path


def run(path: Path, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Without training, two baselines; the JSON that was written."""
    options = Options(
        file=path, horizon=3, train=False, baselines=("persistence", "seasonal"), json_out=tmp_path / "out.json"
    )
    accounts = backtest.run(replace(options, **changes))
    document: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    assert document["rows_used"] + sum(document["rows_refused"].values()) == document["protocol"]["rows"]
    assert (accounts.used, accounts.refused) == (document["rows_used"], document["rows_refused"])
    return document


def command(*arguments: Any) -> tuple[int, str]:
    """Exit code and all that was printed."""
    quick = ("--horizon", 3, "--no-train", "--baselines", "persistence")
    done = CliRunner().invoke(app, ["backtest", *map(str, (*arguments, *quick))])
    return done.exit_code, done.output + (str(done.exception) if done.exception is not None else "")


def overall(document: dict[str, Any], task: str = "forecast") -> dict[str, dict[str, Any]]:
    return {
        r["model"]: r
        for r in document["rows"]
        if r["channel"] is None and r["horizon"] is None and r["task"] == task and r["seed"] == 0
    }


# ── every row ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plain_file_is_used_to_its_last_row(tmp_path: Path) -> None:
    document = run(table(tmp_path / "t.csv", hours(200)), tmp_path)
    assert (document["rows_used"], document["rows_refused"], document["protocol"]["step"]) == (200, {}, "1h")
    scores = overall(document)
    assert {name: r["n"] for name, r in scores.items()} == dict.fromkeys(scores, 3 * 158)
    assert scores["seasonal"]["mse"] < scores["persistence"]["mse"]


def test_a_file_with_its_newest_row_first_is_sorted_and_says_so(tmp_path: Path) -> None:
    rows = hours(200)
    straight = run(table(tmp_path / "t.csv", rows), tmp_path)
    turned = run(table(tmp_path / "t.csv", rows[::-1]), tmp_path)
    assert turned["rows"] == straight["rows"]
    assert "199 of 200 rows stand below a newer row" in turned["notes"][0]


def test_two_rows_of_one_time_need_a_word_and_are_counted(tmp_path: Path) -> None:
    rows = hours(120)
    partial = [(moment, value / 2) for moment, value in rows[10:30]]
    path = table(tmp_path / "t.csv", sorted([*rows, *partial], key=lambda row: row[0]))
    code, said = command(path)
    assert code == 7
    assert "20 of 140 rows were refused" in said
    assert "20 rows repeat a time that stands in another row (first: 2024-01-01 10:00:00 in lines 12 and 13)" in said
    assert "--duplicates first or --duplicates last" in said
    first = run(path, tmp_path, duplicates="first")
    last = run(path, tmp_path, duplicates="last")
    assert first["rows_refused"] == last["rows_refused"] == {"duplicate": 20}
    assert first["rows"] == run(table(tmp_path / "u.csv", rows), tmp_path)["rows"]
    assert last["rows"] != first["rows"]
    assert command(path, "--duplicates", "first")[0] == 0
    # The newest row first: lines are those of the file, not of the order that they are taken in.
    upside_down = table(tmp_path / "v.csv", sorted([*rows, *partial], key=lambda row: row[0])[::-1])
    assert "2024-01-01 10:00:00 in lines 130 and 131)" in command(upside_down)[1]
    # Without a word the grid refuses them: as in the service, the first counts.
    unsaid = run(path, tmp_path)
    assert (unsaid["rows"], unsaid["rows_refused"]) == (first["rows"], {"duplicate": 20})
    assert command(path, "--allow-refused")[0] == 0


def test_two_records_of_a_step_with_other_channels_are_said_to_be_that(tmp_path: Path) -> None:
    lines = [
        {"series": "host", "ts": 1_764_000_000_000 + 1000 * i, "values": {name: i % 5 + 0.5}}
        for i in range(80)
        for name in ("cpu", "mem")
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said = command(path, "--train-rows", "0:40")
    assert code != 0
    assert "80 rows hold other channels" in said
    assert "complete: channels" in said


def test_what_the_grid_refuses_is_counted_and_is_the_exit_code(tmp_path: Path) -> None:
    """Long records of one channel and step twice: the service refuses the second, and so does the back-test, aloud."""
    lines = [
        {"series": "p", "ts": 1_764_000_000_000 + 1000 * i + extra, "channel": name, "value": i % 7 + 0.5}
        for i in range(100)
        for name, extra in (("a", 0), ("a", 1), ("b", 0))
        if extra == 0 or i < 5
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = run(path, tmp_path, step="1s")
    assert document["rows_refused"] == {"duplicate": 5}
    assert any("refused by the grid as duplicate" in note for note in document["notes"])
    code, said = command(path, "--step", "1s")
    assert (code, "5 of 205 rows were refused" in said) == (7, True)
    assert command(path, "--step", "1s", "--allow-refused")[0] == 0


def test_times_that_waver_around_the_steps_edge_are_refused_with_what_helps(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [(BEGIN + timedelta(minutes=i, milliseconds=int(rng.integers(-40, 40))), i % 9) for i in range(100)]
    path = table(tmp_path / "t.csv", rows)
    document = run(path, tmp_path)
    refused = document["rows_refused"]["duplicate"]
    assert refused > 10
    code, said = command(path)
    assert code == 7
    assert f"{refused} rows fall into a step of 1m that another row has; their times waver" in said
    assert "--align nearest" in said


def test_rows_closer_than_the_step_are_refused_with_what_helps(tmp_path: Path) -> None:
    document = run(table(tmp_path / "t.csv", hours(200)), tmp_path, step="2h")
    assert document["rows_refused"] == {"duplicate": 100}
    assert any("100 rows fall into a step of 2h" in note and "--step" in note for note in document["notes"])


def test_months_and_local_days_are_said_to_be_what_they_are(tmp_path: Path) -> None:
    months = [(datetime(2000 + m // 12, m % 12 + 1, 1, tzinfo=UTC), float(m % 12)) for m in range(60)]
    document = run(table(tmp_path / "months.csv", months), tmp_path)
    assert (document["rows_used"], document["rows_refused"]) == (60, {})
    assert overall(document)["seasonal"]["mse"] < 1e-20  # a year ago is twelve rows ago
    london = ZoneInfo("Europe/London")
    days = [
        ((datetime(2025, 1, 1, tzinfo=london) + timedelta(days=d)).astimezone(UTC), float(d % 7)) for d in range(400)
    ]
    document = run(table(tmp_path / "days.csv", days), tmp_path)
    assert (document["rows_used"], document["rows_refused"]) == (400, {})
    assert "step 1d in Europe/London" in " ".join(document["notes"])
    assert overall(document)["seasonal"]["mse"] < 1e-20


def test_targets_lie_on_the_grid_and_not_on_the_next_rows(tmp_path: Path) -> None:
    """Past a hole in the file the next row is no one-step target, and the season keeps its phase."""
    rows = [(moment, float(moment.hour)) for moment, _ in hours(24 * 20)]
    holed = rows[:200] + rows[305:]
    document = run(table(tmp_path / "t.csv", holed), tmp_path, score_rows=(150, 370), train_rows=(0, 100))
    scores = overall(document)
    assert scores["seasonal"]["mse"] < 1e-20
    # 220 scored rows and the one before, less three at the end, and those three targets that lie in the hole
    assert scores["seasonal"]["n"] == 3 * 218 - (1 + 2 + 3)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_every_row_of_any_file_is_used_or_refused_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Rows that repeat, stand out of order, fall into a step that is taken, or cannot be read: none is lost."""
    folder = tmp_path_factory.mktemp("rows")
    minutes = data.draw(st.permutations([*range(0, 160, 2), *data.draw(st.lists(st.integers(0, 150), max_size=40))]))
    jitter = data.draw(st.sampled_from([0, 0, 20, 40]))
    spoiled = data.draw(st.sets(st.integers(0, 69), max_size=5))
    lines, keys = [], []
    for i, minute in enumerate([*minutes, *range(160, 180)]):
        moment = BEGIN + timedelta(minutes=minute, seconds=i * 7 % (jitter + 1))
        name = f"p{i % 2}"
        if i in spoiled:
            lines.append(f"soon,{name},1" if i % 2 else f"{moment:%Y-%m-%d %H:%M:%S},{name},warm")
            continue
        lines.append(f"{moment:%Y-%m-%d %H:%M:%S},{name},{i % 11}")
        keys.append((name, minute))
    path = folder / "t.csv"
    path.write_text("time,pump,x\n" + "\n".join(lines) + "\n")
    document = run(
        path, folder, series=("pump",), step="1m", channels=("x",), allow_refused=True, train_rows=(0, 40),
        duplicates=data.draw(st.sampled_from([None, "first", "last"])), baselines=("persistence",),
    )  # fmt: skip
    assert document["protocol"]["rows"] == len(lines)
    assert document["rows_used"] == len(set(keys))  # one row a step and series
    bad = document["rows_refused"].get("unreadable", 0) + document["rows_refused"].get("timestamp", 0)
    assert bad == len(spoiled)
    assert document["rows_refused"].get("duplicate", 0) == len(keys) - len(set(keys))


# ── times ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_days_or_months_first_is_asked_for_and_obeyed(tmp_path: Path) -> None:
    rows = "".join(f"{day:02d}/{month:02d}/2010,{day + month}\n" for month in range(1, 13) for day in range(1, 13))
    path = tmp_path / "t.csv"
    path.write_text("time,x\n" + rows)
    with pytest.raises(InputError, match=r"'%d/%m/%Y'.*'%m/%d/%Y'"):
        read(Options(path))
    days = read(Options(path, time_format="%d/%m/%Y"))
    assert days.batch.values[:3, 0].tolist() == [2.0, 3.0, 4.0]


def test_an_hour_that_comes_twice_is_two_rows(tmp_path: Path) -> None:
    texts = ["2022-10-30 00:00:00", "2022-10-30 01:00:00", "2022-10-30 01:00:00", "2022-10-30 02:00:00"]
    path = tmp_path / "t.csv"
    path.write_text("time,x\n" + "".join(f"{text},{i}\n" for i, text in enumerate(texts)))
    stream = read(Options(path, horizon=1, timezone="Europe/London"))
    assert (len(stream.batch), stream.step.text) == (4, "1h")
    assert any("happen twice in Europe/London" in note for note in stream.notes)


# ── panels and lines ─────────────────────────────────────────────────────────────────────────────────────────────


def panel(path: Path, count: int) -> Path:
    north, south = hours(count), [(moment, 3 * value + 100) for moment, value in hours(count, 1)]
    rows = [("north", *row) for row in north] + [("south", *row) for row in south]
    path.write_text("unique_id,time,y\n" + "".join(f"{who},{at:%Y-%m-%d %H:%M:%S},{y:.3f}\n" for who, at, y in rows))
    return path


def test_a_panel_is_one_engine_and_the_scores_are_over_all_series(tmp_path: Path) -> None:
    path = panel(tmp_path / "t.csv", 200)
    with pytest.raises(InputError, match="times repeat 2 x; column unique_id looks like series: --series unique_id"):
        run(path, tmp_path)
    both = run(path, tmp_path, series=("unique_id",))
    assert (both["protocol"]["series"], both["rows_used"], both["protocol"]["channels"]) == (2, 400, ["y"])
    alone = [
        run(table(tmp_path / "u.csv", rows), tmp_path)
        for rows in (hours(200), [(a, 3 * y + 100) for a, y in hours(200, 1)])
    ]
    for model in ("streamrnn", "persistence", "seasonal"):
        each = [overall(document)[model] for document in alone]
        assert overall(both)[model]["n"] == sum(r["n"] for r in each)
        assert overall(both)[model]["mse"] == pytest.approx(np.mean([r["mse"] for r in each]), rel=1e-4)


def test_long_lines_make_one_step_and_not_one_row_each(tmp_path: Path) -> None:
    rows = [(1_764_000_000_000 + 1000 * i, float(np.sin(i)), float(np.cos(i / 3))) for i in range(150)]
    long = tmp_path / "t.jsonl.gz"
    lines = [
        {"series": "m1", "ts": ts, "channel": name, "value": value}
        for ts, temp, flow in rows
        for name, value in (("temp", temp), ("flow", flow))
    ]
    long.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    wide = tmp_path / "w.jsonl"
    wide.write_text(
        "".join(json.dumps({"series": "m1", "ts": ts, "values": {"temp": a, "flow": b}}) + "\n" for ts, a, b in rows)
    )
    from_long, from_wide = run(long, tmp_path), run(wide, tmp_path)
    assert from_long["protocol"]["steps"] == from_wide["protocol"]["steps"] == 150
    assert (from_long["rows_used"], from_long["rows_refused"]) == (300, {})
    assert from_long["rows"] == from_wide["rows"]


def test_a_channel_that_comes_later_in_the_file_is_one(tmp_path: Path) -> None:
    lines = [{"series": "s", "ts": 1_764_000_000_000 + 1000 * i, "values": {"a": i % 5}} for i in range(60)]
    for line in lines[20:]:
        line["values"]["b"] = line["ts"] % 7000 / 1000  # type: ignore[index,operator]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read(Options(path, horizon=2)).spec.channels == ("a", "b")


def test_lines_of_ones_own_are_read_by_decode(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG + "decode: {series: dev.id, ts: at, ts_unit: s, values: {temp: m.t, flow: m.f}}\n")
    path = tmp_path / "t.jsonl"
    path.write_text(
        "".join(
            json.dumps({"dev": {"id": f"d{i % 2}"}, "at": 1_764_000_000 + i // 2, "m": {"t": i % 11, "f": i % 3}})
            + "\n"
            for i in range(300)
        )
        + '{"dev": {"id": "d1"}, "at": "soon", "m": {}}\n'
    )
    code, said = command(path, "-c", config, "--json", tmp_path / "out.json")
    document = json.loads((tmp_path / "out.json").read_text())
    assert code == 7, said
    assert (document["protocol"]["series"], document["protocol"]["channels"]) == (2, ["temp", "flow"])
    assert (document["rows_used"], document["rows_refused"]) == (300, {"timestamp": 1})
    assert any("line 301: timestamp" in note for note in document["notes"])


def lines_of(path: Path, times: Iterable[Any], series: str = "s") -> Path:
    path.write_text(
        "".join(json.dumps({"series": series, "ts": ts, "values": {"x": i % 7}}) + "\n" for i, ts in enumerate(times))
    )
    return path


@pytest.mark.parametrize("unit", ["s", "us"])
def test_lines_with_times_in_another_unit_are_refused_with_both_readings(tmp_path: Path, unit: str) -> None:
    size = {"s": 1, "us": 10**6}[unit]
    path = lines_of(tmp_path / "t.jsonl", [(1_764_000_000 + i) * size for i in range(100)])
    wrong = {"s": "1970-01-21", "us": "the year 57869"}[unit]
    words = rf"line 1: .*{wrong} as milliseconds.*2025-11-24 as .*seconds.*ts_unit: {unit}.*--set decode.ts_unit={unit}"
    with pytest.raises(InputError, match=words):
        read(Options(path, horizon=2))
    # as written, and from a CSV with the same column: the same instants
    settings_of = load([], {"input": "t", "channels": ["x"], "step": "1s", "horizon": 2, "decode.ts_unit": unit}, {})
    stream = read(Options(path, horizon=2, settings=settings_of))
    assert stream.batch.ts_us.tolist() == [(1_764_000_000 + i) * 10**6 for i in range(100)]
    path = lines_of(tmp_path / "ms.jsonl", [(1_764_000_000 + i) * 1000 for i in range(100)])
    with pytest.raises(InputError, match="ts_unit: ms"):
        read(Options(path, horizon=2, settings=settings_of))


def test_seconds_with_fractions_under_a_path_of_ones_own_are_found_too(tmp_path: Path) -> None:
    config = load([], {"input": "t", "channels": ["x"], "step": "1s", "horizon": 2, "decode.ts": "meta.at"}, {})
    bodies = [{"series": "s", "meta": {"at": 1_764_000_000.5 + i}, "values": {"x": i}} for i in range(50)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in bodies))
    with pytest.raises(InputError, match="ts_unit: s"):
        read(Options(path, settings=config))


def test_single_lines_in_another_unit_are_refused_as_in_the_service(tmp_path: Path) -> None:
    times = [1_764_000_000_000 + 1000 * i for i in range(100)]
    times[20] //= 1000
    times[30] *= 1000
    path = lines_of(tmp_path / "t.jsonl", times)
    stream = read(Options(path, horizon=3))
    assert stream.place.tolist() == [line for line in range(1, 101) if line not in (21, 31)]
    document = run(path, tmp_path)
    assert (document["rows_used"], document["rows_refused"]) == (98, {"timestamp": 2})
    assert any("line 21" in note and "decode.ts_unit" in note for note in document["notes"])
    assert command(path)[0] == 7


@pytest.mark.parametrize("step_d", [1, 30, 365])
@pytest.mark.parametrize("text", [False, True])
def test_old_times_of_an_unbroken_file_stay_whatever_they_look_like(tmp_path: Path, step_d: int, text: bool) -> None:
    """January 1970 in milliseconds has the digits of a later year's seconds; the rows around it say what it is."""
    days = range(-2000, 5000, step_d)
    times = [(datetime(1970, 1, 1) + timedelta(days=d)).isoformat() + "Z" if text else d * 86_400_000 for d in days]
    stream = read(Options(lines_of(tmp_path / "t.jsonl", times), horizon=1))
    assert stream.batch.ts_us.tolist() == [d * 86_400_000_000 for d in days]
    assert not stream.refused
    if text:  # a text says its year, even where all of them are in January 1970
        texts = [f"1970-01-21T{hour:02d}:00:00Z" for hour in range(24)]
        assert len(read(Options(lines_of(tmp_path / "u.jsonl", texts), horizon=1)).batch) == 24


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize("kind", ["array", "array in one line", "pretty"])
def test_json_that_is_not_one_object_a_line_is_said_to_be_that(tmp_path: Path, kind: str, with_config: bool) -> None:
    rows = [{"series": "s", "ts": 1_764_000_000_000 + i, "values": {"x": i}} for i in range(20)]
    text, words = {
        "array": (json.dumps(rows, indent=1), "is a JSON array; one JSON object a line is needed"),
        "array in one line": (json.dumps(rows), "is a JSON array; one JSON object a line is needed"),
        "pretty": ("\n".join(json.dumps(row, indent=1) for row in rows), "over several lines; one JSON object a line"),
    }[kind]
    path = tmp_path / "t.json"
    path.write_text(text)
    config = load([], {"input": "t", "channels": ["x"], "step": "1s", "horizon": 2}, {}) if with_config else None
    with pytest.raises(InputError, match=words):
        read(Options(path, settings=config))


def test_lines_of_kcat_are_the_records_in_them(tmp_path: Path) -> None:
    rows = [{"values": {"x": i}} for i in range(20)]
    lines = [
        {"topic": "t", "partition": i % 2, "offset": 70 + i, "tstype": "create", "ts": 1_764_000_000_000 + 1000 * i, "broker": 0,
         "headers": ["h", "v"], "key": "pump-7", "payload": json.dumps(row)}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    lines[3] = {**lines[3], "payload_base64": base64.b64encode(lines[3].pop("payload").encode()).decode()}
    lines.append({**lines[4], "payload": None})
    path = tmp_path / "t.kcat"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stream = read(Options(path, horizon=2, allow_refused=True))
    assert stream.batch.series == ["pump-7"] * 20
    assert stream.batch.ts_us.tolist() == [(1_764_000_000 + i) * 10**6 for i in range(20)]
    assert stream.batch.values[:, 0].tolist() == list(range(20))
    assert dict(stream.refused) == {"tombstone": 1}


def test_people_s_own_lines_go_through_the_services_decoder(tmp_path: Path) -> None:
    changes = {
        "decode.each": "r[*]",
        "decode.series": "^.id",
        "decode.ts": "at",
        "decode.ts_unit": "s",
        "decode.values": "*",
    }
    config = load([], {"input": "t", "channels": ["x", "y"], "step": "1s", "horizon": 2, **changes}, {})
    path = tmp_path / "t.jsonl"
    lines = [
        {"id": "a", "r": [{"at": 1_764_000_000 + 2 * i, "x": i}, {"at": 1_764_000_001 + 2 * i, "y": i}]}
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"id":"a","r":[]}\n')
    stream = read(Options(path, settings=config))
    assert (len(stream.batch), stream.total, dict(stream.refused)) == (40, 40, {})
    assert any("1 empty" in note for note in stream.notes)
    assert stream.batch.values[:2].tolist()[0][0] == 0.0
    wrong = load(
        [], {"input": "t", "channels": ["x"], "step": "1s", "horizon": 2, **changes, "decode.ts_unit": "ms"}, {}
    )
    with pytest.raises(InputError, match="ts_unit: s"):
        read(Options(path, settings=wrong))


# ── scores ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_train_rows_that_stand_still_give_no_score_and_no_1e25(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["time,valve,noise,temp"]
    for i, (moment, value) in enumerate(hours(200)):
        valve = 40.0 if i < 100 else 50 + 20 * rng.random()
        noise = (0.1 + 0.2) * 1e9 / 1e9 if i % 2 else 0.3 if i < 100 else rng.random()
        lines.append(f"{moment:%Y-%m-%d %H:%M:%S},{valve!r},{noise!r},{value!r}")
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    document = run(path, tmp_path, train_rows=(0, 100))
    by_channel = {(r["model"], r["channel"]): r for r in document["rows"] if r["horizon"] is None}
    for channel in ("valve", "noise"):
        scored = by_channel["streamrnn", channel]
        assert (scored["mse"], scored["mae"], scored["pinball"]) == (None, None, None)
        assert scored["n"] > 0
        assert 0.0 <= scored["coverage"]["0.95"] <= 1.0
    assert by_channel["streamrnn", None]["mse"] == pytest.approx(by_channel["streamrnn", "temp"]["mse"])
    assert by_channel["streamrnn", None]["n"] == by_channel["streamrnn", "temp"]["n"]
    assert document["unscaled"] == ["valve", "noise"]
    assert any("--train-rows" in note for note in document["notes"])
    with pytest.raises(InputError, match=r"valve stand still.*--train-rows"):
        run(path, tmp_path, train_rows=(0, 100), channels=("valve",))


def test_models_are_scored_on_the_same_cells(tmp_path: Path) -> None:
    """A channel that is not there for a while, at the start too: nobody is scored where another has no forecast."""
    lines = ["time,a,b"]
    for i, (moment, value) in enumerate(hours(200)):
        lines.append(f"{moment:%Y-%m-%d %H:%M:%S},{value:.3f},{'' if i < 60 or 100 < i < 120 else value * 2}")
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    document = run(path, tmp_path, train_rows=(0, 90), score_rows=(50, 200))
    for channel in (None, "a", "b"):
        for horizon in (None, 1, 3):
            counts = {r["n"] for r in document["rows"] if (r["channel"], r["horizon"]) == (channel, horizon)}
            assert len(counts) == 1, (channel, horizon, counts)


def test_fills_are_scored_on_the_scored_rows_beside_the_last_value_and_the_line(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", hours(200))
    hidden = tmp_path / "hidden.csv"
    # two before the scored rows, a run, and the very last row (nothing comes after it: no line)
    hidden.write_text("row,channel\n" + "".join(f"{row},x\n" for row in (20, 30, 100, 101, 102, 150, 199)))
    document = run(path, tmp_path, hide=hidden, score_rows=(60, 200))
    fills = overall(document, "imputation")
    assert list(fills) == ["streamrnn", "last-value", "linear (sees the future)"]
    assert {r["n"] for r in fills.values()} == {4}
    assert [r["unfilled"] for r in fills.values()] == [0, 0, 1]
    values = np.array([float(f"{value:.3f}") for _, value in hours(200)])
    spread = values[:40].std()
    last = np.abs(values[[99, 99, 99, 149]] - values[[100, 101, 102, 150]]).mean() / spread
    assert fills["last-value"]["mae"] == pytest.approx(last)
    line = np.interp([100, 101, 102, 150], [99, 103, 149, 151], values[[99, 103, 149, 151]])
    assert fills["linear (sees the future)"]["mae"] == pytest.approx(
        np.abs(line - values[[100, 101, 102, 150]]).mean() / spread
    )


def test_a_cell_that_is_not_there_cannot_be_hidden(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", hours(100))
    for line in ("100,x", "5,y", "-1,x", "5,1"):
        (tmp_path / "h.csv").write_text(f"row,channel\n{line}\n")
        with pytest.raises(InputError, match="line 2"):
            run(path, tmp_path, hide=tmp_path / "h.csv")


def test_later_rows_change_no_earlier_forecast(tmp_path: Path) -> None:
    path = panel(tmp_path / "t.csv", 300)
    options = Options(path, horizon=3, series=("unique_id",), train_every=60)
    stream = read(options)
    changes = {"updates": 12, "length": 48, "min_steps": 100, "window": 512, "holdout": 16}
    small = load(
        [],
        {"input": "t", "channels": ["y"], "step": "1h", "horizon": 3, "idle_after": "2h", "model.hidden": 8}
        | {f"learn.{key}": value for key, value in changes.items()},
        {},
    )
    options = replace(options, settings=small)
    steps = backtest.layout(stream)
    whole = backtest.serve(stream, stream.batch, steps, options, 0, lambda n: None)
    noisy = take(stream.batch, slice(0, len(stream.batch)))
    noisy.values = noisy.values.copy()
    late = stream.batch.ts_us >= stream.batch.ts_us.min() + 200 * 3_600_000_000
    noisy.values[late] = np.random.default_rng(3).normal(0, 50, noisy.values[late].shape)
    other = backtest.serve(stream, noisy, steps, options, 0, lambda n: None)
    assert whole.swaps
    before = _row(steps) < 200
    np.testing.assert_array_equal(whole.forecasts.mean[before], other.forecasts.mean[before])
    assert not np.array_equal(whole.forecasts.mean[~before], other.forecasts.mean[~before])


def _row(steps: Steps) -> Any:
    return np.searchsorted(steps.rows, steps.step)


def test_service_and_back_test_learn_by_one_set_of_defaults() -> None:
    settings = load([], {"input": "t", "channels": ["x"], "step": "1s", "horizon": 4}, {})
    assert service_learn_spec(settings) == LearnSpec()
    assert learn_spec(Options(Path("t.csv")), 0, 1) == LearnSpec()
    changed = load([], {**settings.effective(), "learn.lr": 0.5, "learn.window": 9000, "learn.seed": 3}, {})
    spec = service_learn_spec(changed)
    assert (spec.train.lr, spec.window, spec.train.seed) == (0.5, 9000, 3)
    assert learn_spec(Options(Path("t.csv"), settings=changed), 3, 1) == spec


# ── intervals, baselines, settings ───────────────────────────────────────────────────────────────────────────────


def test_a_random_walk_is_scored_as_its_normal_distribution(tmp_path: Path) -> None:
    """Known to the pen: CRPS σ/√π, NLL ½ ln 2πe σ², width 3.29 σ, in units of the train rows' deviation."""
    walk = np.cumsum(np.random.default_rng(7).normal(size=4000))
    rows = [(BEGIN + timedelta(hours=i), float(value)) for i, value in enumerate(walk)]
    document = run(
        table(tmp_path / "t.csv", rows), tmp_path, horizon=1, train_rows=(0, 800), baselines=("persistence", "ewma94")
    )
    unit = walk[:800].std()
    for model, scored in overall(document).items():
        slack = 1.05 if model == "ewma94" else 1.03
        assert 0.99 / np.sqrt(np.pi) / unit < scored["crps"] * 1.03, model
        assert scored["crps"] < slack / np.sqrt(np.pi) / unit, model
        nll = 0.5 * np.log(2 * np.pi * np.e) - np.log(unit)
        assert nll - 0.05 < scored["nll"] < nll + 0.06, model
        assert scored["width"] == pytest.approx(3.29 / unit, rel=0.06), model
        assert scored["width"] < scored["winkler"] < 4.5 / unit, model
        assert scored["inside"] == pytest.approx(0.9, abs=0.015), model
        assert scored["inside"] == pytest.approx(scored["coverage"]["0.95"] - scored["coverage"]["0.05"], abs=1e-9)
        assert 0.84 < scored["rolling_min"] < scored["inside"] < scored["rolling_max"] < 0.95, model


def test_rolling_coverage_of_a_mean_is_the_worst_of_its_cells_and_none_where_rows_are_few(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", hours(900))
    rows = [r for r in run(path, tmp_path)["rows"] if r["model"] == "streamrnn"]
    each = [r for r in rows if r["channel"] == "x" and r["horizon"] is not None]
    whole = next(r for r in rows if r["channel"] is None and r["horizon"] is None)
    assert whole["rolling_min"] == min(r["rolling_min"] for r in each)
    assert whole["rolling_max"] == max(r["rolling_max"] for r in each)
    short = overall(run(path, tmp_path, score_rows=(180, 600)))["streamrnn"]
    assert (short["rolling_min"], short["rolling_max"]) == (None, None)
    assert short["crps"] > 0.0


def test_a_baselines_interval_knows_no_error_before_its_target_came(tmp_path: Path) -> None:
    rows = hours(300)
    stream = read(Options(table(tmp_path / "t.csv", rows), horizon=3))
    steps = backtest.layout(stream)
    noisy = steps.values.copy()
    noisy[200:] *= 100.0
    made = [
        backtest.baseline("persistence", shown, steps, stream, 24, lambda n: None) for shown in (steps.values, noisy)
    ]
    for each in made:
        assert each.sigma is not None
        assert np.isnan(each.sigma[0]).all()
    np.testing.assert_array_equal(made[0].sigma[:200], made[1].sigma[:200])
    assert not np.array_equal(made[0].sigma[200:], made[1].sigma[200:])
    # the plain mean at first, by hand: three steps ahead, at row 5
    errors = [steps.values[t + 3, 0] - steps.values[t, 0] for t in range(3)]
    assert made[0].sigma[5, 0, 2] == pytest.approx(np.sqrt(np.mean(np.square(errors))))


def test_a_single_level_has_errors_and_no_interval(tmp_path: Path) -> None:
    document = run(table(tmp_path / "t.csv", hours(200)), tmp_path, changes={"quantiles": [0.5]})
    scored = overall(document)["streamrnn"]
    assert (scored["crps"], scored["winkler"], scored["nll"]) == (None, None, None)
    assert scored["mse"] > 0.0


def test_a_setting_is_changed_without_a_configuration_file(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", hours(200))
    plain = run(path, tmp_path)
    assert run(path, tmp_path, changes={"burn_in": "32"})["rows"] == plain["rows"]  # defaults stay the back-test's own
    changed = run(path, tmp_path, changes={"quantiles": [0.2, 0.8]})
    assert changed["protocol"]["quantiles"] == [0.2, 0.8]
    code, said = command(path, "--set", "burn_inn=3")
    assert code != 0
    assert "burn_in" in said
    for key, instead in (("horizon", "--horizon or -c"), ("decode.ts_unit", "a configuration -c"), ("within", "-c")):
        code, said = command(path, "--set", f"{key}=1")
        assert code != 0
        assert f"--set {key} decides how the file is read" in said
        assert instead in said


def test_a_field_of_the_stream_is_replaced_where_there_is_one(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", hours(200))
    assert read(Options(path, horizon=3, spec_changes={"warm_up": 7})).spec.warm_up == 7
    with pytest.raises(InputError, match="no nonsense"):
        run(path, tmp_path, spec_changes={"nonsense": 1})


def test_kept_weights_serve_as_a_baseline_from_the_first_row(tmp_path: Path) -> None:
    x = [0.3]
    for _ in range(599):
        x.append(3.7 * x[-1] * (1.0 - x[-1]))  # what a network foresees, and no linear expert
    path = table(tmp_path / "t.csv", [(moment, value) for (moment, _), value in zip(hours(600), x, strict=True)])
    small = {"model.trunk": 16, "model.hidden": 8, "learn.updates": 60, "learn.length": 16, "learn.min_steps": 100,
             "learn.window": 512, "learn.holdout": 16, "learn.lr": 0.01, "learn.weight_decay": 0.01}  # fmt: skip
    shape = {"train": True, "train_every": 60, "changes": small, "keep": tmp_path / "kept"}
    run(path, tmp_path, **shape)
    kept = list((tmp_path / "kept").glob("*.weights"))
    assert len(kept) == 1
    for name in (f"path:{tmp_path / 'kept'}", f"path:{kept[0]}"):
        document = run(path, tmp_path, baselines=("persistence", name), changes=small)
        scores = overall(document)
        assert list(scores) == ["streamrnn", "persistence", name]
        assert scores[name]["mse"] != scores["streamrnn"]["mse"]
        assert scores[name]["coverage"].keys() == scores["streamrnn"]["coverage"].keys()
    other = {"keep": None, "changes": small | {"learn.updates": 70}}
    again = overall(run(path, tmp_path, baselines=("persistence", name), **shape | other))
    assert again[name] == scores[name]  # kept weights stay as they are while the service learns
    assert again["streamrnn"] != scores["streamrnn"]
    kept[0].write_bytes(kept[0].read_bytes()[:-1])
    with pytest.raises(InputError, match="digest"):
        run(path, tmp_path, baselines=(name,))
    with pytest.raises(InputError, match=r"no \*\.weights there.*--keep"):
        run(path, tmp_path, baselines=(f"path:{tmp_path}",))
    with pytest.raises(InputError, match="--keep: no weights"):
        run(path, tmp_path, keep=tmp_path / "none")
