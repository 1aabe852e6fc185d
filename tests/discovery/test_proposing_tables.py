"""What is proposed for lines of cells, decimal commas, and objects whose keys name things; and that it reads them rightly."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_producers import T0, Plain
from typer.testing import CliRunner

from streamrnn.cli import app
from streamrnn.config.settings import load
from streamrnn.discovery.proposing import NoProposal, Proposal, propose
from streamrnn.records import TickBatch
from streamrnn.wire.codec import Decoder


def read(proposal: Proposal, sample: list[Plain], **more: Any) -> TickBatch:
    """By the proposal as it stands in a file; `more`: what a user adds to `decode`."""
    chosen = yaml.safe_load(yaml.safe_dump(proposal.settings))
    chosen["decode"].update(more)
    loaded = load([], chosen, {})
    batch, refused, _ = Decoder(loaded.stream_spec(), loaded.decode_spec()).read(sample)
    assert [(r.reason, r.detail) for r in refused] == []
    return batch


def plain(lines: list[str], **of: Any) -> list[Plain]:
    return [Plain(line.encode(), offset=i, **of) for i, line in enumerate(lines)]


def comma(number: float) -> str:
    return f"{number:.2f}".replace(".", ",")


def test_a_spreadsheet_with_decimal_commas() -> None:
    rows = [f"24.11.2025 {i // 2:02}:00:00;P{i % 2};{comma(20 + i / 7)};{comma(1.5 * i)}" for i in range(40)]
    sample = plain(["\ufeffZeit;Messstelle;Temperatur;Durchfluss", *rows])
    proposal = propose(sample, "t")
    assert proposal.settings["channels"] == ["Temperatur", "Durchfluss"] and proposal.settings["step"] == "1h"
    decode = proposal.settings["decode"]
    assert (decode["separator"], decode["decimal"], decode["series"]) == (";", ",", "Messstelle")
    assert any("decode.timezone" in note for note in proposal.notes)
    batch = read(proposal, sample, timezone="UTC")
    assert batch.series == [f"P{i % 2}" for i in range(40)]
    assert batch.values.tolist() == [[round(20 + i / 7, 2), 1.5 * i] for i in range(40)]
    assert int(batch.ts_us[0]) == 1_763_942_400_000_000


def test_lines_without_names() -> None:
    sample = plain([f"{T0 + 1000 * (i // 2)},pump-{i % 2},{20 + i / 4},{i}" for i in range(20)])
    proposal = propose(sample, "t")
    assert proposal.settings["channels"] == ["c3", "c4"] and proposal.settings["step"] == "1s"
    batch = read(proposal, sample)
    assert set(batch.series) == {"pump-0", "pump-1"} and batch.values[3].tolist() == [20.75, 3]


def test_several_lines_a_record_keyed_by_the_series() -> None:
    values = [f"time\ttemp\n{T0 + 2000 * i}\t{i}\n{T0 + 2000 * i + 1000}\t{i}.5\n" for i in range(9)]
    sample = plain(values, key=b"pump-7")
    proposal = propose(sample, "t")
    batch = read(proposal, sample)
    assert (set(batch.series), len(batch), proposal.settings["step"]) == ({"pump-7"}, 18, "1s")


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["11/13/2025 1:00 PM", "11/14/2025 2:00 AM"], "%m/%d/%Y %I:%M %p"),
        (["13/11/2025 13:00:00", "14/11/2025 14:00:00"], "%d/%m/%Y %H:%M:%S"),
        (["01/02/2025 13:00", "02/02/2025 13:00"], None),
    ],
)
def test_dates_with_slashes_are_read_where_one_number_is_beyond_12(texts: list[str], form: str | None) -> None:
    sample = plain([f"{text},p,{i}.5" for i, text in enumerate(texts)])
    if form is None:
        sample = plain(["date,id,temp", *(f"{text},p,{i}.5" for i, text in enumerate(texts))])
    proposal = propose(sample, "t")
    assert proposal.settings["decode"].get("ts_format") == form
    if form is None:
        assert any("day/month or month/day" in note for note in proposal.notes)
    else:
        assert len(read(proposal, sample, timezone="UTC")) == 2


def test_decimal_commas_in_texts_of_json() -> None:
    rows = [{"id": "p", "ts": T0 + 1000 * i, "temp": f"{i},5", "big": "1.234,25"} for i in range(5)]
    sample = plain([json.dumps(row) for row in rows])
    proposal = propose(sample, "t")
    assert proposal.settings["decode"]["decimal"] == "," and proposal.settings["channels"] == ["temp", "big"]
    assert read(proposal, sample).values.tolist() == [[i + 0.5, 1234.25] for i in range(5)]


def test_a_comma_that_could_mark_thousands_is_left_open_and_said() -> None:
    sample = plain([json.dumps({"id": "p", "ts": T0 + 1000 * i, "temp": "1,234", "n": i}) for i in range(5)])
    proposal = propose(sample, "t")
    assert proposal.settings["channels"] == ["n"] and "decimal" not in proposal.settings["decode"]
    assert any("1,234 is 1.234 or 1234" in note for note in proposal.notes)


def test_what_is_no_table_is_not_taken_for_one() -> None:
    for line in ("2026-01-02 03:04:05,123 INFO something happened, really", "a, b", "21,4"):
        with pytest.raises(NoProposal):
            propose(plain([line] * 9), "t")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([",", ";", "\t", "|"]),
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["a b", 'q"', "x;y", "ü"]), st.floats(-1e6, 1e6), st.none() | st.floats(-10, 10)),
        min_size=12, max_size=20,
    ),
)  # fmt: skip
def test_any_table_is_read_as_it_was_written(separator: str, commas: bool, rows: list[Any]) -> None:
    def cell(value: Any) -> Any:
        return f"{value:.3f}1".replace(".", ",") if commas and isinstance(value, float) else value

    lines = []
    for i, row in enumerate([("device", "temp", "flow"), *rows]):
        out = io.StringIO()
        stamp = "ts" if i == 0 else T0 + 1000 * i
        csv.writer(out, delimiter=separator, lineterminator="").writerow([stamp, *map(cell, row)])
        lines.append(out.getvalue())
    proposal = propose(plain(lines), "t")
    batch = read(proposal, plain(lines))
    assert batch.series == [name for name, *_ in rows]
    wanted = [[float(str(cell(v)).replace(",", ".")) if v is not None else None for v in row[1:]] for row in rows]
    channels = proposal.settings["channels"]
    for got, want in zip(batch.values.tolist(), wanted, strict=True):
        assert [got[channels.index("temp")]] == [want[0]]
        assert want[1] is None or got[channels.index("flow")] == want[1]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.binary(max_size=12) | st.text('12.5,;|\t"\n\r-/: APMéa', max_size=24).map(str.encode), max_size=6))
def test_whatever_lines_hold_nothing_but_a_refusal_to_propose_leaves(values: list[bytes]) -> None:
    sample = [Plain(value, offset=i) for i, value in enumerate(values)]
    try:
        proposal = propose(sample, "t")
    except NoProposal:
        return
    load([], yaml.safe_load(yaml.safe_dump(proposal.settings)), {})


# ── objects whose keys are names ─────────────────────────────────────────────────────────────────────────────────────


def test_objects_whose_keys_name_things_are_series() -> None:
    values = []
    for i in range(8):
        devices = {f"pump-{k}": {"temp": i + k / 4, "flow": 1} for k in range(2)}
        values.append(json.dumps({"site": f"s{i % 2}", "ts": T0 + 1000 * (i // 2), "devices": devices}))
    proposal = propose(plain(values), "t")
    decode = proposal.settings["decode"]
    assert (decode["each"], decode["series"], decode["ts"]) == ("devices.*", ["^.site", "#"], "^.ts")
    batch = read(proposal, plain(values))
    assert set(batch.series) == {f"s{i}/pump-{k}" for i in range(2) for k in range(2)}
    assert proposal.settings["channels"] == ["temp", "flow"] and batch.values[1].tolist() == [0.25, 1]


def test_without_a_name_above_them_keys_with_numbers_name_things() -> None:
    inside = {f"0x{k}f": {"rssi": -k, "battery": 3.5, "at": T0} for k in range(4)}
    sample = plain([json.dumps({key: {**row, "at": T0 + 1000 * i} for key, row in inside.items()}) for i in range(5)])
    proposal = propose(sample, "t")
    assert (proposal.settings["decode"]["each"], proposal.settings["decode"]["ts"]) == ("*", "at")
    assert set(read(proposal, sample).series) == set(inside)


@pytest.mark.parametrize(
    "parts",
    [
        {"temp": {"value": 21.4, "unit": "C"}, "flow": {"value": 3.25, "unit": "l"}},
        {"temp1": {"min": 1, "max": 2}, "temp2": {"min": 1, "max": 2}, "temp3": {"min": 1, "max": 2}},
        {"bid": {"price": 1.5, "size": 2}, "ask": {"price": 1.75, "size": 1}},
    ],
)
def test_objects_whose_keys_name_measurements_are_channels(parts: Any) -> None:
    sample = plain([json.dumps({"id": "p", "ts": T0 + 1000 * i, **parts}) for i in range(5)], key=b"p")
    proposal = propose(sample, "t")
    assert "each" not in proposal.settings["decode"]


# ── the same in a stream, and in a file ──────────────────────────────────────────────────────────────────────────────


def test_a_proposed_configuration_back_tests_the_file_that_it_was_proposed_for(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    rows = [f"{T0 + 1000 * i};pump-{k};{comma(20 + (i % 7) / 4 + k)}" for i in range(60) for k in range(2)]
    path.write_text("\n".join(["ts;device;temp", *rows]))
    done = CliRunner().invoke(app, ["init", "--topic", "t", "--file", str(path), "--out", str(tmp_path / "c.yaml")])
    assert done.exit_code == 0, done.output
    out = tmp_path / "out.json"
    done = CliRunner().invoke(
        app,
        ["backtest", str(path), "-c", str(tmp_path / "c.yaml"), "--horizon", "2", "--no-train", "--baselines", "persistence",
         "--json", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["rows_used"] == 120 and not any(found["rows_refused"].values())
