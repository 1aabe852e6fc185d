"""The rows of FAULTS.md: which test stands for which fault, and which of them a run has shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parent / "FAULTS.md"
_ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (holds|in part.*|not here) \|$")
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


class Row(NamedTuple):
    """One fault. `tests`: those named for it, as `file::function`; `result`: holds, in part ..., not here."""

    number: int
    fault: str
    tests: tuple[str, ...]
    result: str


def rows() -> list[Row]:
    """All rows, in their order. Raises ValueError for a line that is no row."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not re.match(r"\| \d", line):
            continue
        match = _ROW.match(line)
        if match is None:
            raise ValueError(f"not a row: {line[:80]}")
        tests = tuple(f"{file}::{test}" for file, test in _TEST.findall(match[3]))
        found.append(Row(int(match[1]), match[2], tests, match[4]))
    return found


def name_of(node: str) -> str:
    """A test as FAULTS.md names it, of pytest's id of one of its cases."""
    return node.removeprefix("tests/").partition("[")[0]


def not_shown(outcomes: Mapping[str, Iterable[str]], faults: Iterable[Row]) -> list[Row]:
    """Rows of which this run had tests, and every one of them was skipped. `outcomes` by test as FAULTS.md names it."""
    found = []
    for row in faults:
        seen = {outcome for test in row.tests for outcome in outcomes.get(test, ())}
        if seen == {"skipped"}:
            found.append(row)
    return found
