# SPDX-License-Identifier: MIT
"""Commands about the machine as a whole: what it is, whether it runs, its end.

Names and shapes are those of QEMU 7.2 (qapi/control.json, run-state.json, machine.json, misc.json).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Final

import trio

from pyvmm.machine.config import HostChoice
from pyvmm.machine.ending import EndingKind, Requester
from pyvmm.machine.events import Ended, MachineEvent
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind
from pyvmm.qmp.dump_command import is_held_for_dump, refuse_while_dumping
from pyvmm.qmp.stats_commands import vcpu_path

if TYPE_CHECKING:
    from pyvmm.machine.machine import Machine


@cache
def version() -> Mapping[str, object]:
    """Return the version in the greeting: that it is pyvmm, and the QEMU whose QMP this is."""
    return {
        "qemu": {"major": 7, "minor": 2, "micro": 0},
        "package": f"pyvmm {metadata.version('pyvmm')}",
    }


_STATUS_OF_END: Final = {
    EndingKind.PANICKED: "guest-panicked",
    EndingKind.KVM_INTERNAL_ERROR: "internal-error",
    EndingKind.FAILED_ENTRY: "internal-error",
    EndingKind.UNHANDLED_EXIT: "internal-error",
    EndingKind.MEMORY_REFUSED: "internal-error",
}
_END_PATIENCE: Final = 5.0
"""Seconds that ``quit`` waits for the vCPUs to stop."""


async def _negotiate(_machine: Machine, _arguments: Arguments) -> object:
    return {}  # The session's affair: it answers before it comes to this.


async def _query_version(_machine: Machine, _arguments: Arguments) -> object:
    return version()


async def _query_commands(_machine: Machine, _arguments: Arguments) -> object:
    from pyvmm.qmp.command_table import commands  # It imports this module.

    return [{"name": name} for name in commands()]


def run_state(machine: Machine) -> str:
    """QAPI's RunState of the machine."""
    if machine.ending is not None:
        return _STATUS_OF_END.get(machine.ending.kind, "shutdown")
    if not machine.has_run:
        return "prelaunch"
    if machine.is_paused:
        return "paused"
    return "save-vm" if is_held_for_dump(machine) else "running"


async def _query_status(machine: Machine, _arguments: Arguments) -> object:
    state = run_state(machine)
    return {"status": state, "singlestep": False, "running": state == "running"}


async def _stop(machine: Machine, _arguments: Arguments) -> object:
    refuse_while_dumping(machine)
    await machine.pause()
    return {}


async def _cont(machine: Machine, _arguments: Arguments) -> object:
    if machine.ending is not None:
        raise CommandError("Resetting the Virtual Machine is required")
    refuse_while_dumping(machine)
    machine.resume()
    return {}


async def _system_reset(machine: Machine, _arguments: Arguments) -> object:
    # QEMU aborts: "invalid runstate transition: 'save-vm' -> 'prelaunch'".
    refuse_while_dumping(machine)
    await machine.reset()
    return {}


async def _system_powerdown(machine: Machine, _arguments: Arguments) -> object:
    machine.powerdown()
    return {}


async def _quit(machine: Machine, _arguments: Arguments) -> object:
    """Answered once the vCPUs have stopped, so that SHUTDOWN comes first, as in QEMU."""
    ended = trio.Event()

    def hear(event: MachineEvent) -> None:
        if isinstance(event, Ended):
            ended.set()

    if machine.ending is not None:
        ended.set()
    with machine.listening(hear), trio.move_on_after(_END_PATIENCE):
        machine.interrupt("ended by quit, over QMP", Requester.QMP)
        await ended.wait()
    return {}


async def _query_cpus_fast(machine: Machine, _arguments: Arguments) -> object:
    return [
        {
            "thread-id": thread_id,
            "props": {"core-id": index, "thread-id": 0, "socket-id": 0},
            "qom-path": vcpu_path(index),
            "cpu-index": index,
            "target": "x86_64",
        }
        for index, thread_id in enumerate(machine.vcpu_thread_ids)
    ]


async def _query_memory_size_summary(machine: Machine, _arguments: Arguments) -> object:
    return {"base-memory": machine.config.memory, "plugged-memory": 0}


async def _query_memory_devices(_machine: Machine, _arguments: Arguments) -> object:
    return []


async def _query_kvm(machine: Machine, _arguments: Arguments) -> object:
    # Present in the program, as QEMU means it, whatever this host has.
    return {"enabled": machine.host.choice is HostChoice.KVM, "present": True}


COMMANDS: tuple[Command, ...] = (
    Command("qmp_capabilities", (Argument("enable", Kind.LIST, optional=True),), _negotiate),
    Command("query-version", (), _query_version),
    Command("query-commands", (), _query_commands),
    Command("query-status", (), _query_status),
    Command("stop", (), _stop),
    Command("cont", (), _cont),
    Command("system_reset", (), _system_reset),
    Command("system_powerdown", (), _system_powerdown),
    Command("quit", (), _quit),
    Command("query-cpus-fast", (), _query_cpus_fast),
    Command("query-memory-size-summary", (), _query_memory_size_summary),
    Command("query-memory-devices", (), _query_memory_devices),
    Command("query-kvm", (), _query_kvm),
)
