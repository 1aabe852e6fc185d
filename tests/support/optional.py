"""What is not among the tests' own requirements: a test that needs it is skipped where it is missing."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def needs(module: str) -> Any:
    """A library of `.[producers]`."""
    try:
        return importlib.import_module(module)
    except ImportError:
        pytest.skip(f"{module} is not installed (pip install -e '.[producers]')")
