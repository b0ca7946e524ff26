# SPDX-License-Identifier: MIT
"""Writing a machine's core file, while its guest stands still or has ended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from pyvmm.hosts.registers import Cr0
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.mappings import LinearRun, mapped_runs
from pyvmm.memory.page_states import PageState
from pyvmm.qmp.command import CommandError
from pyvmm.qmp.core_file import CoreFile, CoreMemory, CoreVcpu, core_file
from pyvmm.qmp.memory_file import MemoryFile

if TYPE_CHECKING:
    from pyvmm.hosts.interface import Vcpu
    from pyvmm.machine.machine_memory import MachineMemory
    from pyvmm.qmp.inspected import Inspected, InspectedHost

_MODE = 0o400
"""As QEMU's: what was in the guest is for its owner alone."""
ALL_MEMORY = GpaRange(0, 1 << 64)
_VMCOREINFO = re.compile(rb"\x0b\0\0\0(.{4})\0\0\0\0VMCOREINFO\0\0", re.DOTALL)
"""Head of an ELF note of that name (kernel/vmcore_info.c), with the size of what follows."""
_FIRST_SAID = b"OSRELEASE="
_MOST_SAID = 1 << 16


@dataclass(frozen=True, slots=True)
class CoreOrder:
    """Parameters of a core: its file, the memory, whether it is where page tables have it."""

    path: str
    asked: GpaRange = ALL_MEMORY
    paging: bool = False
    for_debuggers: bool = False
    """With what a Linux kernel says of itself, and QEMU's notes only if there is that.

    drgn refuses QEMU's notes without it, and takes a file with neither for a program's core.
    """


class Progress(Protocol):
    """Progress of the writing, in bytes of memory."""

    total: int
    completed: int


async def core_vcpus(machine: Inspected) -> list[CoreVcpu]:
    """Read the vCPUs for a core. Raises `InternalError` where the guest has ended."""
    return [await vcpu.call(partial(_core_vcpu, index)) for index, vcpu in enumerate(machine.vcpus)]


async def write_core(
    machine: Inspected,
    vcpus: Sequence[CoreVcpu],
    order: CoreOrder,
    progress: Progress,
    begun: trio.Event | None = None,
) -> None:
    """Write it; `begun` is set when there is a file.

    Pages that the host cannot see are in the file's headers, without contents. Raises
    `CommandError`, in QEMU's words.
    """
    lay_out = partial(_lay_out, machine.memory, machine.host, vcpus, order)
    laid_out = await trio.to_thread.run_sync(lay_out)
    progress.total = sum(one.memory.size for one in laid_out.contents)
    with await trio.to_thread.run_sync(MemoryFile, order.path, _MODE) as file:
        if begun is not None:
            begun.set()
        write = partial(_write, file, laid_out, machine.host, progress)
        await trio.to_thread.run_sync(write)


def _core_vcpu(index: int, vcpu: Vcpu) -> CoreVcpu:
    """On the vCPU's thread."""
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    return CoreVcpu(index, regs, sregs, vcpu.get_further().kernel_gs_base)


def _lay_out(
    memory: MachineMemory, host: InspectedHost, vcpus: Sequence[CoreVcpu], order: CoreOrder
) -> CoreFile:
    """In a worker thread of trio's."""
    pieces = [
        CoreMemory(run.range.start, run.range.size, run.state is PageState.SHARED)
        for run in memory.states.runs(order.asked)
    ]
    if not pieces:
        raise CommandError("dump: no guest memory to dump")
    mapped = _mapped(memory, vcpus) if order.paging else None
    if not order.for_debuggers:
        return core_file(vcpus, pieces, mapped)
    says = _vmcoreinfo(host)
    return core_file(vcpus, pieces, mapped, vmcoreinfo=says, qemu_notes=says is not None)


def _vmcoreinfo(host: InspectedHost) -> bytes | None:
    """Find the note that a Linux kernel keeps in its memory for its dumps; None: there is none."""
    for found in host.contents(ALL_MEMORY, []):
        for note in _VMCOREINFO.finditer(found.data):
            size = int.from_bytes(note[1], "little")
            says = bytes(found.data[note.end() : note.end() + size])
            if size <= _MOST_SAID and len(says) == size and says.startswith(_FIRST_SAID):
                return says
        trio.from_thread.check_cancelled()
    return None


def _write(file: MemoryFile, laid_out: CoreFile, host: InspectedHost, progress: Progress) -> None:
    """In a worker thread of trio's."""
    file.put(0, laid_out.head)
    done = 0
    for one in laid_out.contents:
        start = one.memory.gpa
        for found in host.contents(GpaRange(start, start + one.memory.size)):
            file.put(one.offset + found.gpa - start, found.data)
            progress.completed = done + found.gpa + len(found.data) - start
        done += one.memory.size
        progress.completed = done
    file.put(laid_out.size - len(laid_out.tail), laid_out.tail)
    file.finish(laid_out.size)


def _mapped(memory: MachineMemory, vcpus: Iterable[CoreVcpu]) -> list[LinearRun] | None:
    """Collect the mappings of the vCPUs' page tables, each once; None where none has paging on."""
    with_paging = [vcpu.sregs for vcpu in vcpus if vcpu.sregs.cr0 & Cr0.PG]
    if not with_paging:
        return None
    found: dict[LinearRun, None] = {}
    for sregs in {(one.cr3, one.cr4, one.efer): one for one in with_paging}.values():
        for run in mapped_runs(memory.read, sregs):
            found[run] = None
            trio.from_thread.check_cancelled()
    if not found:
        raise CommandError(
            "the guest's page tables map nothing, or are private; take the memory without paging"
        )
    return sorted(found, key=lambda run: (run.gpa, run.linear))
