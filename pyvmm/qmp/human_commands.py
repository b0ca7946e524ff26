# SPDX-License-Identifier: MIT
"""human-monitor-command: a line for people, answered with text (qapi/misc.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, Kind

if TYPE_CHECKING:
    from pyvmm.qmp.served import Served


async def human_monitor_command(served: Served, arguments: Arguments) -> object:
    """Return what the monitor prints; what a line cannot do is said in the text, as in QEMU."""
    cpu = arguments.get("cpu-index", 0)
    if not 0 <= cpu < served.machine.config.cpus:
        raise CommandError("Parameter 'cpu-index' expects a CPU number")
    text = await served.execute(arguments["command-line"], cpu)
    # Lines end as on a terminal, in QEMU too.
    return text.replace("\n", "\r\n")


HUMAN_COMMANDS = (
    Command(
        "human-monitor-command",
        (
            Argument("command-line", Kind.STRING),
            Argument("cpu-index", Kind.INTEGER, optional=True),
        ),
        human_monitor_command,
    ),
)
