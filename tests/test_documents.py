"""What the pages say is there: files that they name, the example of a notebook, the smallest configuration."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamrnn.config.settings import load

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "deploy/GUIDE.md",
    "deploy/README.md",
    "tests/benchmarks/README.md",
    "findings/README.md",
)
# Where a page's relative names begin: its own folder, the top, the package, the tests.
BEGINS = ("", "streamrnn", "tests", "tests/benchmarks", "deploy", "streamrnn/service")
NAMED = re.compile(
    r"(?<![\w./<>%-])([\w-]+(?:/[\w.-]+)*/?[\w-]+\.(?:py|md|yaml|sh|png|service)|[\w-]+(?:/[\w-]+)+/?)(?![\w/(*])"
)
# Files of whoever reads, and words with a slash in them.
THEIRS = re.compile(r"^(?:config\.yaml|new\.yaml|out\.json|kafka-[a-z-]+\.sh)$")
WORDS = re.compile(
    r"^(?:[A-Z0-9<]|steps?/|ticks/|records/|series-steps/|updates/|bare/|worker/|kB/|MB/|api/|etc/|usr/|proc/|and/|or/)|/(?:s|us|ms|min)$"
)


def named(text: str) -> set[str]:
    """Files and folders that a page names in code: `like/this.py`, or as an argument of a command."""
    inline = re.findall(r"`([^`\n]+)`", text)
    blocks = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    found = {name for code in (*inline, *blocks) for name in NAMED.findall(code.split("  #")[0])}
    return {name for name in found if not THEIRS.match(name) and not WORDS.search(name)}


@pytest.mark.parametrize("page", PAGES)
def test_a_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    places = [(ROOT / page).parent, *(ROOT / begin for begin in BEGINS)]
    missing = {
        name
        for name in named(text)
        if ("." in name.rpartition("/")[2] or name.endswith("/")) and not any((at / name).exists() for at in places)
    }
    links = {
        link
        for link in re.findall(r"\]\(([^)#]+)\)", text)
        if "://" not in link and not ((ROOT / page).parent / link).exists()
    }
    assert not missing | links
    assert named(text), "the test finds no name at all"


def test_the_readme_is_short_and_has_no_figures_of_its_own() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert not re.search(r"\d(?:,\d{3})+ ?(?:records|ticks)|µs|\bp99\b", text)
    for heading in (
        "## Two commands",
        "## Your own Kafka",
        "## In a notebook",
        "## What it promises",
        "## How it compares",
    ):
        assert heading in text


def test_the_smallest_configuration_of_the_readme_is_one() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    given = yaml.safe_load(example)
    chosen = load([], given, {})
    assert (chosen.channels, chosen.horizon, chosen.input) == (("temp", "flow"), 12, "ticks")
    for key in given:  # each of them is needed, or points at a broker of one's own
        rest = {name: value for name, value in given.items() if name != key}
        if key != "kafka":
            with pytest.raises(Exception, match=f"{key}: is needed"):
                load([], rest, {})


def test_the_notebook_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pandas = pytest.importorskip("pandas")
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) == 5
    begin = datetime(2026, 11, 20, 12, tzinfo=UTC)
    history = pandas.DataFrame(
        {
            "ds": [begin + timedelta(hours=hour) for hour in range(75)],
            "temp": [20.0 + hour % 24 for hour in range(75)],
            "flow": [3.0 + hour % 7 for hour in range(75)],
        }
    )
    names: dict[str, Any] = {"history": history}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102
    forecaster = names["forecaster"]
    assert forecaster.forecast().ts == datetime(2026, 11, 23, 15, tzinfo=UTC)
    assert forecaster.forecast().mean.shape == (2, 24)
    printed = capsys.readouterr().out
    assert "yhat_upper" in printed and "missing-channel" in printed and "too little yet" in printed


@pytest.mark.parametrize("script", sorted((ROOT / "findings").glob("*.sh")), ids=lambda path: path.stem)
def test_a_finding_is_a_script_as_the_page_says(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and lines[1].startswith("# ") and "set -euo pipefail" in lines
    assert "mktemp -d" in text and "rm -rf" in text and "as stated" in text and "streamrnn." not in text
    subprocess.run(["bash", "-n", str(script)], check=True)
