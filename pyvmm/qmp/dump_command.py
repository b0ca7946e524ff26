"""dump-guest-memory: the guest's memory and registers as an ELF core (qapi/dump.json)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import trio

from pyvmm.machine.memory_reading import contents
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.mappings import LinearRun, mapped_runs
from pyvmm.memory.page_states import PageState
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind
from pyvmm.qmp.core_file import CoreFile, CoreMemory, CoreVcpu, core_file
from pyvmm.qmp.memory_file import MemoryFile

if TYPE_CHECKING:
    from pyvmm.hosts.interface import Vcpu
    from pyvmm.machine.guest_memory import GuestMemory
    from pyvmm.machine.machine import Machine

_FORMATS = ("elf",)
_MODE = 0o400
"""As QEMU's: what was in the guest is for its owner alone."""
_ALL = GpaRange(0, 1 << 64)


async def dump_guest_memory(machine: Machine, arguments: Arguments) -> object:
    """Write the core; the guest stands still meanwhile, as in QEMU.

    Pages that the host cannot see are in the file's headers, without contents.
    """
    path = _path(arguments["protocol"])
    asked = _asked(arguments)
    if arguments.get("detach", False):
        raise CommandError(
            "dumping in the background (detach) is not there; other clients are served meanwhile"
        )
    async with machine.frozen():
        vcpus = [
            await machine.on_vcpu(index, partial(_core_vcpu, index))
            for index in range(machine.config.cpus)
        ]
        paging = arguments["paging"]
        await trio.to_thread.run_sync(partial(_dump, machine.memory, vcpus, asked, path, paging))
    return {}


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


def _dump(
    memory: GuestMemory, vcpus: list[CoreVcpu], asked: GpaRange, path: str, paging: bool
) -> None:
    """In a worker thread of trio's."""
    pieces = [
        CoreMemory(run.range.start, run.range.size, run.state is PageState.SHARED)
        for run in memory.page_states(asked)
    ]
    if not pieces:
        raise CommandError("dump: no guest memory to dump")
    mapped = _mapped(memory, vcpus) if paging else None
    laid_out = core_file(vcpus, pieces, mapped)
    with MemoryFile(path, _MODE) as file:
        _write(file, laid_out, memory)


def _write(file: MemoryFile, laid_out: CoreFile, memory: GuestMemory) -> None:
    file.put(0, laid_out.head)
    for one in laid_out.contents:
        start = one.memory.gpa
        for found in contents(memory, GpaRange(start, start + one.memory.size)):
            file.put(one.offset + found.gpa - start, found.data)
    file.put(laid_out.size - len(laid_out.tail), laid_out.tail)
    file.finish(laid_out.size)


def _mapped(memory: GuestMemory, vcpus: Iterable[CoreVcpu]) -> list[LinearRun] | None:
    """What the vCPUs' page tables map, each mapping once; None where no vCPU has paging on."""
    found: dict[LinearRun, None] = {}
    roots: set[tuple[int, int, int]] = set()
    for vcpu in vcpus:
        sregs = vcpu.sregs
        root = (sregs.cr3, sregs.cr4, sregs.efer)
        if root not in roots:
            for run in mapped_runs(memory.read, sregs):
                roots.add(root)
                found[run] = None
                trio.from_thread.check_cancelled()
    return sorted(found, key=lambda run: (run.gpa, run.linear)) if roots else None


async def query_capability(_machine: Machine, _arguments: Arguments) -> object:
    """Which formats there are."""
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
    Command("query-dump-guest-memory-capability", (), query_capability),
)
