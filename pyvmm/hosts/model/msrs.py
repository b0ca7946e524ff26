# SPDX-License-Identifier: MIT
"""Model-specific registers (APM vol. 2, appendix A): those that the model has."""

from __future__ import annotations

import time
from dataclasses import replace

from pyvmm.hosts.model.cpu_state import CpuState
from pyvmm.hosts.model.exceptions import is_canonical
from pyvmm.hosts.registers import Cr0, Efer

_TSC = 0x10
APIC_BASE = 0x1B
_EFER = 0xC000_0080
_FS_BASE = 0xC000_0100
_GS_BASE = 0xC000_0101
_EFER_KNOWN = int(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)
_ADDRESSES = frozenset({0xC000_0082, 0xC000_0083, 0xC000_0102, 0x175, 0x176})
_BASES = {_FS_BASE: "fs", _GS_BASE: "gs"}
_ZERO = frozenset({0x8B, 0xFE, 0x179, 0x17A, 0x1A0, 0x1D9, 0x2FF, 0xC001_0015})
"""Microcode, MTRRs, machine checks and the like: read as 0, and a write is taken and forgotten."""
TSC_HZ = 1_000_000_000


class Msrs:
    """Those of one vCPU. Each access gives None where there is #GP instead."""

    def __init__(self, apic_base: int) -> None:
        self.apic_base = apic_base
        self._tsc_offset = -time.monotonic_ns()

    @property
    def tsc(self) -> int:
        """The time stamp counter."""
        return time.monotonic_ns() + self._tsc_offset

    @tsc.setter
    def tsc(self, value: int) -> None:
        self._tsc_offset = value - time.monotonic_ns()

    def read(self, state: CpuState, index: int) -> int | None:
        """RDMSR."""
        if index == _EFER:
            return state.efer
        if index == APIC_BASE:
            return self.apic_base
        if index == _TSC:
            return self.tsc
        if index in _BASES:
            return state.base_of(_BASES[index])
        if index in _ZERO:
            return 0
        return state.msr(index)

    def write(self, state: CpuState, index: int, value: int) -> bool | None:
        """WRMSR. True: the translations have to be forgotten."""
        if index == _EFER:
            return self._write_efer(state, value)
        if index in _BASES:
            if not is_canonical(value):
                return None
            name = _BASES[index]
            state.set_segment(name, replace(state.segment(name), base=value))
            return False
        if index in _ADDRESSES and not is_canonical(value):
            return None
        if index == _TSC:
            self.tsc = value
            return False
        if index == APIC_BASE:
            self.apic_base = value
            return False
        if index in _ZERO or state.set_msr(index, value):
            return False
        return None

    @staticmethod
    def _write_efer(state: CpuState, value: int) -> bool | None:
        old = state.efer
        if value & ~_EFER_KNOWN:
            return None
        if (value ^ old) & Efer.LME and state.cr(0) & Cr0.PG:
            return None
        state.efer = value & ~Efer.LMA | old & Efer.LMA
        return True
