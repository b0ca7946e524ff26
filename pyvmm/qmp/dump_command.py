# SPDX-License-Identifier: MIT
"""dump-guest-memory: the guest's memory and registers as an ELF core (qapi/dump.json)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from pyvmm.errors import PyvmmError
from pyvmm.machine.steering import MachineState
from pyvmm.memory.layout import GpaRange
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind
from pyvmm.qmp.core_writing import ALL_MEMORY, CoreOrder, core_vcpus, write_core
from pyvmm.qmp.event_names import RESUME, STOP, dump_completed
from pyvmm.qmp.served import Dump, Served

_FORMATS = ("elf",)


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
    order = CoreOrder(_path(arguments["protocol"]), _asked(arguments), arguments["paging"])
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


async def _carry_out(served: Served, order: CoreOrder, dump: Dump, begun: trio.Event) -> None:
    """Do it all; `begun` when there is a file, from when on the end is told as an event."""
    try:
        async with _held(served, dump):
            try:
                machine = served.machine
                await write_core(machine, await core_vcpus(machine), order, dump, begun)
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
        return ALL_MEMORY
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
