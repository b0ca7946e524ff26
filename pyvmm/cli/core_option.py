# SPDX-License-Identifier: MIT
"""``--dump-guest-core``: whether a core of this process has the guest's memory."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pyvmm.errors import SystemCallError

_FILTER = Path("/proc/self/coredump_filter")
_SHARED = 1 << 1 | 1 << 3
"""Anonymous shared mappings, as memfds count, and file-backed ones, as guest_memfds (core(5))."""


def add_core_argument(parser: argparse.ArgumentParser) -> None:
    """--dump-guest-core, as QEMU's ``-machine dump-guest-core=``, but off unless asked for."""
    parser.add_argument(
        "--dump-guest-core", choices=("on", "off"), default="off",
        help="whether a core of pyvmm has the guest's memory, as far as pyvmm has it mapped",
    )  # fmt: skip


def let_guest_memory_into_cores() -> None:
    """Have this process's core filter pass what guest memory is mapped from.

    Nothing to do where the kernel writes no cores at all. Raises `SystemCallError`.
    """
    try:
        present = int(_FILTER.read_text(), 16)
        if present & _SHARED != _SHARED:
            _FILTER.write_text(f"{present | _SHARED:#x}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise SystemCallError(
            "let guest memory into cores",
            error.errno or 0,
            f"{_FILTER}: {os.strerror(error.errno or 0)}",
            "leave --dump-guest-core out",
        ) from error
