"""Runs a command as a container does: root read-only, a small temporary folder without exec, an unknown user, no home.

    python contained.py [--tmp-kb 16384] [--uid 10001] [--writable DIR …] [--no-tmp] -- command …

The temporary folder is /mnt, by TMPDIR: what is tried may lie below /tmp.

By namespaces of the kernel alone (user_namespaces(7), mount_namespaces(7)), so no container engine and no rights are needed.
Exit code 125 where the kernel does not permit them.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000
READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_RECURSIVE, AT_CWD = 442, 0x8000, -100
REFUSED = 125

libc = ctypes.CDLL(None, use_errno=True)


class Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def asked(result: int, what: str) -> None:
    if result != 0:
        print(f"contained: {what}: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(REFUSED)


def enter(flags: int, uid: int, gid: int) -> None:
    """New namespaces; inside, this process is `uid` and `gid`."""
    outside = os.getuid(), os.getgid()
    asked(libc.unshare(flags | NEW_USER), "no namespaces")
    maps = (("setgroups", "deny"), ("uid_map", f"{uid} {outside[0]} 1"), ("gid_map", f"{gid} {outside[1]} 1"))
    try:
        for name, text in maps:
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - written in one piece
                file.write(text)
    except OSError as error:
        print(f"contained: no other user: {error}", file=sys.stderr)
        sys.exit(REFUSED)


def set_attributes(path: str, attributes: Attributes, flags: int = AT_RECURSIVE) -> None:
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    asked(
        libc.syscall(MOUNT_SETATTR, AT_CWD, path.encode(), flags, ctypes.byref(attributes), size), f"mounts of {path}"
    )


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    text = options.encode() or None
    asked(libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, text), f"mount of {target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tmp-kb", type=int, default=16_384)
    parser.add_argument("--no-tmp", action="store_true", help="nothing can be written but what is --writable")
    parser.add_argument("--uid", type=int, default=10_001)
    parser.add_argument("--writable", action="append", default=[])
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()

    enter(NEW_MOUNTS, 0, 0)
    for path in options.writable:  # a mount of its own keeps its own attributes
        mount(path, path, "", BIND | RECURSIVE)
    set_attributes("/", Attributes(READ_ONLY, 0, PRIVATE, 0))
    for path in ["/proc", *options.writable]:
        set_attributes(path, Attributes(0, READ_ONLY, 0, 0))
    if not options.no_tmp:
        mount("tmpfs", "/mnt", "tmpfs", NO_SUID | NO_DEVICES | NO_EXEC, f"size={options.tmp_kb}k,mode=1777")
    enter(0, options.uid, options.uid)
    environment = {
        name: text for name, text in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")
    }
    if not options.no_tmp:
        environment["TMPDIR"] = "/mnt"
    os.chdir("/")
    os.execvpe(options.command[0], options.command, environment)  # noqa: S606


if __name__ == "__main__":
    main()
