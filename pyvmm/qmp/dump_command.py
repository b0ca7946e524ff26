# SPDX-License-Identifier: MIT
"""dump-guest-memory: the guest's memory and registers as an ELF core (qapi/dump.json)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from pyvmm.errors import PyvmmError
from pyvmm.hosts.registers import Cr0
from pyvmm.machine.steering import MachineState
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.mappings import LinearRun, mapped_runs
from pyvmm.memory.page_states import PageState
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind
from pyvmm.qmp.core_file import CoreFile, CoreMemory, CoreVcpu, core_file
from pyvmm.qmp.event_names import RESUME, STOP, dump_completed
from pyvmm.qmp.memory_file import MemoryFile
from pyvmm.qmp.served import Dump, Served

if TYPE_CHECKING:
    from pyvmm.hosts.interface import Vcpu
    from pyvmm.machine.machine_memory import MachineMemory
    from pyvmm.qmp.inspected import Inspected, InspectedHost

_FORMATS = ("elf",)
_MODE = 0o400
"""As QEMU's: what was in the guest is for its owner alone."""
_ALL = GpaRange(0, 1 << 64)


@dataclass(frozen=True, slots=True)
class _Order:
    """Parameters of the dump that a client asked for."""

    path: str
    asked: GpaRange
    paging: bool


def refuse_while_dumping(served: Served) -> None:
    """For commands that would change what is being dumped, or whether the guest runs.

    Raises `CommandError`, in the words with which QEMU refuses ``stop`` and ``cont`` then.
    """
    if served.dump is not None and served.dump.is_active:
        raise CommandError("There is a dump in process, please wait.")


def is_held_for_dump(served: Served) -> bool:
    """Tell whether the guest stands still for a dump and runs on after it: RunState ``save-vm``."""
    dump = served.dump
    return dump is not None and dump.is_active and dump.holds_guest


async def dump_guest_memory(served: Served, arguments: Arguments) -> object:
    """Write the core; the guest stands still meanwhile, as in QEMU.

    Pages that the host cannot see are in the file's headers, without contents. With `detach` the
    answer comes when the file has been opened; the rest is done beside the guest.
    """
    order = _Order(_path(arguments["protocol"]), _asked(arguments), arguments["paging"])
    refuse_while_dumping(served)
    dump = served.dump = Dump()
    if not arguments.get("detach", False):
        await _carry_out(served, order, dump, trio.Event())
        return {}
    begun = trio.Event()
    failures: list[Exception] = []

    async def in_background() -> None:
        try:
            await _carry_out(served, order, dump, begun)
        except (CommandError, PyvmmError) as failure:
            failures.append(failure)
        finally:
            begun.set()

    served.beside(in_background)
    await begun.wait()
    if failures:
        raise failures[0]
    return {}


async def _carry_out(served: Served, order: _Order, dump: Dump, begun: trio.Event) -> None:
    """Do it all; `begun` when there is a file, from when on the end is told as an event."""
    try:
        async with _held(served, dump):
            try:
                await _dump_to_file(served.machine, order, dump, begun)
                dump.error = None
            except (CommandError, PyvmmError) as failure:
                dump.error = str(failure)
                raise
            finally:
                dump.is_active = False
                if begun.is_set():
                    served.tell(dump_completed(dump.total, dump.completed, dump.error))
    finally:
        dump.is_active = False  # It may not have come to stand still.


@asynccontextmanager
async def _held(served: Served, dump: Dump) -> AsyncIterator[None]:
    """Inside of it the guest stands still; where it ran, that is told, as by QEMU."""
    control = served.machine.control
    async with control.freeze():
        dump.holds_guest = control.state is MachineState.RUNNING
        if dump.holds_guest:
            served.tell(STOP)
        try:
            yield
        finally:
            # From the terminal it may have been paused, or ended, meanwhile.
            if dump.holds_guest and control.state is MachineState.RUNNING:
                served.tell(RESUME)


