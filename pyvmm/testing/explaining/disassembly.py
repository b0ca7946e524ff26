# SPDX-License-Identifier: MIT
"""Disassembly of the code at an instruction pointer, where capstone is installed (an extra)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

_BITS = {"64-bit mode": 64, "32-bit protected mode": 32, "compatibility mode": 32}
"""By `VcpuState.mode`; all others are of 16 bits."""


def disassembled(code: bytes, address: int, mode: str) -> Sequence[str]:
    """Instructions of `code`, which is at the linear `address`, a line each; none without capstone.

    The last one may be cut off by the end of `code`: it is left out.
    """
    try:
        capstone: Any = import_module("capstone")
    except ImportError:
        return ()
    width = getattr(capstone, f"CS_MODE_{_BITS.get(mode, 16)}")
    engine = capstone.Cs(capstone.CS_ARCH_X86, width)
    return [
        f"{at:#x}: {name} {operands}".rstrip()
        for at, _size, name, operands in engine.disasm_lite(code, address)
    ]
