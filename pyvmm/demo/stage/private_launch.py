# SPDX-License-Identifier: MIT
"""Inputs of a private launch, and what one more change makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyvmm import bundled_guests
from pyvmm.boot.launch import launch_image, measure
from pyvmm.demo.telling.acts import Change
from pyvmm.demo.telling.chapter import Setup
from pyvmm.errors import HostLacksError, UsageError
from pyvmm.machine.assembly import plan_of
from pyvmm.machine.config import (
    HostChoice,
    ImplicitPolicy,
    IrqchipPolicy,
    MachineConfig,
    PrivateConfig,
)
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE

GUEST = "mailbox"
"""Bundled guest that does as it is told."""
_TEXT = b"the host has asked for the end"
"""Bytes of its image of which changing one does no harm."""
_KEPT = 12
"""Bytes of that which are left as they are, to find it by."""
_MOST_MEMORY = 64 * MIB
_ATTEMPT = "boot a machine in the demo"


@dataclass(frozen=True, slots=True)
class LaunchInputs:
    """Inputs, sizes in bytes; `typed` goes to the console. `forged`: the digest to report."""

    image: bytes
    memory: int
    window: int
    command_line: bytes = b""
    initrd: bytes = b""
    typed: bytes = b""
    forged: bytes = b""
    changed_bytes: int = 0

    @classmethod
    def of(cls, setup: Setup) -> LaunchInputs:
        """Take those of a stage before any change. Raises `HostLacksError` without the guest."""
        guest = bundled_guests.find(GUEST)
        if guest is None:
            raise HostLacksError(
                _ATTEMPT, f"the guest {GUEST} has not been built", "run make guests in the checkout"
            )
        return cls(guest.path.read_bytes(), setup.memory, setup.window)

    def changed(self, change: Change) -> LaunchInputs:
        """These with one input changed. Raises `UsageError` where that would be too much."""
        plain = replace(self, forged=b"", typed=b"")
        match change:
            case Change.NONE:
                return plain
            case Change.KERNEL_BYTE:
                return plain._with_bit_flipped()
            case Change.APPEND:
                if len(self.command_line) > PAGE_SIZE:
                    raise UsageError(_ATTEMPT, "the command line is long enough")
                more = b" more" if self.command_line else b"hello"
                return replace(plain, command_line=self.command_line + more)
            case Change.MEMORY:
                if self.memory >= _MOST_MEMORY:
                    raise UsageError(_ATTEMPT, f"the most memory here is {_MOST_MEMORY // MIB} MiB")
                return replace(plain, memory=self.memory + MIB)
            case Change.INITRD:
                if len(self.initrd) >= 4 * PAGE_SIZE:
                    raise UsageError(_ATTEMPT, "the initial RAM disk is large enough")
                return replace(plain, initrd=self.initrd + b"initrd".ljust(PAGE_SIZE, b"."))
            case Change.STDIN:
                return replace(plain, typed=b"hello\n")
            case Change.FORGED_REPORT:
                return replace(plain._with_bit_flipped(), forged=plain.digest())

    def _with_bit_flipped(self) -> LaunchInputs:
        at = self.image.find(_TEXT[:_KEPT])
        if at < 0 or self.changed_bytes >= len(_TEXT) - _KEPT:
            raise UsageError(_ATTEMPT, "enough bytes of the image have been changed")
        at += _KEPT + self.changed_bytes
        image = bytearray(self.image)
        image[at] ^= 1
        return replace(self, image=bytes(image), changed_bytes=self.changed_bytes + 1)

    def config(self, host: HostChoice) -> MachineConfig:
        """The machine."""
        return MachineConfig(
            self.image,
            name=GUEST,
            memory=self.memory,
            command_line=self.command_line,
            initrd=self.initrd or None,
            irqchip=IrqchipPolicy.AUTO,
            host=host,
            private=PrivateConfig(
                bundled_guests.firmware(), window=self.window, implicit=ImplicitPolicy.ASK
            ),
        )

    def digest(self) -> bytes:
        """The launch digest by the monitor's reckoning, 48 bytes."""
        config = self.config(HostChoice.AUTO)
        address_map = config.address_map()
        return measure(launch_image(plan_of(config, address_map), address_map, GUEST))
