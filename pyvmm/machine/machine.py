# SPDX-License-Identifier: MIT
"""A machine that runs: narrow objects, each for one kind of thing to do with it."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.console import Console
from pyvmm.machine.events import Events
from pyvmm.machine.machine_host import MachineHost
from pyvmm.machine.machine_memory import MachineMemory
from pyvmm.machine.machine_network import MachineNetwork
from pyvmm.machine.steering import Control
from pyvmm.machine.vcpus import MachineVcpu


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A machine that has been opened: whole, until its block is left."""

    config: MachineConfig
    host: MachineHost
    control: Control
    console: Console
    memory: MachineMemory
    vcpus: tuple[MachineVcpu, ...]
    events: Events
    network: MachineNetwork
