"""A module imports from its own floor or below; the lower floors have no clock, no files, no sockets; no pickle at all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "streamrnn"
FLOOR_OF_FOLDER = {
    **dict.fromkeys(("kernels", "wire"), 0),
    "model": 1,
    "stream": 2,
    **dict.fromkeys(("runtime", "transports", "stores", "config"), 3),
    **dict.fromkeys(("serving", "training", "backtest", "monitor", "discovery", "app", "cli"), 4),
}
# `forecaster` takes its settings and defaults from the configuration's own model; `__init__` imports when a name is used.
TOP_LEVEL_FLOOR = {"__main__": 4, "__init__": 4, "forecaster": 4}
NOT_BELOW_TRANSPORTS = {"asyncio", "socket", "time", "aiohttp", "aiokafka", "os", "subprocess", "threading"}
# Where compiled code is kept between two starts: read and written when it is imported, and not afterwards.
KEEPS_FILES = "kernels/caching.py"
PICKLES = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def floor(parts: tuple[str, ...]) -> int:
    """The floor of a module given as its path below the package."""
    if len(parts) > 1 or parts[0] in FLOOR_OF_FOLDER:
        return FLOOR_OF_FOLDER[parts[0]]
    return TOP_LEVEL_FLOOR.get(parts[0], 0)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_downwards(path: Path) -> None:
    own = floor(path.relative_to(PACKAGE).with_suffix("").parts)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "streamrnn" and len(parts) > 1 and (PACKAGE / parts[1]).exists():
            assert floor((parts[1], "")) <= own, f"{path.name} (floor {own}) imports {name}"
        elif parts[0] == "streamrnn" and len(parts) > 1 and (PACKAGE / f"{parts[1]}.py").exists():
            assert floor((parts[1],)) <= own, f"{path.name} (floor {own}) imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_lower_floors_have_no_clock_and_no_io(path: Path) -> None:
    if floor(path.relative_to(PACKAGE).with_suffix("").parts) > 2:
        return
    roots = {name.split(".")[0] for name in imports(path)}
    kept = {"os"} if str(path.relative_to(PACKAGE)) == KEEPS_FILES else set()
    assert roots & NOT_BELOW_TRANSPORTS == kept
    calls = {
        n.func.id
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert "open" not in calls


def test_floor_zero_knows_no_torch() -> None:
    for path in MODULES:
        if floor(path.relative_to(PACKAGE).with_suffix("").parts) == 0:
            assert "torch" not in {name.split(".")[0] for name in imports(path)}, path


def test_nothing_unpickles() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not {name.split(".")[0] for name in imports(path)} & PICKLES, path
        assert "torch.load" not in text, path


def test_the_runtime_knows_nothing_of_the_product() -> None:
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] == "runtime":
            assert not [name for name in imports(path) if name.split(".")[0] == "streamrnn"], path


def test_no_two_rooms_import_each_other() -> None:
    ways = {
        (path.relative_to(PACKAGE).parts[0], name.split(".")[1])
        for path in MODULES
        for name in imports(path)
        if name.startswith("streamrnn.") and (PACKAGE / name.split(".")[1]).is_dir()
    }
    assert not {(a, b) for a, b in ways if a < b and (b, a) in ways}
