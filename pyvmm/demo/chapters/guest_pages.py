# SPDX-License-Identifier: MIT
"""Places in the memory of the guest that the private chapters are about, and what they need."""

from __future__ import annotations

from pyvmm.demo.telling.chapter import Need
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE

PRIVATE = frozenset({Need.PRIVATE})
SECRET = 8 * MIB
"""GPA of a page in the middle of RAM that nothing of the guest is in."""
NEXT_PAGE = SECRET + PAGE_SIZE
