# SPDX-License-Identifier: MIT
"""Describes the cffi extension `pyvmm.hosts.kvm._kvm` to setuptools.

setup.py names this file, and cffi executes it from the project's root without importing the
package, so it locates its sources by its own name and imports nothing of pyvmm.
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

_ROOM = Path("pyvmm/hosts/kvm")
"""Relative to the project's root: setuptools wants relative source paths."""
_HEADERS = (
    "kvm_abi_vm.h",
    "kvm_abi_vcpu.h",
    "kvm_abi.h",
    "posted.h",
    "conversions.h",
    "held.h",
    "split_queue.h",
    "block_queue.h",
    "net_queue.h",
    "history.h",
    "run.h",
    "calls.h",
)
"""For the compiler and for cffi alike, each after what it needs."""
_INSIDE = (
    "conversions_inside.h",
    "held_inside.h",
    "split_queue_inside.h",
    "net_queue_inside.h",
)
"""For the compiler only."""
_SOURCES = (
    "posted.c", "conversions.c", "conversion_calls.c", "conversions_lock.c", "held.c",
    "split_queue.c", "block_queue.c", "net_queue.c", "net_send.c", "net_receive.c", "history.c",
    "exit_code.c", "run.c", "calls.c",
)  # fmt: skip

_DIRECT_CALLS = ("-fvisibility=hidden", "-fno-plt")
"""Only the module's initialization is exported: each call on the exit path is one instruction."""


def _here() -> Path:
    name = globals().get("__file__")
    return Path(name).resolve().parent if name else _ROOM.resolve()


def _declarations(header: Path) -> str:
    """The header as cffi can read it: without what is meant for the compiler only."""
    lines: list[str] = []
    for_compiler = False
    for line in header.read_text(encoding="utf-8").splitlines():
        if line.startswith("#ifndef PYVMM_CDEF"):
            for_compiler = True
        elif for_compiler:
            for_compiler = not line.startswith("#endif")
        else:
            lines.append(line)
    return "\n".join(lines)


def _strictness() -> list[str]:
    """Warnings are errors only for those who change pyvmm, as in the guests' Makefile."""
    return ["-Werror"] if os.environ.get("PYVMM_WERROR", "0") not in {"", "0"} else []


def _no_paths() -> str:
    """Keep the place of the build out of the debugging information: it makes no difference."""
    return f"-ffile-prefix-map={Path.cwd()}=."


def _describe() -> FFI:
    here = _here()
    ffi = FFI()
    for name in _HEADERS:
        ffi.cdef(_declarations(here / name))
    ffi.set_source(
        "pyvmm.hosts.kvm._kvm",
        "".join(f'#include "{name}"\n' for name in _HEADERS),
        sources=[str(_ROOM / name) for name in _SOURCES],
        include_dirs=[str(here)],
        depends=[str(_ROOM / name) for name in (*_HEADERS, *_INSIDE)],
        extra_compile_args=[
            "-std=gnu11",
            "-O2",
            "-Wall",
            "-Wextra",
            *_DIRECT_CALLS,
            _no_paths(),
            *_strictness(),
        ],
    )
    return ffi


ffibuilder = _describe()

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
