"""Compiled code that is kept from one start to the next."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import streamrnn
from streamrnn import kernels

SAYS = "from streamrnn.kernels.outer import twice; print(twice(1))"


def test_a_changed_kernel_is_noticed_by_those_that_call_it(tmp_path: Path) -> None:
    """An upgrade leaves the files of a kernel alone that did not change, though one that it calls did."""
    package = tmp_path / "streamrnn"
    (package / "kernels").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copy(Path(kernels.__file__), package / "kernels" / "__init__.py")
    inner, outer = package / "kernels" / "inner.py", package / "kernels" / "outer.py"
    outer.write_text(
        "from streamrnn.kernels import compiled\nfrom streamrnn.kernels.inner import FACTOR\n\n\n"
        "@compiled\ndef twice(x):\n    return FACTOR * x\n"
    )

    def said(factor: int) -> str:
        inner.write_text(f"FACTOR = {factor}\n")
        return subprocess.run(
            [sys.executable, "-B", "-c", SAYS], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
        ).stdout.strip()

    assert [said(2), said(3), said(3)] == ["2", "3", "3"]
    assert list(package.rglob("*.nbi")), "it is kept at all"
    assert Path(streamrnn.__file__).parent != package
