"""Every line that the service logs has one name, and the runbook lists it with what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "streamrnn").rglob("*.py"))
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
# The name is what stands before the first of these: the rest of a line explains.
END = re.compile(r"[:;]|\. ")


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """(level, call) of everything that is logged in a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("log", "logger", "LOGGER")
        ):
            yield node.func.attr, node


def events() -> dict[str, str]:
    """Name of an event → its level."""
    found: dict[str, str] = {}
    for path in SOURCES:
        for level, call in calls(path):
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            assert call.args and isinstance(call.args[0], ast.Constant), f"{where}: an event is a plain text"
            assert isinstance(call.args[0].value, str) and len(call.args) == 1, f"{where}: values go into fields"
            name = END.split(call.args[0].value)[0]
            assert found.get(name, level) == level, f"{where}: {name!r} at two levels"
            found[name] = level
    return found


def listed() -> dict[str, str]:
    """Name → level as the runbook's table has them."""
    text = (ROOT / "deploy" / "README.md").read_text().split("## Log lines", 1)[1].split("\n## ", 1)[0]
    rows = [row.strip("|").split("|") for row in text.splitlines() if row.startswith("| `")]
    assert all(len(row) == 3 and row[2].strip() for row in rows)
    return {row[0].strip().strip("`"): row[1].strip() for row in rows}


def test_there_is_something_to_list() -> None:
    assert len(events()) > 40


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_logged_by_another_way(path: Path) -> None:
    """`print` is for commands, the standard library's loggers for other libraries."""
    text = path.read_text()
    if "structlog.get_logger" in text:
        assert re.findall(r"^(\w+) = structlog\.get_logger", text, re.MULTILINE) == ["log"]
    if path.parts[-2] != "cli":
        assert not re.search(r"^\s*print\(", text, re.MULTILINE)


def test_the_runbook_lists_every_event_with_its_level_and_no_other() -> None:
    assert listed() == events()
