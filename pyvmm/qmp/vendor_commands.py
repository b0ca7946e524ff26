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
from pyvmm.machine.attributes import HeldPageError
from pyvmm.machine.host_handles import GUEST_MEMFD, Handle, SlotHandle, descriptor
from pyvmm.machine.leases import LeaseHeldError
from pyvmm.memory.conversion import Refusal, Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind
from pyvmm.qmp.dump_command import refuse_while_dumping

if TYPE_CHECKING:
    from pyvmm.hosts.interface import Vcpu
    from pyvmm.machine.memory_sides import MemorySides
    from pyvmm.qmp.inspected import Inspected
    from pyvmm.qmp.served import Served

MOST_RUNS = 1000
"""Runs of pages in one answer."""
_ADDRESS_END = 1 << 64
_WITHHELD = "withheld"


async def query_page_states(served: Served, arguments: Arguments) -> object:
    """Runs of pages in one state and one region, and what is resident of them on either side."""
    start = arguments.get("start", 0)
    end = min(_ADDRESS_END, start + arguments.get("size", _ADDRESS_END))
    return await trio.to_thread.run_sync(
        partial(_page_states, served.machine, GpaRange(start, end))
    )


def _page_states(machine: Inspected, asked: GpaRange) -> dict[str, object]:
    runs: list[dict[str, object]] = []
    for sides in machine.host.regions:
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
                    "resident": _resident(sides, run),
                }
            )
    return {"runs": runs}


def _resident(sides: MemorySides, run: PageRun) -> dict[str, int]:
    """Bytes that take memory of the host, of the pages that `range_` touches; told where it can."""
    try:
        shared, private = sides.resident(run.range)
    except (HostLacksError, InternalError):
        return {}  # No cachestat(2), or the region has just gone.
    if sides.region.in_place and run.state is PageState.PRIVATE:
        shared, private = 0, shared  # There is one memory for both.
    return {"shared": shared, "private": private}


async def convert(served: Served, arguments: Arguments) -> object:
    """The host's own decision over a range of pages. A refusal's message begins with its name."""
    machine = served.machine
    start, size = arguments["start"], arguments["size"]
    if machine.config.private is None:
        raise CommandError("NO_PRIVATE_MEMORY: the machine was made without private memory")
    refuse_while_dumping(served)
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
        if isinstance(refused, HeldPageError):
            raise CommandError(f"HELD: {refused}") from refused
        names = [one.name for one in Refusal if one.cause == refused.cause]
        raise CommandError(f"{''.join(names)}: {refused}") from refused
    if memory.conversion.is_over:
        raise CommandError("OVER: the guest has ended, pages may be as they were")
    return {}


async def query_exits(served: Served, _arguments: Arguments) -> object:
    """Exits of every vCPU so far, by kind, and its last ones; conversions and how they came."""

    def look(vcpu: Vcpu) -> dict[str, object]:
        return {
            "exits": dict(vcpu.exit_counts()),
            "recent": [str(record) for record in vcpu.recent_exits()],
        }

    vcpus = [
        {"cpu-index": index, **await vcpu.call(look)}
        for index, vcpu in enumerate(served.machine.vcpus)
    ]
    return {
        "vcpus": vcpus,
        "conversions": dict(served.machine.memory.conversion.counts),
        "failures": list(served.machine.memory.conversion.failures),
    }


# -- handles --


async def query_handles(served: Served, _arguments: Arguments) -> object:
    """List what the machine holds of the host: fds, mappings, memslots and their bindings."""
    host = served.machine.host
    handles = [_handle(one) for one in host.handles()]
    for index, vcpu in enumerate(served.machine.vcpus):
        try:
            fd = await vcpu.call(descriptor)
        except InternalError:
            continue  # The run is over, and it is closed.
        handles.append(_handle(Handle(f"vcpu{index}", "vcpu", fd, ("vm",))))
    return {"handles": handles, "memslots": [_slot(one) for one in host.slots()]}


def _handle(handle: Handle) -> dict[str, object]:
    fd = {} if handle.fd is None else {"fd": handle.fd}
    return {
        "name": handle.name,
        "kind": handle.kind,
        **fd,
        **handle.numbers,
        "keeps": list(handle.keeps),
    }


def _slot(slot: SlotHandle) -> dict[str, object]:
    told: dict[str, object] = {
        "slot": slot.slot,
        "region": slot.region,
        "start": slot.start,
        "end": slot.end,
        "mapping": slot.mapping,
        "hva": slot.hva,
    }
    if slot.file_offset is not None:
        told["binding"] = {"handle": GUEST_MEMFD, "offset": slot.file_offset}
    return told


VENDOR_COMMANDS: tuple[Command, ...] = (
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
