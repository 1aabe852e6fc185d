"""The accuracy benchmark measures what it says: its masks, its bars, and rows that need no data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import accuracy  # noqa: E402
import accuracy_rows as rows  # noqa: E402


def test_every_row_has_a_name_of_its_own_and_bars_that_can_be_met() -> None:
    benches = rows.benches()
    assert len({bench.name for bench in benches}) == len(benches)
    for bench in benches:
        assert bench.train[0] < bench.train[1]
        assert bench.scored[0] < bench.scored[1]
        for bar in bench.bars:
            assert bar.goal is None or bar.goal <= bar.passes
    wanted = {*rows.MSE, *rows.FILL_MAE, *rows.WINKLER, *rows.COLD, "CTA-rail", "SP500", "EURUSD", "NAB-1", "NAB-12"}
    assert wanted < {bench.name for bench in benches}


def test_a_bar_is_met_missed_or_has_no_figure() -> None:
    bar, between = rows.Bar("mse", 0.3, 0.2), rows.Bar("coverage", 0.91, low=0.89)
    assert [bar.verdict(value) for value in (0.1, 0.2, 0.3, 0.31, None, float("nan"))] == [
        "goal", "goal", "pass", "miss", "no figure", "no figure",
    ]  # fmt: skip
    assert [between.verdict(value) for value in (0.88, 0.9, 0.92)] == ["miss", "pass", "miss"]


@settings(max_examples=20)
@given(
    st.integers(0, 99), st.sampled_from([("point", 0.1, 0), ("point", 0.9, 0), ("block", 0.5, 6), ("subseq", 0.5, 36)])
)
def test_masks_hide_their_share_of_whole_windows_and_repeat_by_seed(seed: int, mask: tuple[str, float, int]) -> None:
    cells = rows.hidden_cells(*mask, 48, (100, 100 + 48 * 40 + 17), 7, seed)
    assert cells == rows.hidden_cells(*mask, 48, (100, 100 + 48 * 40 + 17), 7, seed)
    assert len(set(cells)) == len(cells)
    at = np.array(cells)
    assert at[:, 0].min() >= 100
    assert at[:, 0].max() < 100 + 48 * 40
    assert len(cells) / (48 * 40 * 7) == pytest.approx(mask[1], abs=0.09)
    if mask[0] == "subseq":
        hidden = np.zeros((48 * 40, 7), dtype=np.bool_)
        hidden[at[:, 0] - 100, at[:, 1]] = True
        each = hidden.reshape(40, 48, 7).sum(axis=1)
        assert set(np.unique(each)) <= {0, 36}
        runs = (np.diff(hidden.reshape(40, 48, 7).astype(int), axis=1, prepend=0) == 1).sum(axis=1)
        assert runs.max() == 1


def test_the_known_process_has_the_error_that_its_oracle_says() -> None:
    values = rows.Known().block(0, 4000)[0]
    step = np.arange(4000)[:, None]
    cycle = 10.0 * (1 + np.arange(3)) + rows.SWING * (1 + np.arange(3)) * np.sin(2 * np.pi * step / 24 + np.arange(3))
    noise = values - cycle
    miss = noise[1:] - rows.PHI * noise[:-1]
    assert (miss**2).mean(axis=0) == pytest.approx(rows.oracle("none"), rel=0.08)


def test_a_row_is_measured_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    arguments = [
        "--data",
        str(tmp_path),
        "--rows",
        "drift-step",
        "--train",
        "off",
        "--baselines",
        "rls",
        "--json",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments])
    accuracy.main()
    assert "| drift-step | ratio |" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    assert row["wall_s"] > 0
    assert row["peak_mb"] > 50
    rls = row["found"]["rls"]
    assert rls["over_oracle_before"] < 1.15  # the cycle and the noise are linear: least squares knows them
    assert rls["ratio"] < 0.8
    assert row["found"]["persistence"]["ratio"] == 1.0


def test_a_row_that_fails_is_in_the_table_and_in_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        accuracy, "apart", lambda *_: {"failed": "no file", "wall_s": 1.0, "cpu_s": 1.0, "peak_mb": 9.0}
    )
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--data", str(tmp_path), "--rows", "SP500"])
    with pytest.raises(SystemExit):
        accuracy.main()
    assert "| SP500 | failed |" in capsys.readouterr().out


def test_unknown_rows_and_missing_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, words in (
        (["--data", str(tmp_path), "--rows", "ETTh9"], "--rows ETTh9: no such row"),
        (["--data", str(tmp_path / "none")], "give the folder of the data sets"),
    ):
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments])
        with pytest.raises(SystemExit, match=words):
            accuracy.main()
