"""What a machine is made of: one frozen value, checked when it is made."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.errors import UsageError
from pyvmm.memory.layout import MIB, MemoryLayout

MAX_CPUS = 255
"""More vCPUs need x2APIC identifiers, which the guest's tables do not carry yet."""


class IrqchipPolicy(enum.Enum):
    """Whether the machine has interrupt controllers and a timer: slow to make on some hosts."""

    AUTO = "auto"
    """When the image says that it needs them, does not say (and is no bare boot sector), or there
    is more than one vCPU to start."""
    ON = "on"
    OFF = "off"


class HostChoice(enum.Enum):
    """Which implementation of `pyvmm.hosts.interface` runs the guest."""

    AUTO = "auto"
    KVM = "kvm"


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """A machine to be: the image's bytes, `memory` in bytes, number of vCPUs, and so on.

    Raises `UsageError` when a value cannot be. `name` stands for the image in messages. `timeout`
    is in seconds from the guest's first instruction.
    """

    image: bytes
    name: str = "image"
    memory: int = 256 * MIB
    cpus: int = 1
    command_line: bytes = b""
    initrd: bytes | None = None
    timeout: float | None = None
    irqchip: IrqchipPolicy = IrqchipPolicy.AUTO
    host: HostChoice = HostChoice.AUTO

    def __post_init__(self) -> None:
        MemoryLayout.of(self.memory)
        if not 1 <= self.cpus <= MAX_CPUS:
            raise UsageError(
                f"make a machine with {self.cpus} vCPUs",
                "a machine has at least one and at most 255",
                f"give a number from 1 to {MAX_CPUS}",
            )
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise UsageError(
                f"set a time limit of {self.timeout} s",
                "it must be a finite number above 0",
                "leave it out for no limit",
            )
