# SPDX-License-Identifier: MIT
"""What every plan must fulfil, whatever image it came from."""

from __future__ import annotations

from itertools import pairwise

from pyvmm.boot.plan import BootPlan, BootProtocol
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import BIOS_GPA

_LINUX = {BootProtocol.LINUX_64, BootProtocol.LINUX_32}


def assert_sound(plan: BootPlan, layout: AddressMap) -> None:
    """Placements are sorted, not empty, in usable RAM, and share no byte; the entry is in RAM."""
    assert plan.placements
    for placement in plan.placements:
        assert len(placement.data) > 0
        if plan.protocol is BootProtocol.LINUX_16 and placement.gpa == BIOS_GPA:
            assert len(placement.data) == 4096
        else:
            assert layout.is_usable(placement.gpa, len(placement.data)), placement.what
    for first, second in pairwise(plan.placements):
        assert first.gpa + len(first.data) <= second.gpa, (first.what, second.what)
    assert layout.is_usable(plan.entry.regs.rip, 1)
    assert plan.entry.regs.rip < 1 << 32
    if plan.protocol in _LINUX:
        _assert_sound_linux(plan, layout)


def _assert_sound_linux(plan: BootPlan, layout: AddressMap) -> None:
    """Nothing is where the kernel unpacks itself; what it is told is there, and in its reach."""
    kernel, initrd = plan.kernel, plan.initrd
    assert kernel is not None
    assert layout.is_usable(kernel.start, kernel.size)
    assert kernel.contains(plan.entry.regs.rip, 1)
    for placement in plan.placements:
        end = placement.gpa + len(placement.data)
        assert end <= kernel.start or placement.gpa >= kernel.end or placement.gpa == kernel.start
    at = {one.gpa: bytes(one.data) for one in plan.placements if one.gpa != kernel.start}
    page = at[plan.entry.regs.rsi]
    assert len(page) == 4096
    assert page[0x1EF] == 0, "the sentinel: the page has been initialised"
    assert kernel.size >= max(_u32(page, 0x260) if _u16(page, 0x206) >= 0x20A else 0, 1)
    line = at[_u32(page, 0x228) | _u32(page, 0xC8) << 32]
    assert line.endswith(b"\0")
    assert len(line) - 1 <= (_u32(page, 0x238) or 255)
    given = (_u32(page, 0x218) | _u32(page, 0xC0) << 32, _u32(page, 0x21C))
    assert given == ((0, 0) if initrd is None else (initrd.start, initrd.size))
    if initrd is not None:
        assert initrd.start % 4096 == 0
        assert initrd.end - 1 <= _u32(page, 0x22C) or initrd.start >= 1 << 32
        assert initrd.end <= 1 << 32 or _u16(page, 0x236) & 2
    if plan.protocol is BootProtocol.LINUX_64:
        assert len(at[plan.entry.sregs.cr3]) == 6 * 4096
        assert plan.entry.sregs.cr3 % 4096 == 0


def _u16(page: bytes, offset: int) -> int:
    return int.from_bytes(page[offset : offset + 2], "little")


def _u32(page: bytes, offset: int) -> int:
    return int.from_bytes(page[offset : offset + 4], "little")
