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
from pyvmm.machine.steering import MachineState
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind
from pyvmm.qmp.dump_command import is_held_for_dump, refuse_while_dumping
from pyvmm.qmp.stats_commands import vcpu_path

if TYPE_CHECKING:
    from pyvmm.qmp.served import Served


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


async def _negotiate(_served: Served, _arguments: Arguments) -> object:
    return {}  # The session's affair: it answers before it comes to this.


async def _query_version(_served: Served, _arguments: Arguments) -> object:
    return version()


async def _query_commands(served: Served, _arguments: Arguments) -> object:
    return [{"name": name} for name in served.command_names]


def run_state(served: Served) -> str:
    """QAPI's RunState of the machine."""
    control = served.machine.control
    match control.state:
        case MachineState.NEW:
            return "prelaunch"
        case MachineState.PAUSED:
            return "paused"
        case MachineState.RUNNING:
            return "save-vm" if is_held_for_dump(served) else "running"
        case MachineState.ENDED:
            ending = control.ending
            if ending is None:
                return "internal-error"
            return _STATUS_OF_END.get(ending.kind, "shutdown")


async def _query_status(served: Served, _arguments: Arguments) -> object:
    state = run_state(served)
    return {"status": state, "singlestep": False, "running": state == "running"}


async def _stop(served: Served, _arguments: Arguments) -> object:
    refuse_while_dumping(served)
    await served.machine.control.pause()
    return {}


async def _cont(served: Served, _arguments: Arguments) -> object:
    if served.machine.control.state is MachineState.ENDED:
        raise CommandError("Resetting the Virtual Machine is required")
    refuse_while_dumping(served)
    served.machine.control.resume()
    return {}


async def _system_reset(served: Served, _arguments: Arguments) -> object:
    # QEMU aborts: "invalid runstate transition: 'save-vm' -> 'prelaunch'".
    refuse_while_dumping(served)
    await served.machine.control.reset()
    return {}


async def _system_powerdown(served: Served, _arguments: Arguments) -> object:
    served.machine.control.powerdown()
    return {}


async def _quit(served: Served, _arguments: Arguments) -> object:
    """Answered once the vCPUs have stopped, so that SHUTDOWN comes first, as in QEMU."""
    ended = trio.Event()

    def hear(event: MachineEvent) -> None:
        if isinstance(event, Ended):
            ended.set()

    machine = served.machine
    if machine.control.ending is not None:
        ended.set()
    with machine.events.listen(hear), trio.move_on_after(_END_PATIENCE):
        machine.control.interrupt("ended by quit, over QMP", Requester.QMP)
        await ended.wait()
    return {}


def _place(served: Served, index: int) -> Mapping[str, int]:
    """The place of a vCPU as QAPI's CpuInstanceProperties; indices go by threads, then cores."""
    config = served.machine.config
    topology = config.topology
    nodes = () if config.hardware is None else config.hardware.nodes
    if topology is None:
        return {"core-id": index, "thread-id": 0, "socket-id": 0}
    rest, thread = divmod(index, topology.threads)
    socket, core = divmod(rest, topology.cores)
    place = {"core-id": core, "thread-id": thread, "socket-id": socket}
    for number, node in enumerate(nodes):
        if index in node.cpus:
            place["node-id"] = number
    return place


async def _query_cpus_fast(served: Served, _arguments: Arguments) -> object:
    return [
        {
            "thread-id": vcpu.thread_id,
            "props": _place(served, index),
            "qom-path": vcpu_path(index),
            "cpu-index": index,
            "target": "x86_64",
        }
        for index, vcpu in enumerate(served.machine.vcpus)
        if vcpu.thread_id is not None
    ]


async def _query_memory_size_summary(served: Served, _arguments: Arguments) -> object:
    return {"base-memory": served.machine.config.memory, "plugged-memory": 0}


async def _query_memory_devices(_served: Served, _arguments: Arguments) -> object:
    return []


async def _query_kvm(served: Served, _arguments: Arguments) -> object:
    # Present in the program, as QEMU means it, whatever this host has.
    return {"enabled": served.machine.host.choice is HostChoice.KVM, "present": True}


CONTROL_COMMANDS: tuple[Command, ...] = (
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
