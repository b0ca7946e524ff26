# SPDX-License-Identifier: MIT
"""QMP commands that QEMU does not have: page states, conversions, exits, handles.

Their names begin with ``x-pyvmm-``; docs/qmp-memory.md describes their answers. Addresses and sizes
are in bytes, ends exclusive.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from pyvmm.errors import ConversionRefusedError, HostLacksError, InternalError
from pyvmm.machine.leases import LeaseHeldError
from pyvmm.memory.conversion import Refusal, Side
from pyvmm.memory.layout import GpaRange
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind
from pyvmm.qmp.dump_command import refuse_while_dumping

if TYPE_CHECKING:
    from pyvmm.hosts.interface import Vcpu
    from pyvmm.machine.machine import Machine
    from pyvmm.machine.memory_sides import MemorySides

MOST_RUNS = 1000
"""Runs of pages in one answer."""
_ADDRESS_END = 1 << 64
_WITHHELD = "withheld"
_FILE = "guest-memfd"


async def query_page_states(machine: Machine, arguments: Arguments) -> object:
    """Runs of pages in one state and one region, and what is resident of them on either side."""
    start = arguments.get("start", 0)
    end = min(_ADDRESS_END, start + arguments.get("size", _ADDRESS_END))
    return await trio.to_thread.run_sync(partial(_page_states, machine, GpaRange(start, end)))


def _page_states(machine: Machine, asked: GpaRange) -> dict[str, object]:
    runs: list[dict[str, object]] = []
    for sides in machine.memory.regions.sides():
        region = sides.region.range
        within = GpaRange(max(region.start, asked.start), min(region.end, asked.end))
        for run in machine.memory.states.runs(within):
            if len(runs) == MOST_RUNS:
                return {"runs": runs, "next": run.range.start}
            start, end = run.range.start, run.range.end
            runs.append(
                {
                    "start": start,
                    "end": end,
                    "state": run.state.value,
                    "region": sides.region.what,
                    "resident": _resident(sides, run.range),
                }
            )
    return {"runs": runs}


def _resident(sides: MemorySides, range_: GpaRange) -> dict[str, int]:
    """Bytes that take memory of the host, of the pages that `range_` touches; told where it can."""
    try:
        shared, private = sides.resident(range_)
    except (HostLacksError, InternalError):
        return {}  # No cachestat(2), or the region has just gone.
    return {"shared": shared, "private": private}


async def convert(machine: Machine, arguments: Arguments) -> object:
    """The host's own decision over a range of pages. A refusal's message begins with its name."""
    start, size = arguments["start"], arguments["size"]
    if machine.config.private is None:
        raise CommandError("NO_PRIVATE_MEMORY: the machine was made without private memory")
    refuse_while_dumping(machine)
    memory = machine.memory
    if arguments["to"] == _WITHHELD:
        change = partial(memory.conversion.withhold, start, size)
    else:
        change = partial(memory.conversion.convert, start, size, Side(arguments["to"]))
    try:
        # Under the lock of all conversions, for as long as the range is large.
        await trio.to_thread.run_sync(change)
    except ConversionRefusedError as refused:
        if isinstance(refused, LeaseHeldError):
            raise CommandError(f"LEASED: {refused}") from refused
        names = [one.name for one in Refusal if one.cause == refused.cause]
        raise CommandError(f"{''.join(names)}: {refused}") from refused
    if memory.conversion.is_over:
        raise CommandError("OVER: the guest has ended, pages may be as they were")
    return {}


async def query_exits(machine: Machine, _arguments: Arguments) -> object:
    """Exits of every vCPU so far, by kind, and its last ones; conversions and how they came."""

    def look(vcpu: Vcpu) -> dict[str, object]:
        return {
            "exits": dict(vcpu.exit_counts()),
            "recent": [str(record) for record in vcpu.recent_exits()],
        }

    vcpus = [
        {"cpu-index": index, **await machine.on_vcpu(index, look)}
        for index in range(machine.config.cpus)
    ]
    return {
        "vcpus": vcpus,
        "conversions": dict(machine.memory.conversion.counts),
        "failures": list(machine.memory.conversion.failures),
    }


# -- handles --


async def query_handles(machine: Machine, _arguments: Arguments) -> object:
    """List what the machine holds of the host: fds, mappings, memslots and their bindings."""
    assembly, file = machine.assembly, machine.ram.guest_memfd
    handles = [
        _handle("system", "system", assembly.system),
        _handle("vm", "vm", assembly.vm),
    ]
    for index in range(machine.config.cpus):
        fd = await _on_vcpu(machine, index)
        if fd is not None:
            handles.append({"name": f"vcpu{index}", "kind": "vcpu", **fd, "keeps": ["vm"]})
    if file is not None:
        handles.append(_handle(_FILE, "guest-memfd", file, "vm", size=file.size))
    slots = []
    names: dict[int, str] = {}
    for sides in machine.memory.regions.sides():
        mapping, region = sides.mapping, sides.region
        if mapping.hva not in names:
            names[mapping.hva] = f"mapping of {region.what}"
            whole_file = (
                file is not None and mapping is machine.ram.mapping and not region.two_sided
            )
            kept = (_FILE,) if whole_file else ()
            handles.append(
                _handle(
                    names[mapping.hva],
                    "mapping",
                    mapping,
                    *kept,
                    hva=mapping.hva,
                    size=mapping.size,
                )
            )
        slots.append(_slot(sides, names[mapping.hva]))
    return {"handles": handles, "memslots": slots}


def _handle(name: str, kind: str, owner: object, *keeps: str, **more: int) -> dict[str, object]:
    """`keeps`: the names of what lives on in the kernel as long as this is open."""
    return {"name": name, "kind": kind, **_fd(owner), **more, "keeps": list(keeps)}


def _slot(sides: MemorySides, mapping: str) -> dict[str, object]:
    memslot = sides.memslot()
    slot: dict[str, object] = {
        "slot": memslot.slot,
        "region": sides.region.what,
        "start": memslot.gpa,
        "end": memslot.gpa + memslot.size,
        "mapping": mapping,
        "hva": memslot.hva,
    }
    if memslot.guest_memfd is not None:
        slot["binding"] = {"handle": _FILE, "offset": memslot.guest_memfd_offset}
    return slot


async def _on_vcpu(machine: Machine, index: int) -> dict[str, object] | None:
    """A vCPU's descriptor; None once the run is over, and it is closed."""
    try:
        return await machine.on_vcpu(index, _fd)
    except InternalError:
        return None


def _fd(owner: object) -> dict[str, object]:
    """Its descriptor, where it has one: the model's things have none of KVM's."""
    fd = getattr(owner, "fd", None)
    return {"fd": fd} if isinstance(fd, int) and fd >= 0 else {}


COMMANDS: tuple[Command, ...] = (
    Command(
        "x-pyvmm-query-page-states",
        (Argument("start", Kind.SIZE, optional=True), Argument("size", Kind.SIZE, optional=True)),
        query_page_states,
    ),
    Command(
        "x-pyvmm-convert",
        (
            Argument("start", Kind.SIZE),
            Argument("size", Kind.SIZE),
            Argument(
                "to",
                Kind.STRING,
                choices=(Side.SHARED.value, Side.PRIVATE.value, _WITHHELD),
            ),
        ),
        convert,
    ),
    Command("x-pyvmm-query-exits", (), query_exits),
    Command("x-pyvmm-query-handles", (), query_handles),
)
