# SPDX-License-Identifier: MIT
"""Registers and addresses as QEMU's human monitor prints them, read strictly. Pure.

QEMU's ``target/i386/cpu-dump.c`` (``info registers``) and ``monitor/misc.c`` (``gva2gpa``) print
them; a line that is not as it is there is an error, not a register left out.
"""

from __future__ import annotations

import re

from pyvmm.errors import ExitCode, PyvmmError
from pyvmm.hosts.registers import Efer
from pyvmm.testing.drivers.driver import Registers

_GENERAL = re.compile(r"\b([ER][A-Z]{2}|R[89] ?|R1[0-5])=([0-9a-f]{8,16})\b")
_SEGMENT = re.compile(
    r"^(ES|CS|SS|DS|FS|GS|LDT|TR) *=([0-9a-f]{4}) ([0-9a-f]{8,16}) [0-9a-f]{8} [0-9a-f]{8}\b",
    re.MULTILINE,
)
_OTHER = re.compile(r"\b(CR[0234]|EFER)=([0-9a-f]{8,16})\b")
_GPA = re.compile(r"gpa: (0x[0-9a-f]+)")

_FLAGS = {"RFL": "rflags", "EFL": "rflags"}
_ALWAYS = frozenset(
    {
        *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "rflags"),
        *("cr0", "cr2", "cr3", "cr4", "efer", "es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"),
    }
)


class SenselessAnswerError(PyvmmError):
    """QEMU's monitor printed what is not in its own format."""

    exit_code = ExitCode.SYSTEM_CALL


def parse_registers(text: str) -> Registers:
    """Read what ``info registers`` prints of one vCPU.

    A vCPU that is not in 64-bit code has no r8..r15 there, and halves of the others. Raises
    `SenselessAnswerError` where something is missing.
    """
    values: dict[str, int] = {}
    for name, digits in _GENERAL.findall(text):
        values[_FLAGS.get(name, f"r{name.strip().lower()[1:]}")] = int(digits, 16)
    values |= {name.lower(): int(digits, 16) for name, digits in _OTHER.findall(text)}
    bases: dict[str, int] = {}
    for name, selector, base in _SEGMENT.findall(text):
        values[name.lower()], bases[name.lower()] = int(selector, 16), int(base, 16)
    missing = _ALWAYS - values.keys()
    if missing:
        raise SenselessAnswerError(
            "read a vCPU's registers from QEMU",
            f"its answer has no {', '.join(sorted(missing))}: {text!r:.200}",
        )
    return Registers(values, bases)


def next_instruction(registers: Registers) -> int:
    """Linear address of the instruction that comes next (SDM vol. 1, 3.4.2.1 and 3.5.1.1)."""
    is_64_bit = registers.values["efer"] & Efer.LMA and "r8" in registers.values
    return registers.values["rip"] + (0 if is_64_bit else registers.bases["cs"])


def parse_translation(text: str) -> int | None:
    """Read what ``gva2gpa`` prints: a GPA, or None for ``Unmapped``.

    Raises `SenselessAnswerError` for anything else.
    """
    said = text.strip()
    found = _GPA.fullmatch(said)
    if found:
        return int(found[1], 16)
    if said == "Unmapped":
        return None
    raise SenselessAnswerError("translate an address with QEMU", f"it answers {text!r:.200}")
