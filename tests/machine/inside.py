# SPDX-License-Identifier: MIT
"""The inside of an opened machine, for tests of what is not for its owner."""

from __future__ import annotations

from pyvmm.machine.assembly import Assembly
from pyvmm.machine.blocking_objects import BlockingMachine
from pyvmm.machine.control import RunControl
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.machine import Machine
from pyvmm.machine.ram import GuestRam
from pyvmm.machine.steering import MachineState


def assembly_of(machine: Machine | BlockingMachine) -> Assembly:
    """The parts that it consists of."""
    return machine.host._assembly


def memory_of(machine: Machine | BlockingMachine) -> GuestMemory:
    """Its memory, with what is the machine's own affair."""
    return machine.host._assembly.memory


def ram_of(machine: Machine | BlockingMachine) -> GuestRam:
    """What its RAM is made of."""
    return machine.host._assembly.ram


def control_of(machine: Machine) -> RunControl:
    """The state that its threads share."""
    return machine.control._control


def is_paused(machine: Machine) -> bool:
    """True while a pause is in force."""
    return machine.control.state is MachineState.PAUSED
