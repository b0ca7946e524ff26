# SPDX-License-Identifier: MIT
"""Attacks by road: each is tried for real, and says what it got or why it got nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from pyvmm.demo.stage.attackers import exits, file_calls, other_vm, own_memory, search
from pyvmm.demo.stage.attackers.target import Target, closed
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Seen
from pyvmm.errors import SystemCallError


async def _by_qmp_dump(target: Target, gpa: int) -> Seen:
    from pyvmm.demo.stage.attackers.qmp_dump import by_qmp_dump  # QMP's library takes a while.

    return await by_qmp_dump(target, gpa)


async def _by_core(target: Target, gpa: int) -> Seen:
    from pyvmm.demo.stage.attackers.core import by_core

    return await by_core(target, gpa)


ROADS: Mapping[Road, Callable[[Target, int], Awaitable[Seen]]] = {
    Road.API: own_memory.by_api,
    Road.MAPPING: own_memory.by_mapping,
    Road.PROC_MEM: own_memory.by_proc_mem,
    Road.VM_READV: own_memory.by_process_vm_readv,
    Road.FILE_READ: file_calls.by_pread,
    Road.FILE_MMAP: file_calls.by_mmap,
    Road.QMP_DUMP: _by_qmp_dump,
    Road.CORE: _by_core,
    Road.OTHER_VM: other_vm.by_other_vm,
    Road.SEARCH: search.by_search,
    Road.REGISTERS: exits.by_registers,
    Road.EXITS: exits.by_exits,
}


async def attack(road: Road, target: Target, gpa: int) -> Seen:
    """Try a road to the page at a GPA of a machine that stands still.

    Raises `UsageError` where there is no memory there, or no secret for a search to look for: then
    nothing has been tried. A road that is closed is no error.
    """
    target.sides(gpa)
    try:
        return await ROADS[road](target, gpa)
    except (OSError, SystemCallError) as error:
        # Of the attacker's own, as for a folder that there is no room for.
        return closed(road, gpa, f"it could not be tried: {error}")
