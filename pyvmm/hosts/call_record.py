# SPDX-License-Identifier: MIT
"""System calls and exits as a host made them, for those who watch: values, and who is told.

A record is made of what the kernel was given and gave back, byte for byte, never of what was meant
to be given. On the model host it is what KVM would have been given.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.interface import MemslotFlag

_UNITS = (("GiB", 30), ("MiB", 20), ("KiB", 10))


class Made(enum.Enum):
    """Maker of the answer."""

    KERNEL = "kernel"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Field:
    """One argument, or one field of a structure: little-endian `raw`, `value` where it is a number.

    `offset` counts bytes from the structure's start; that of a plain argument is 0. `meaning` says
    a value in words: names of flags, "4 MiB"; "" where there are none.
    """

    name: str
    raw: bytes
    offset: int = 0
    value: int | None = None
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class SystemCall:
    """One system call and its answer.

    `name` is the call's ("ioctl", "madvise"), `request` what was asked for by it
    ("KVM_CREATE_VM", "MADV_REMOVE"; "" where the name says it all), `target` what on ("VM fd 7").
    `given` are the fields of the C type `structure`, or plain arguments where that is "";
    `returned` those that the kernel wrote there. `result` is what the call returned, -1 with an
    `errno`. `section` is of api.rst ("4.140") or a page of the manual ("madvise(2)"); `thread` is
    the name of the thread that made it.
    """

    made: Made
    name: str
    request: str
    target: str
    structure: str
    given: tuple[Field, ...]
    returned: tuple[Field, ...]
    result: int
    errno: int
    section: str
    thread: str


class Recorder(Protocol):
    """Somebody who is told of each call and each exit, on the thread that made it. Never raises.

    Objects of a host hand it on to those that they make. What vCPUs' threads do in C is not told:
    port writes that are posted, conversions where somebody serves them (`FastConversions`), and the
    registers read and written to get past a hypercall.
    """

    def call(self, made: SystemCall) -> None:
        """Take a call whose answer is there."""
        ...

    def exit(self, vcpu: int, exit_: Exit) -> None:
        """Take an exit that `Vcpu.run` is about to return; the vCPU's thread waits for this."""
        ...


def in_units(size: int) -> str:
    """A number of bytes in the largest unit that it is a multiple of; "" below 1 KiB."""
    for unit, shift in _UNITS:
        if size >= 1 << shift and not size % (1 << shift):
            return f"{size >> shift} {unit}"
    return ""


def flag_names(flags: enum.IntFlag) -> str:
    """Names of the flags set, joined by "|"; what has no name as a number; "" for none."""
    names = [one.name or "" for one in flags]
    rest = int(flags) & ~sum(int(one) for one in flags)
    return "|".join((*names, *((f"{rest:#x}",) if rest else ())))


def vm_type_name(number: int) -> str:
    """The name of a VM type; "" for one that has none here."""
    return VmType(number).name if number in set(VmType) else ""


_REGION: Mapping[str, Callable[[int], str]] = {
    "flags": lambda value: flag_names(MemslotFlag(value)),
    "memory_size": in_units,
}
_MEANINGS: Mapping[str, Mapping[str, Callable[[int], str]]] = {
    "struct kvm_userspace_memory_region": _REGION,
    "struct kvm_userspace_memory_region2": _REGION,
    "struct kvm_create_guest_memfd": {
        "size": in_units,
        "flags": lambda value: flag_names(GuestMemfdFlag(value)),
    },
    "struct kvm_memory_attributes": {
        "size": in_units,
        "attributes": lambda value: flag_names(MemoryAttribute(value)) or "shared",
    },
    "struct kvm_memory_attributes2": {
        "size": in_units,
        "attributes": lambda value: flag_names(MemoryAttribute(value)) or "shared",
    },
    "struct kvm_pre_fault_memory": {"size": in_units},
}


def meaning_of(structure: str, field: str, value: int) -> str:
    """A field's value in words; "" where there are none."""
    say = _MEANINGS.get(structure, {}).get(field)
    return "" if say is None else say(value)


def number_field(
    name: str, value: int, size: int = 8, meaning: str = "", *, offset: int = 0
) -> Field:
    """A number of `size` bytes; a negative one as the two's complement that the kernel gets."""
    raw = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return Field(name, raw, offset, int(value), meaning)  # Not a slot's name, which is an int, too.
