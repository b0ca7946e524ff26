# SPDX-License-Identifier: MIT
"""Devices that one machine has and another has not: ports and GPAs, as far as guests look there.

Of QEMU's machines as `qemu_command` starts them (QEMU ``docs/system/i386/microvm.rst``,
``hw/i386/microvm.c`` microvm_devices_init, ``hw/i386/pc.c``, ``hw/isa/piix3.c``).
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.compare.subjects import QemuAccelerator, QemuMachine, QemuSubject
from pyvmm.memory.layout import IOAPIC_GPA, LOCAL_APIC_GPA
from pyvmm.rules.abi import PAGE_SIZE


@dataclass(frozen=True, slots=True)
class Device:
    """Device at `ports` or `gpas` (inclusive ranges), and which of QEMU's machines have it.

    Whether pyvmm has it an access says itself: what answers may depend on the guest and the host.
    """

    name: str
    ports: tuple[tuple[int, int], ...] = ()
    gpas: tuple[tuple[int, int], ...] = ()
    in_microvm: bool = False
    in_pc: bool = True
    microvm_only_tcg: bool = False

    def covers(self, address: int, *, is_port: bool) -> bool:
        """Tell whether an access to `address` reaches this device."""
        ranges = self.ports if is_port else self.gpas
        return any(first <= address <= last for first, last in ranges)

    def is_in(self, subject: QemuSubject) -> bool:
        """Tell whether the machine of `subject` has this device."""
        if subject.machine is QemuMachine.PC:
            return self.in_pc
        is_tcg = subject.accelerator is QemuAccelerator.TCG
        return self.in_microvm and (is_tcg or not self.microvm_only_tcg)


DEVICES = (
    Device("the DMA controllers", ports=((0x00, 0x0F), (0x81, 0x8F), (0xC0, 0xDF))),
    Device(
        "the interrupt controllers",
        ports=((0x20, 0x21), (0xA0, 0xA1), (0x4D0, 0x4D1)),
        gpas=tuple((gpa, gpa + PAGE_SIZE - 1) for gpa in (IOAPIC_GPA, LOCAL_APIC_GPA)),
        in_microvm=True,
    ),
    Device("the interval timer", ports=((0x40, 0x43),), in_microvm=True),
    Device("the speaker's port", ports=((0x61, 0x61),)),
    Device("the keyboard controller", ports=((0x60, 0x60), (0x64, 0x64))),
    Device(
        "the CMOS clock",
        ports=((0x70, 0x71),),
        in_microvm=True,
        microvm_only_tcg=True,
    ),
    Device("system control port A", ports=((0x92, 0x92),)),
    Device("the IDE controllers", ports=((0x170, 0x177), (0x1F0, 0x1F7), (0x376, 0x376),
                                         (0x3F6, 0x3F6))),
    Device("the floppy controller", ports=((0x3F0, 0x3F5), (0x3F7, 0x3F7))),
    Device("the reset control register", ports=((0xCF9, 0xCF9),)),
    Device("PCI configuration", ports=((0xCF8, 0xCF8), (0xCFC, 0xCFF))),
    Device("ACPI power management", ports=((0x600, 0x63F), (0xB2, 0xB3))),
    Device("the SMBus", ports=((0x700, 0x73F),)),
    Device("the event timer (HPET)", gpas=((0xFED0_0000, 0xFED0_03FF),)),
    Device(
        "QEMU's test device",
        ports=((0xE0, 0xE8), (0xEA, 0xEB), (0x2000, 0x2017)),
        gpas=((0xFF00_0000, 0xFF00_FFFF),),
        in_pc=False,
    ),
    Device("the debug exit device", ports=((0x501, 0x502),), in_pc=False),
    Device(
        "virtio's transports", gpas=((0xFEB0_0000, 0xFEB0_2FFF),), in_microvm=True, in_pc=False
    ),
)  # fmt: skip
"""All that are told apart."""


def device_at(address: int, *, is_port: bool) -> Device | None:
    """The device at `address`, None where none of `DEVICES` is."""
    return next((one for one in DEVICES if one.covers(address, is_port=is_port)), None)
