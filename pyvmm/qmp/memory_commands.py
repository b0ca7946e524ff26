# SPDX-License-Identifier: MIT
"""QMP commands that save guest memory to files: pmemsave, memsave (qapi/machine.json)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import trio

from pyvmm.machine.memory_reading import VIEWED
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageStates
from pyvmm.memory.page_walk import LinearPart, linear_parts, walk
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind
from pyvmm.qmp.memory_file import MemoryFile
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.interface import Vcpu
    from pyvmm.hosts.registers import Sregs
    from pyvmm.qmp.inspected import Inspected
    from pyvmm.qmp.served import Served

_SAVED_MODE = 0o666
_ADDRESS_END = 1 << 64


def asked_range(what: str, start: int, size: int) -> GpaRange:
    """[start, start + size) of 64-bit addresses; a negative start is taken modulo 2^64.

    Raises `CommandError` where the size is negative or the end beyond the last address.
    """
    start %= _ADDRESS_END
    if size < 0 or start + size > _ADDRESS_END:
        raise CommandError(f"Invalid {what} 0x{start:016x}/size {size} specified")
    return GpaRange(start, start + size)


async def in_thread(function: Callable[[], None]) -> None:
    """Call what reads memory and writes files, away from trio's thread; it heeds cancellation."""
    await trio.to_thread.run_sync(function)


async def pmemsave(served: Served, arguments: Arguments) -> object:
    """Save guest-physical memory: what is no memory is zeroes, as in QEMU.

    Unlike QEMU it refuses a range without any memory, and one that the host cannot see all of.
    """
    await _save_physical(served.machine, arguments, None)
    return {}


async def x_pyvmm_pmemsave(served: Served, arguments: Arguments) -> object:
    """As pmemsave, with zeroes for pages that the host cannot see; says which ones these are."""
    left_out: list[PageRun] = []
    await _save_physical(served.machine, arguments, left_out)
    return {
        "left-out": [
            {"start": run.range.start, "end": run.range.end, "state": run.state.value}
            for run in joined(left_out)
        ]
    }


async def _save_physical(
    machine: Inspected, arguments: Arguments, left_out: list[PageRun] | None
) -> None:
    asked = asked_range("addr", arguments["val"], arguments["size"])
    if asked.size and not machine.memory.states.runs(asked):
        raise CommandError(f"no guest memory in gpa {asked.start:#x}-{asked.end - 1:#x}")
    path = arguments["filename"]
    await in_thread(partial(_write_physical, machine, asked, path, left_out))


def joined(runs: Iterable[PageRun]) -> list[PageRun]:
    """The same pages, ascending, none twice; of a page in two states the first seen counts."""
    states = PageStates()
    for run in runs:
        whole = GpaRange(run.range.start & -PAGE_SIZE, -(-run.range.end // PAGE_SIZE) * PAGE_SIZE)
        at = whole.start
        for known in states.runs(whole):
            if at < known.range.start:
                states.add(GpaRange(at, known.range.start), run.state)
            at = known.range.end
        if at < whole.end:
            states.add(GpaRange(at, whole.end), run.state)
    return list(states.runs())


def _write_physical(
    machine: Inspected, asked: GpaRange, path: str, left_out: list[PageRun] | None
) -> None:
    # A refusal comes before the file is touched.
    found = machine.host.contents(asked, left_out)
    first = next(found, None)
    with MemoryFile(path, _SAVED_MODE) as file:
        if first is not None:
            file.put(first.gpa - asked.start, first.data)
        for content in found:
            file.put(content.gpa - asked.start, content.data)
        file.finish(asked.size)


async def memsave(served: Served, arguments: Arguments) -> object:
    """Save memory by the addresses of a vCPU (by default the first): all of it must be mapped."""
    machine = served.machine
    asked = asked_range("addr", arguments["val"], arguments["size"])
    index = arguments.get("cpu-index", 0)
    if not 0 <= index < machine.config.cpus:
        raise CommandError("Parameter 'cpu-index' expects a CPU number")

    def registers(vcpu: Vcpu) -> Sregs:
        return vcpu.get_sregs()

    sregs = await machine.vcpus[index].call(registers)
    await in_thread(partial(_save_linear, machine, sregs, asked, arguments["filename"]))
    return {}


def _save_linear(machine: Inspected, sregs: Sregs, asked: GpaRange, path: str) -> None:
    memory = machine.memory
    with MemoryFile(path, _SAVED_MODE) as file:
        for part in linear_parts(memory.read, sregs, asked.start, asked.size, VIEWED):
            here = sum(run.range.size for run in memory.states.runs(part.range))
            if part.gpa is None or here < part.size:
                raise CommandError(
                    f"Invalid addr 0x{part.linear:016x}/size {asked.end - part.linear} specified: "
                    f"{_why_not(machine, sregs, part)}"
                )
            for content in machine.host.contents(part.range):
                offset = part.linear - asked.start + content.gpa - part.gpa
                file.put(offset, content.data)
        file.finish(asked.size)


def _why_not(machine: Inspected, sregs: Sregs, part: LinearPart) -> str:
    if part.gpa is not None:
        return f"gpa {part.gpa:#x} and on is not all memory"
    steps = walk(machine.memory.read, sregs, part.linear).steps
    if steps and steps[-1].value is None:
        return f"the page table entry at gpa {steps[-1].entry_gpa:#x} cannot be read"
    return "not mapped"


_SAVED = (
    Argument("val", Kind.INTEGER),
    Argument("size", Kind.INTEGER),
    Argument("filename", Kind.STRING),
)

MEMORY_COMMANDS: tuple[Command, ...] = (
    Command("pmemsave", _SAVED, pmemsave),
    Command("x-pyvmm-pmemsave", _SAVED, x_pyvmm_pmemsave),
    Command("memsave", (*_SAVED, Argument("cpu-index", Kind.INTEGER, optional=True)), memsave),
)
