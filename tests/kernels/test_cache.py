"""Compiled code that is kept from one start to the next, on file systems that a service is given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import streamrnn
from streamrnn import kernels

CONTAINED = Path(__file__).parents[1] / "deploy" / "contained.py"

SAYS = """
import json
from streamrnn.kernels import caching
from streamrnn.kernels.outer import twice
print(json.dumps([twice(1), sum(twice.stats.cache_hits.values()), str(caching.WRITTEN), caching.note()]))
"""


class Installation:
    """A small package with the kernels' own way of keeping them."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "site" / "streamrnn"
        (self.package / "kernels").mkdir(parents=True)
        (self.package / "__init__.py").write_text("")
        for name in ("__init__.py", "caching.py", "compiling.py"):
            shutil.copy(Path(kernels.__file__).with_name(name), self.package / "kernels" / name)
        outer = "from streamrnn.kernels import compiled\nfrom streamrnn.kernels.inner import FACTOR\n\n\n"
        (self.package / "kernels" / "outer.py").write_text(f"{outer}@compiled\ndef twice(x):\n    return FACTOR * x\n")
        self.kept = self.package / "kernels" / "__pycache__"
        self.home, self.temporary, self.chosen = folder / "home", folder / "tmp", folder / "chosen"
        for path in (self.home, self.temporary, self.chosen):
            path.mkdir()
        self.change(2)

    def change(self, factor: int) -> None:
        (self.package / "kernels" / "inner.py").write_text(f"FACTOR = {factor}\n")

    def move(self, module: str) -> str:
        """Copies a module into a folder below the kernels; returns its name there."""
        below = self.package / "kernels" / "deep"
        below.mkdir(exist_ok=True)
        (below / "__init__.py").write_text("")
        shutil.copy(self.package / "kernels" / f"{module}.py", below / f"{module}.py")
        return f"deep.{module}"

    def starts(self, *contained: str, chosen: bool = False, of: str = "outer") -> tuple[int, int, str, str]:
        """(result, kernels found kept, where new ones are kept, the note) of a start; in a container with these options."""
        environment = {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(self.package.parent),
        }
        environment |= {"NUMBA_CACHE_DIR": str(self.chosen)} if chosen else {}
        command = [sys.executable, "-B", "-c", SAYS.replace("kernels.outer", f"kernels.{of}")]
        if contained:
            # Its folders are below /tmp on most machines: that stays as it is here, and is as read-only as the rest.
            command = [sys.executable, str(CONTAINED), "--no-tmp", *contained, "--", *command]
        else:
            environment["HOME"] = str(self.home)
        done = subprocess.run(
            command, cwd=self.package.parent, capture_output=True, text=True, check=False, timeout=300, env=environment
        )
        if done.returncode == 125:
            pytest.skip(f"this kernel permits no namespaces: {done.stderr}")
        assert done.returncode == 0, done.stderr
        found: tuple[int, int, str, str] = tuple(json.loads(done.stdout))
        return found


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def test_a_changed_kernel_is_noticed_by_those_that_call_it(installation: Installation) -> None:
    """An upgrade leaves the files of a kernel alone that did not change, though one that it calls did."""
    assert installation.starts()[:2] == (2, 0)
    installation.change(3)
    assert [installation.starts()[:2] for _ in range(2)] == [(3, 0), (3, 1)]
    assert list(installation.package.rglob("*.nbi")), "it is kept at all"
    assert Path(streamrnn.__file__).parent != installation.package


def test_kernels_in_folders_are_looked_at_too_and_kept_apart_from_those_of_the_same_name(
    installation: Installation,
) -> None:
    deep = installation.move("outer")
    path = installation.package / "kernels" / "deep" / "outer.py"
    path.write_text(path.read_text().replace("FACTOR * x", "FACTOR * x + 100"))
    assert installation.starts()[:2] == (2, 0)
    assert [installation.starts(of=deep)[:2] for _ in range(2)] == [(102, 0), (102, 1)]
    assert installation.starts()[:2] == (2, 1)
    # A constant of a module in a folder is in the code of those that call it.
    installation.move("inner")
    (installation.package / "kernels" / "deep" / "inner.py").write_text("FACTOR = 7\n")
    path.write_text(path.read_text().replace("kernels.inner", "kernels.deep.inner"))
    assert [installation.starts(of=deep)[:2] for _ in range(2)] == [(107, 0), (107, 1)]
    (installation.package / "kernels" / "deep" / "inner.py").write_text("FACTOR = 8\n")
    assert installation.starts(of=deep)[:2] == (108, 0)


def test_an_image_that_was_built_with_its_kernels_serves_read_only(installation: Installation) -> None:
    """Under another user, too, who has no home: numba alone would end with a traceback at import."""
    for chosen in (False, True):
        assert installation.starts(chosen=chosen)[:2] == (2, 0)
        result, hits, where, note = installation.starts("--writable", str(installation.temporary), chosen=chosen)
        assert (result, hits, note) == (2, 1, "")
        assert where.startswith(str(installation.temporary))  # for kernels that the image lacks
        shutil.rmtree(installation.kept, ignore_errors=True)


def test_what_an_image_lacks_is_kept_in_the_temporary_folder(installation: Installation) -> None:
    writable = ("--writable", str(installation.temporary))
    first, second = installation.starts(*writable), installation.starts(*writable)
    assert (first[1], second[1]) == (0, 1)
    assert first[2] == second[2] != "None"
    # What others can write in is not run.
    Path(first[2]).chmod(0o777)
    assert installation.starts(*writable)[1:3] == (0, "None")


def test_where_nothing_can_be_written_it_serves_all_the_same_and_says_so(installation: Installation) -> None:
    result, hits, where, note = installation.starts("--uid", "12345")
    assert (result, hits, where) == (2, 0, "None")
    assert "compiled at each start" in note
    assert "NUMBA_CACHE_DIR" in note


def test_a_damaged_file_is_compiled_anew(installation: Installation) -> None:
    assert installation.starts()[1] == 0
    for path in installation.kept.glob("*.nb?"):
        path.write_bytes(path.read_bytes()[:20])
    assert [installation.starts()[:2] for _ in range(2)] == [(2, 0), (2, 1)]
