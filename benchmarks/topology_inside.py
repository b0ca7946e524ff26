# SPDX-License-Identifier: MIT
"""A topology of namespaces with a tap each, put up and taken down in namespaces of its own.

``python -m benchmarks.topology_inside pyvmm|ip COUNT`` prints the times as JSON. ``ip`` is as a
script of iproute2's does it: a batch for the namespaces, and a process for each tap.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_NEW_NAMESPACES = 1 << 17 | 1 << 30
"""CLONE_NEWNS, CLONE_NEWNET."""
_PRIVATE = 1 << 18 | 1 << 14
"""MS_PRIVATE, MS_REC."""
_NAMES = Path("/run/netns")


def _enter() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.c_ulong(0)
    if (
        libc.unshare(_NEW_NAMESPACES)
        or libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None)
        or libc.mount(b"none", b"/run", b"tmpfs", nothing, None)
    ):
        raise SystemExit(f"no namespaces: {os.strerror(ctypes.get_errno())}")


def _text(count: int) -> str:
    each = "[namespace.n{0}]\n[tap.t{0}]\nnamespace = 'n{0}'\n"
    return "name = 'many'\n" + "".join(each.format(number) for number in range(count))


def _call(*words: str, given: str = "") -> None:
    subprocess.run(words, input=given, text=True, stdout=subprocess.DEVNULL, check=True)


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def _by_pyvmm(count: int) -> tuple[Callable[[], None], Callable[[], None]]:
    path = Path("/run/many.toml")
    path.write_text(_text(count), encoding="ascii")
    command = (sys.executable, "-m", "pyvmm", "net")
    return lambda: _call(*command, "up", str(path)), lambda: _call(*command, "down", "many")


def _by_ip(count: int) -> tuple[Callable[[], None], Callable[[], None]]:
    def up() -> None:
        _call("ip", "-batch", "-", given="".join(f"netns add n{one}\n" for one in range(count)))
        for one in range(count):
            lines = f"tuntap add t{one} mode tap vnet_hdr\nlink set t{one} up\nlink set lo up\n"
            _call("ip", "-n", f"n{one}", "-batch", "-", given=lines)

    def down() -> None:
        _call("ip", "-batch", "-", given="".join(f"netns del n{one}\n" for one in range(count)))

    return up, down


def main(way: str, count: int) -> None:
    """Do it once in one way."""
    _enter()
    up, down = {"pyvmm": _by_pyvmm, "ip": _by_ip}[way](count)
    up_ms = _timed(up)
    made = len(list(_NAMES.iterdir()))
    down_ms = _timed(down)
    left = len(list(_NAMES.iterdir()))
    if (made, left) != (count, 0):
        raise SystemExit(f"{made} namespaces were made, {left} are left")
    print(json.dumps({"up_ms": up_ms, "down_ms": down_ms}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
