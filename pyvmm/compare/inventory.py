# SPDX-License-Identifier: MIT
"""Inventory that a guest prints of its machine: the memory map, and the answers of CPUID.

The lines, as ``guest/programs/inventory.c`` prints them, addresses and registers in hexadecimal::

    memory START-END usable            bytes of GPA, END exclusive; or reserved, or type N
    cpuid LEAF.SUBLEAF EAX EBX ECX EDX

Such lines are taken out of the console's text before that is compared: machines differ there by
nature, and what a difference means is another question than whether a program behaves alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_MEMORY = re.compile(r"memory ([0-9a-f]{8,16})-([0-9a-f]{8,16}) (usable|reserved|type [0-9]+)")
_CPUID = re.compile(
    r"cpuid ([0-9a-f]{8})\.([0-9a-f]{1,8}) ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8})"
)


@dataclass(frozen=True, slots=True, order=True)
class MemoryLine:
    """[start, end) in bytes of GPA, and what the map calls it."""

    start: int
    end: int
    kind: str

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.end:#x} {self.kind}"


@dataclass(frozen=True, slots=True, order=True)
class CpuidLine:
    """Answer of CPUID for a leaf and subleaf: EAX, EBX, ECX, EDX."""

    leaf: int
    subleaf: int
    registers: tuple[int, int, int, int]

    def __str__(self) -> str:
        answer = " ".join(f"{one:08x}" for one in self.registers)
        return f"{self.leaf:08x}.{self.subleaf:x} {answer}"


@dataclass(frozen=True, slots=True)
class Inventory:
    """Inventory lines that one run printed, in that order."""

    memory: tuple[MemoryLine, ...]
    cpuid: tuple[CpuidLine, ...]


def taken_apart(console: bytes) -> tuple[Inventory, tuple[str, ...]]:
    """The inventory in a console's text, and the lines that are none of it.

    Bytes that are no UTF-8 are shown as ``\\xNN``; lines end with a line feed and nothing else, so
    the last of the others is what follows the last line feed, mostly nothing.
    """
    text = console.decode("utf-8", "backslashreplace")
    memory: list[MemoryLine] = []
    cpuid: list[CpuidLine] = []
    rest: list[str] = []
    *whole, unfinished = text.split("\n")
    for line in whole:
        if match := _MEMORY.fullmatch(line):
            memory.append(MemoryLine(int(match[1], 16), int(match[2], 16), match[3]))
        elif match := _CPUID.fullmatch(line):
            numbers = [int(part, 16) for part in match.groups()]
            cpuid.append(CpuidLine(numbers[0], numbers[1], _four(numbers[2:])))
        else:
            rest.append(line)
    return Inventory(tuple(memory), tuple(cpuid)), (*rest, unfinished)


def console_lines(console: bytes) -> int:
    """Count the lines of a console's text that are no inventory."""
    _, rest = taken_apart(console)
    return len(rest) - 1


def _four(numbers: Sequence[int]) -> tuple[int, int, int, int]:
    eax, ebx, ecx, edx = numbers
    return eax, ebx, ecx, edx


def changed_lines(
    reference: Sequence[MemoryLine | CpuidLine], other: Sequence[MemoryLine | CpuidLine]
) -> tuple[str, ...]:
    """List the lines that only one has, ascending: ``- `` the reference's, ``+ `` the other's."""
    ours, theirs = set(reference), set(other)
    marked = [(str(line), "-") for line in ours - theirs]
    marked += [(str(line), "+") for line in theirs - ours]
    return tuple(f"{sign} {line}" for line, sign in sorted(marked, key=_numbered))


def _numbered(marked: tuple[str, str]) -> tuple[int, str, bool]:
    line, sign = marked
    start = re.match(r"(?:0x)?([0-9a-f]+)", line)
    return int(start[1], 16) if start else 0, line.split(" ")[0], sign == "+"
