"""FAULTS.md says which test stands for which fault: they have to be there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (holds|in part.*|not here) \|$")


def test_every_fault_has_its_row_and_every_test_named_is_there() -> None:
    rows = [ROW.match(line) for line in (HERE / "FAULTS.md").read_text().splitlines() if re.match(r"\| \d", line)]
    assert [int(row[1]) for row in rows if row] == list(range(1, 51))
    missing = []
    for row in rows:
        assert row is not None
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row[3])
        missing += [f"{file}::{test}" for file, test in named if f"def {test}(" not in (HERE / file).read_text()]
        assert named or row[4] == "not here" or "as 1" in row[3] or "simulation" in row[3]
    assert not missing
