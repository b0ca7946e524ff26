# SPDX-License-Identifier: MIT
"""Structures of KVM's interface as their fields: what the model would have given the kernel.

Offsets and sizes are those of ``linux/kvm.h``; a test compares each with the structure itself.
"""

from __future__ import annotations

from dataclasses import fields

from pyvmm.hosts.call_record import Field, in_units, meaning_of, number_field
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.registers import Regs

_REGION = "struct kvm_userspace_memory_region"
_REGION2 = "struct kvm_userspace_memory_region2"
_FILE = "struct kvm_create_guest_memfd"
_ATTRIBUTES = "struct kvm_memory_attributes"
_FILE_ATTRIBUTES = "struct kvm_memory_attributes2"
_REGS = "struct kvm_regs"


LEAST = number_field("least", 0, 4)
"""The argument of fcntl(2)'s F_DUPFD_CLOEXEC: the new descriptor is this one, or above it."""


def _numbers(structure: str, *rows: tuple[str, int, int, int]) -> tuple[Field, ...]:
    return tuple(
        number_field(name, value, size, meaning_of(structure, name, value), offset=offset)
        for name, value, size, offset in rows
    )


def _zeroes(name: str, offset: int, size: int) -> Field:
    return Field(name, bytes(size), offset)


def memslot_fields(memslot: Memslot, file: int) -> tuple[str, tuple[Field, ...]]:
    """(C type, fields) for a memslot; `file` is the descriptor of its guest_memfd, if it has one.

    KVM_SET_USER_MEMORY_REGION (api.rst 4.35), with a guest_memfd the second form (4.140).
    """
    has_file = memslot.guest_memfd is not None or MemslotFlag.GUEST_MEMFD in memslot.flags
    flags = int(memslot.flags | MemslotFlag.GUEST_MEMFD if has_file else memslot.flags)
    structure = _REGION2 if has_file else _REGION
    fields = _numbers(
        structure,
        ("slot", memslot.slot, 4, 0),
        ("flags", flags, 4, 4),
        ("guest_phys_addr", memslot.gpa, 8, 8),
        ("memory_size", memslot.size, 8, 16),
        ("userspace_addr", memslot.hva, 8, 24),
    )
    if has_file:
        fields += _numbers(
            structure,
            ("guest_memfd_offset", memslot.guest_memfd_offset, 8, 32),
            ("guest_memfd", file & 0xFFFF_FFFF, 4, 40),
            ("pad1", 0, 4, 44),
        )
        fields += (_zeroes("pad2", 48, 112),)
    return structure, fields


def guest_memfd_fields(size: int, flags: int) -> tuple[str, tuple[Field, ...]]:
    """(C type, fields) of KVM_CREATE_GUEST_MEMFD (api.rst 4.142)."""
    fields = _numbers(_FILE, ("size", size, 8, 0), ("flags", flags, 8, 8))
    return _FILE, (*fields, _zeroes("reserved", 16, 48))


def attributes_fields(gpa: int, size: int, attributes: int) -> tuple[str, tuple[Field, ...]]:
    """(C type, fields) of KVM_SET_MEMORY_ATTRIBUTES (api.rst 4.141)."""
    return _ATTRIBUTES, _numbers(
        _ATTRIBUTES,
        ("address", gpa, 8, 0),
        ("size", size, 8, 8),
        ("attributes", attributes, 8, 16),
        ("flags", 0, 8, 24),
    )


def file_attributes_fields(
    offset: int, size: int, attributes: int
) -> tuple[str, tuple[Field, ...]]:
    """(C type, fields) of KVM_SET_MEMORY_ATTRIBUTES2, as posted: the offset is the file's."""
    fields = _numbers(
        _FILE_ATTRIBUTES,
        ("offset", offset, 8, 0),
        ("size", size, 8, 8),
        ("attributes", attributes, 8, 16),
        ("flags", 0, 8, 24),
        ("error_offset", 0, 8, 32),
    )
    return _FILE_ATTRIBUTES, (*fields, _zeroes("reserved", 40, 88))


def regs_fields(regs: Regs) -> tuple[str, tuple[Field, ...]]:
    """(C type, fields) of KVM_SET_REGS (api.rst 4.12)."""
    rows = ((one.name, getattr(regs, one.name), 8, 8 * i) for i, one in enumerate(fields(Regs)))
    return _REGS, _numbers(_REGS, *rows)


def range_fields(start_name: str, start: int, size: int) -> tuple[Field, ...]:
    """The arguments of a call on [start, start + size), in bytes: `start_name` and the length."""
    return (number_field(start_name, start), length_field(size))


def length_field(size: int) -> Field:
    """The argument for a number of bytes."""
    return number_field("length", size, meaning=in_units(size))
