# SPDX-License-Identifier: MIT
"""What every plan must fulfil, whatever image it came from."""

from __future__ import annotations

from itertools import pairwise

from pyvmm.boot.plan import BootPlan
from pyvmm.memory.address_map import AddressMap


def assert_sound(plan: BootPlan, layout: AddressMap) -> None:
    """Placements are sorted, not empty, in usable RAM, and share no byte; the entry is in RAM."""
    assert plan.placements
    for placement in plan.placements:
        assert len(placement.data) > 0
        assert layout.is_usable(placement.gpa, len(placement.data)), placement.what
    for first, second in pairwise(plan.placements):
        assert first.gpa + len(first.data) <= second.gpa, (first.what, second.what)
    assert layout.is_usable(plan.entry.regs.rip, 1)
    assert plan.entry.regs.rip < 1 << 32
