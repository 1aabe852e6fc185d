"""Where compiled kernels are kept from one start to the next, on any file system that a service is given.

They are read wherever they are: in the folder that NUMBA_CACHE_DIR names, beside the sources, in the user's cache, in a
folder of the temporary one. What is compiled anew is kept in the first of these that can be written, so an image that
was built with its kernels serves read-only, under any user and without a home. Where nothing can be written, kernels live as
long as the process. A disk that is full costs the keeping, not the start.

Numba itself raises RuntimeError at import where it finds no folder to write, and reads from no other. It also asks only whether
a function's own file has changed, while a kernel holds code and constants of the others, too: here all are asked for
(`SOURCES`), so that an upgrade never runs on kernels of the version before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile

PACKAGE = Path(__file__).parent


def _sources() -> str:
    """A digest of all kernels, those in folders below, too, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


SOURCES = _sources()


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _own(folder: Path) -> bool:
    """Whether a folder is this user's alone: what lies there is run, and others can write where it is."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return False


def _folders() -> tuple[list[Path], Path | None]:
    """(folders that are read, the one that is written: one of them, or none)"""
    folders = [PACKAGE / "__pycache__"]
    # Installations that share a folder stay apart.
    here = f"kernels-{hashlib.sha256(str(PACKAGE).encode()).hexdigest()[:16]}"
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        folders.insert(0, Path(chosen, here).absolute())
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 - `~` where there is none
    if home.is_absolute():
        folders.append(home / "streamrnn" / here)
    for folder in folders:
        if _writable(folder):
            return folders, folder
    with contextlib.suppress(OSError):
        temporary = Path(tempfile.gettempdir(), f"streamrnn-kernels-{os.getuid()}")
        if _own(temporary) and _writable(temporary):
            return [*folders, temporary], temporary
    return folders, None


FOLDERS, WRITTEN = _folders()


class _Place:
    """What numba asks of a locator. It stands for all folders; the one that is written gives the name."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        # Numba's own part of the name is the module's last word and the function's.
        folders = function.__module__.split(".")[2:-1]
        self._name = "-".join([*folders, str(function.__code__.co_firstlineno)])

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Place:
        return cls(function, file)

    def get_cache_path(self) -> str:
        return str(WRITTEN or FOLDERS[0])

    def get_source_stamp(self) -> str:
        return SOURCES

    def get_disambiguator(self) -> str:
        return self._name

    def ensure_cache_path(self) -> None:
        pass


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Place]  # noqa: RUF012 - as numba has it


class KernelCache(FunctionCache):
    """Numba's cache of one function, read from several folders and written to one at most."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        base = self._impl.filename_base
        self._read = [IndexDataCacheFile(str(folder), base, SOURCES) for folder in FOLDERS]

    def holds(self) -> bool:
        for file in self._read:
            with contextlib.suppress(Exception):
                if file._load_index():  # noqa: SLF001
                    return True
        return False

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        key = self._index_key(sig, target_context.codegen())
        for file in self._read:
            try:
                data = file.load(key)
                if data is not None:
                    return self._impl.rebuild(target_context, data)
            except Exception:  # noqa: BLE001, S112 - a file that is damaged, or not for this user, is as good as none
                continue
        return None

    def _save_overload(self, sig: Any, data: Any) -> None:
        if WRITTEN is None:
            return
        try:
            try:
                super()._save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # noqa: BLE001 - the list of what is kept is damaged
                self._cache_file.flush()
                super()._save_overload(sig, data)
        except OSError as error:  # no space, say
            UNKEPT.append(str(error))


def is_kept(kernel: Any) -> bool:
    """Whether a kernel, for whatever arguments, was compiled before and is kept."""
    cache = getattr(kernel, "_cache", None)
    return isinstance(cache, KernelCache) and cache.holds()


# What went wrong where kernels were to be kept.
UNKEPT: list[str] = []


def note() -> str:
    """What an operator has to know of where kernels are kept; empty where all is well."""
    if UNKEPT:
        return f"compiled kernels cannot be kept in {WRITTEN}: {UNKEPT[0]}; each start compiles them again"
    if WRITTEN is None:
        return (
            f"compiled kernels cannot be kept: {', '.join(map(str, FOLDERS))} and the temporary folder cannot be written; "
            "what is not there is compiled at each start (set NUMBA_CACHE_DIR to a folder that can be written)"
        )
    return ""