async def _dump_to_file(machine: Inspected, order: _Order, dump: Dump, begun: trio.Event) -> None:
    vcpus = [
        await vcpu.call(partial(_core_vcpu, index)) for index, vcpu in enumerate(machine.vcpus)
    ]
    lay_out = partial(_lay_out, machine.memory, vcpus, order)
    laid_out = await trio.to_thread.run_sync(lay_out)
    dump.total = sum(one.memory.size for one in laid_out.contents)
    with await trio.to_thread.run_sync(MemoryFile, order.path, _MODE) as file:
        begun.set()
        write = partial(_write, file, laid_out, machine.host, dump)
        await trio.to_thread.run_sync(write)


def _path(protocol: str) -> str:
    if protocol.startswith("file:"):
        return protocol.removeprefix("file:")
    if protocol.startswith("fd:"):
        # Nobody can have given us one: there is no getfd.
        name = protocol.removeprefix("fd:")
        raise CommandError(f"File descriptor named '{name}' has not been found")
    raise CommandError("Invalid parameter 'protocol'")


def _asked(arguments: Arguments) -> GpaRange:
    begin, length = arguments.get("begin"), arguments.get("length")
    if begin is None and length is None:
        return _ALL
    for name, value in (("begin", begin), ("length", length)):
        if value is None:
            raise CommandError(f"Parameter '{name}' is missing")
    assert begin is not None
    assert length is not None
    if begin < 0:
        raise CommandError("Invalid parameter 'begin'")
    if length <= 0:
        raise CommandError("Invalid parameter 'length'")
    return GpaRange(begin, begin + length)


def _core_vcpu(index: int, vcpu: Vcpu) -> CoreVcpu:
    """On the vCPU's thread."""
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    return CoreVcpu(index, regs, sregs, vcpu.get_further().kernel_gs_base)


def _lay_out(memory: MachineMemory, vcpus: list[CoreVcpu], order: _Order) -> CoreFile:
    """In a worker thread of trio's."""
    pieces = [
        CoreMemory(run.range.start, run.range.size, run.state is PageState.SHARED)
        for run in memory.states.runs(order.asked)
    ]
    if not pieces:
        raise CommandError("dump: no guest memory to dump")
    return core_file(vcpus, pieces, _mapped(memory, vcpus) if order.paging else None)


def _write(file: MemoryFile, laid_out: CoreFile, host: InspectedHost, dump: Dump) -> None:
    """In a worker thread of trio's."""
    file.put(0, laid_out.head)
    done = 0
    for one in laid_out.contents:
        start = one.memory.gpa
        for found in host.contents(GpaRange(start, start + one.memory.size)):
            file.put(one.offset + found.gpa - start, found.data)
            dump.completed = done + found.gpa + len(found.data) - start
        done += one.memory.size
        dump.completed = done
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


async def query_dump(served: Served, _arguments: Arguments) -> object:
    """Tell the progress or the result of the last dump."""
    await trio.lowlevel.checkpoint()
    dump = served.dump
    return {"status": "none", "completed": 0, "total": 0} if dump is None else dump.told()


async def query_capability(_served: Served, _arguments: Arguments) -> object:
    """List the formats of a dump."""
    await trio.lowlevel.checkpoint()
    return {"formats": list(_FORMATS)}


DUMP_COMMANDS = (
    Command(
        "dump-guest-memory",
        (
            Argument("paging", Kind.BOOLEAN),
            Argument("protocol", Kind.STRING),
            Argument("detach", Kind.BOOLEAN, optional=True),
            Argument("begin", Kind.INTEGER, optional=True),
            Argument("length", Kind.INTEGER, optional=True),
            Argument("format", Kind.STRING, optional=True, choices=_FORMATS),
        ),
        dump_guest_memory,
    ),
    Command("query-dump", (), query_dump),
    Command("query-dump-guest-memory-capability", (), query_capability),
)
