"""Words that an operator would have to guess at do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = {
    r"\bstrangers?\b": "zombie writer, another worker",
    r"\b(puts?|putting) (it |them )?out of\b": "evicts from",
    r"\blets? go of\b|\blet go\b|\bletting go\b": "evict, free, give up",
    r"\bhad better\b": "must",
    r"\bin hand\b": "current",
}
FILES = [
    path
    for pattern in (
        "streamrnn/**/*.py",
        "simulators/*.py",
        "tests/**/*.py",
        "tests/*.md",
        "deploy/*.md",
        "*.md",
        "findings/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
    if path != Path(__file__)
]


@pytest.mark.parametrize("word", WORDS)
def test_nobody_has_to_guess(word: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(word, line, re.IGNORECASE)
    ]
    assert not found, f"write: {WORDS[word]}\n" + "\n".join(found)


def test_modules_that_a_text_names_are_there() -> None:
    """`room.module` and `room.module.Name`, in backticks."""
    package = ROOT / "streamrnn"
    for path in sorted(package.rglob("*.py")):
        for room, module in re.findall(r"`(?:streamrnn\.)?([a-z]+)\.([a-z_]+)(?:\.\w+)?`", path.read_text()):
            if room == "service" or (package / room).is_dir():
                at = package / room / module
                assert at.is_dir() or at.with_suffix(".py").exists(), f"{path.name} names {room}.{module}"
