"""The benchmark of the book's architectures: its series are the book's, and every row is built, trained and scored."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import book

LEARNT = [row for row in book.ROWS if row.net is not None]


@pytest.mark.parametrize(("row", "figure"), [("naive", 0.0202), ("naive-10", 0.2570)])
def test_the_series_are_the_books(row: str, figure: float) -> None:
    found = book.measured(next(each for each in book.ROWS if each.name == row), 0.0, 0)
    assert found["mse"] == pytest.approx(figure, abs=5e-5)


@pytest.mark.parametrize("row", LEARNT, ids=lambda row: row.name)
def test_every_row_learns_from_the_rows_that_train_and_is_scored_on_others(
    row: book.Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "TRAIN", 256)
    monkeypatch.setattr(book, "SCORED", 456)
    monkeypatch.setattr(book, "EPOCHS", 1)
    x = torch.from_numpy(book.series(book.SEEN + row.rungs))[:456]
    other = x.clone()
    other[256:] = 0.0
    net, epochs = book.trained(row, x, 1e9, 0)
    same, _ = book.trained(row, other, 1e9, 0)
    assert epochs == 1
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))
    before, _ = book.trained(row, x, 0.0, 0)  # one update
    assert book.scored(row, net, x) < book.scored(row, before, x)
