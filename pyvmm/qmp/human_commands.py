# SPDX-License-Identifier: MIT
"""human-monitor-command: a line for people, answered with text (qapi/misc.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.machine.ending import Requester
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind

if TYPE_CHECKING:
    from pyvmm.machine.machine import Machine


async def human_monitor_command(machine: Machine, arguments: Arguments) -> object:
    """Return what the monitor prints; what a line cannot do is said in the text, as in QEMU."""
    from pyvmm.machine.monitor.commands import execute

    cpu = arguments.get("cpu-index", 0)
    if not 0 <= cpu < machine.config.cpus:
        raise CommandError("Parameter 'cpu-index' expects a CPU number")
    text = await execute(machine, arguments["command-line"], cpu, Requester.QMP)
    # Lines end as on a terminal, in QEMU too.
    return text.replace("\n", "\r\n")


COMMANDS = (
    Command(
        "human-monitor-command",
        (
            Argument("command-line", Kind.STRING),
            Argument("cpu-index", Kind.INTEGER, optional=True),
        ),
        human_monitor_command,
    ),
)
