# SPDX-License-Identifier: MIT
"""Answers of CPUID on the model (APM vol. 3, appendix E; KVM cpuid.rst for 0x40000000)."""

from __future__ import annotations

import struct

Answer = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

_VENDOR = b"AuthenticAMD"
"""The one whose instruction for hypercalls is VMMCALL; both are understood."""
_NAME = b"pyvmm model, executed by Unicorn"
_SIGNATURE = b"KVMKVMKVM\0\0\0"
_FAMILY = 0x0F_0600  # family 21 is 15 + 6
_SIGNATURE_EAX = _FAMILY | 0x0000_0F11
PHYSICAL_BITS = 40
"""Unicorn's processor: its page tables have reserved bits above."""

# Leaf 1. No local APIC: there is none on the model.
_EDX = sum(1 << bit for bit in (0, 3, 4, 5, 6, 8, 11, 13, 15, 16, 19, 23, 24, 25, 26))
_ECX = sum(1 << bit for bit in (0, 13, 31))  # SSE3, CMPXCHG16B, hypervisor
# Leaf 0x80000001: SYSCALL, NX, 1 GiB pages, long mode; LAHF.
_EXTENDED_EDX = _EDX & 0x0183_F3FF | sum(1 << bit for bit in (11, 20, 26, 29))
_EXTENDED_ECX = 1


def _text(text: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(text) // 4}I", text)


def answer(leaf: int, subleaf: int, index: int) -> Answer:
    """Answer CPUID for a leaf on vCPU `index`; all zeroes for an unknown leaf."""
    del subleaf
    if leaf == 0:
        b, d, c = _text(_VENDOR)
        return 1, b, c, d
    if leaf == 1:
        return _SIGNATURE_EAX, index << 24 | 1 << 16 | 8 << 8, _ECX, _EDX
    if leaf == 0x4000_0000:
        b, c, d = _text(_SIGNATURE)
        return 0x4000_0001, b, c, d
    if leaf == 0x8000_0000:
        b, d, c = _text(_VENDOR)
        return 0x8000_0008, b, c, d
    if leaf == 0x8000_0001:
        return _SIGNATURE_EAX, 0, _EXTENDED_ECX, _EXTENDED_EDX
    if 0x8000_0002 <= leaf <= 0x8000_0004:
        words = _text(_NAME.ljust(48, b"\0"))
        at = 4 * (leaf - 0x8000_0002)
        return words[at], words[at + 1], words[at + 2], words[at + 3]
    if leaf == 0x8000_0008:
        return 48 << 8 | PHYSICAL_BITS, 0, 0, 0
    return 0, 0, 0, 0
