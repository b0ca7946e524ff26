# SPDX-License-Identifier: MIT
"""Exits in words: the class's name with its values behind it, as one reads them in a manual."""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from pyvmm.hosts.exits import Exit, Hypercall, MemoryFault, MemoryFaultFlag
from pyvmm.rules.abi import KVM_HC_MAP_GPA_RANGE

_ENCRYPTED = 1 << 4
_SMALL = 10
_MOST_BYTES = 16


def exit_words(vcpu: int, exit_: Exit) -> str:
    """``vCPU 0: Hypercall(KVM_HC_MAP_GPA_RANGE, gpa=0x400000, pages=1, private)``."""
    return f"vCPU {vcpu}: {type(exit_).__name__}({', '.join(_values(exit_))})"


def _values(exit_: Exit) -> Iterator[str]:
    match exit_:
        case Hypercall(number=number, args=(gpa, pages, attributes, *_)) if (
            number == KVM_HC_MAP_GPA_RANGE
        ):
            yield "KVM_HC_MAP_GPA_RANGE"
            yield f"gpa={gpa:#x}"
            yield f"pages={pages}"
            yield "private" if attributes & _ENCRYPTED else "shared"
        case MemoryFault(gpa=gpa, size=size, flags=flags):
            yield f"gpa={gpa:#x}"
            yield f"size={size}"
            yield "private" if flags & MemoryFaultFlag.PRIVATE else "shared"
            yield errno.errorcode.get(exit_.errno, f"errno {exit_.errno}")
        case _ if is_dataclass(exit_):
            for field in fields(exit_):
                yield f"{field.name}={_value(getattr(exit_, field.name))}"
        case _:
            pass


def _value(value: object) -> str:
    if isinstance(value, bytes):
        rest = ".." if len(value) > _MOST_BYTES else ""
        return value[:_MOST_BYTES].hex(" ") + rest
    if isinstance(value, int) and not isinstance(value, bool | enum.Enum):
        return f"{value:#x}" if value >= _SMALL else str(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))})"
    return str(value)
