# SPDX-License-Identifier: MIT
"""Differences of machines that Linux sees and that have a reason: ``docs/compare.md`` lists them.

Everything else that differs is a disagreement.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from pyvmm.compare.linux.facts import Section
from pyvmm.compare.subjects import QemuMachine


class Side(enum.Enum):
    """Side of a comparison that has a fact; the values are those of JSON."""

    OURS = "pyvmm"
    THEIRS = "qemu"


@dataclass(frozen=True, slots=True)
class KnownMachineDifference:
    """A difference with its reason: facts of `sections` that match `facts` as a whole.

    `machine` and `side` None: of both.
    """

    key: str
    reason: str
    sections: tuple[Section, ...]
    facts: re.Pattern[str]
    machine: QemuMachine | None = None
    side: Side | None = None


def reason_of(machine: QemuMachine, section: Section, side: Side, fact: str) -> tuple[str, str]:
    """Find the key and the reason for which `side` alone has `fact`; ("", "") where none is known.

    `machine` is QEMU's.
    """
    for one in KNOWN:
        if (
            section in one.sections
            and one.machine in {None, machine}
            and one.side in {None, side}
            and one.facts.fullmatch(fact)
        ):
            return one.key, one.reason
    return "", ""


_MEMORY_MAP = (Section.MEMORY, Section.LOG)

KNOWN: tuple[KnownMachineDifference, ...] = (
    KnownMachineDifference(
        "reserved-memory",
        "each monitor has its own holes: pyvmm reserves 0x9fc00 to 1 MiB in one piece, QEMU what "
        "its firmware, its ACPI tables, its chipset and KVM's pages below 4 GiB take",
        _MEMORY_MAP,
        re.compile(
            r"[0-9a-f]+-[0-9a-f]+ "
            r"(System RAM|System ROM|Video ROM|Adapter ROM|[Rr]eserved|pnp 00:\d+"
            r"|ACPI (Tables|Non-volatile Storage))"
            r"|BIOS-e820: \[mem 0x[0-9a-f]+-0x[0-9a-f]+\] (usable|reserved|ACPI (NVS|data))"
        ),
    ),
    KnownMachineDifference(
        "addresses",
        "buses, their windows and the registers on them have other addresses",
        _MEMORY_MAP,
        re.compile(
            r"[0-9a-f]+-[0-9a-f]+ (PCI Bus 0000:00|PCI MMCONFIG .*|0000:00:[0-9a-f]{2}\.\d"
            r"|LNRO0005:\d\d( LNRO0005:\d\d)?|PCI ECAM.*)"
            r"|PCI: MMCONFIG (for domain|at) .*|virtio-mmio: .*"
        ),
    ),
    KnownMachineDifference(
        "host-bridge",
        "QEMU's host bridge and the bridge to its ISA devices are those of Intel's chipset, "
        "pyvmm's host bridge is a plain one",
        (Section.PCI,),
        re.compile(r"00[0-9a-f:.]+ [0-9a-f]{4}:[0-9a-f]{4} class 060[01]00 driver -"),
        QemuMachine.Q35,
    ),
    KnownMachineDifference(
        "acpi-tables",
        "the tables are each monitor's own: QEMU's pc is older (RSDT) and describes more "
        "(HPET, WAET), microvm is hardware-reduced ACPI and has no FACS",
        (Section.LOG,),
        re.compile(r"ACPI table (RSDP|RSDT|XSDT|FACP|FACS|DSDT|APIC|MCFG|WAET|HPET)( v\d+)?"),
    ),
    KnownMachineDifference(
        "power-management-timer",
        "full ACPI has a power management timer and an interrupt of its own (SCI), and pyvmm's is "
        "that; microvm's is hardware-reduced and has a device for events instead",
        (Section.CLOCK, Section.INTERRUPTS),
        re.compile(r"available acpi_pm|IO-APIC 9-(fasteoi acpi|edge ACPI:Ged)"),
        QemuMachine.MICROVM,
    ),
    KnownMachineDifference(
        "legacy-devices",
        "pyvmm's machine has a clock (RTC), as a PC has; compare gives microvm none",
        (Section.INTERRUPTS,),
        re.compile(r"IO-APIC 8-edge rtc0"),
        QemuMachine.MICROVM,
        Side.OURS,
    ),
    KnownMachineDifference(
        "io-apic",
        "microvm has two I/O APICs of QEMU's own, pyvmm the one in KVM, whose version is 0x11",
        (Section.LOG,),
        re.compile(r"IOAPIC\[\d\]: apic_id \d+, version \d+, .*"),
        QemuMachine.MICROVM,
    ),
    KnownMachineDifference(
        "registers-in-ports",
        "the registers of pyvmm's virtio devices are in I/O ports, which private guests reach, "
        "too; those of QEMU's in memory",
        (Section.MEMORY,),
        re.compile(r"[0-9a-f]+-[0-9a-f]+ virtio-pci-modern"),
        QemuMachine.Q35,
        Side.THEIRS,
    ),
    KnownMachineDifference(
        "enabled-by-firmware",
        "QEMU's firmware has enabled the devices on the bus; under pyvmm none runs before Linux, "
        "which enables them itself",
        (Section.LOG,),
        re.compile(r"virtio-pci [0-9a-f:.]+: enabling device \(0000 -> 000[1-3]\)"),
        QemuMachine.Q35,
        Side.OURS,
    ),
    KnownMachineDifference(
        "interrupt-line",
        "a device of virtio-mmio has the interrupt of its slot, which is another one",
        (Section.INTERRUPTS,),
        re.compile(r"IO-APIC \d+-(edge|fasteoi) virtio\d+"),
        QemuMachine.MICROVM,
    ),
    KnownMachineDifference(
        "disk-features",
        "each monitor offers what it has: geometry (bit 4), several queues (12), discard (13), "
        "zeroing (14), reset of a ring (40)",
        (Section.VIRTIO,),
        re.compile(r"virtio\d+ feature (4|12|13|14|40)"),
    ),
    KnownMachineDifference(
        "xsave-of-tcg",
        "in a KVM inside QEMU's TCG the size of XSAVE's area does not agree with CPUID; "
        "pyvmm leaves out what does not, QEMU passes it on",
        (Section.WARNINGS,),
        re.compile(r"WARNING: at arch/x86/kernel/fpu/xstate\.c:\d+ .*"),
        None,
        Side.THEIRS,
    ),
)
