# SPDX-License-Identifier: MIT
"""Every command that the QMP server has, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from pyvmm.qmp.command import Command

_MODULES = (
    "control_commands",
    "memory_commands",
    "stats_commands",
    "human_commands",
    "vendor_commands",
)
"""Those of this package that export ``COMMANDS``."""


def commands() -> Mapping[str, Command]:
    """The table; modules of commands are imported by this."""
    table: dict[str, Command] = {}
    for module in _MODULES:
        for command in importlib.import_module(f"pyvmm.qmp.{module}").COMMANDS:
            assert command.name not in table, f"two commands are called {command.name}"
            table[command.name] = command
    return table
