# SPDX-License-Identifier: MIT
"""Every command that the QMP server has, by name."""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.qmp.balloon_commands import BALLOON_COMMANDS
from pyvmm.qmp.block_commands import BLOCK_COMMANDS
from pyvmm.qmp.command import Command
from pyvmm.qmp.control_commands import CONTROL_COMMANDS
from pyvmm.qmp.dump_command import DUMP_COMMANDS
from pyvmm.qmp.human_commands import HUMAN_COMMANDS
from pyvmm.qmp.memory_commands import MEMORY_COMMANDS
from pyvmm.qmp.network_commands import NETWORK_COMMANDS
from pyvmm.qmp.pci_commands import PCI_COMMANDS
from pyvmm.qmp.stats_commands import STATS_COMMANDS
from pyvmm.qmp.vendor_commands import VENDOR_COMMANDS


def commands() -> Mapping[str, Command]:
    """Return the table."""
    table: dict[str, Command] = {}
    for command in (
        *CONTROL_COMMANDS,
        *MEMORY_COMMANDS,
        *DUMP_COMMANDS,
        *STATS_COMMANDS,
        *BALLOON_COMMANDS,
        *HUMAN_COMMANDS,
        *PCI_COMMANDS,
        *BLOCK_COMMANDS,
        *NETWORK_COMMANDS,
        *VENDOR_COMMANDS,
    ):
        assert command.name not in table, f"two commands are called {command.name}"
        table[command.name] = command
    return table
