# SPDX-License-Identifier: MIT
"""Differences of the machines that Linux finds, with their reasons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyvmm.compare.linux.facts import Section
from pyvmm.compare.linux.known import KNOWN, Side, reason_of
from pyvmm.compare.subjects import QemuMachine

DOCUMENT = Path(__file__).parents[2] / "docs" / "compare.md"
SEEN = {
    "reserved-memory": [
        ("both", "memory", "both", "0009fc00-000fffff Reserved"),
        ("q35", "memory", "both", "b0000000-bfffffff pnp 00:02"),
        ("q35", "memory", "qemu", "000c0000-000c05ff Video ROM"),
        ("microvm", "memory", "qemu", "000d0000-000effff ACPI Non-volatile Storage"),
        ("q35", "log", "qemu", "BIOS-e820: [mem 0x000000000ffdd000-0x000000000fffffff] reserved"),
    ],
    "addresses": [
        ("microvm", "memory", "both", "feb02e00-feb02fff LNRO0005:00 LNRO0005:00"),
        ("q35", "memory", "both", "800000000-fffffffff PCI Bus 0000:00"),
        ("q35", "memory", "both", "e0000000-e00fffff PCI MMCONFIG 0000 [bus 00-00]"),
        ("q35", "memory", "both", "c0000000-c0000fff 0000:00:01.0"),
        ("q35", "log", "qemu", "PCI: MMCONFIG at [mem 0xb0000000-0xbfffffff] reserved in E820"),
    ],
    "host-bridge": [
        ("q35", "pci", "pyvmm", "0000:00:00.0 1b36:0008 class 060000 driver -"),
        ("q35", "pci", "qemu", "0000:00:1f.0 8086:2918 class 060100 driver -"),
    ],
    "acpi-tables": [
        ("both", "log", "both", "ACPI table FACP v06"),
        ("microvm", "log", "pyvmm", "ACPI table FACS"),
    ],
    "power-management-timer": [
        ("microvm", "clock", "pyvmm", "available acpi_pm"),
        ("microvm", "interrupts", "qemu", "IO-APIC 9-edge ACPI:Ged"),
        ("microvm", "interrupts", "pyvmm", "IO-APIC 9-fasteoi acpi"),
    ],
    "legacy-devices": [("microvm", "interrupts", "pyvmm", "IO-APIC 8-edge rtc0")],
    "io-apic": [
        ("microvm", "log", "qemu", "IOAPIC[1]: apic_id 1, version 32, address 0xfec10000"),
    ],
    "registers-in-ports": [("q35", "memory", "qemu", "febf8000-febfbfff virtio-pci-modern")],
    "enabled-by-firmware": [
        ("q35", "log", "pyvmm", "virtio-pci 0000:00:01.0: enabling device (0000 -> 0003)"),
    ],
    "interrupt-line": [("microvm", "interrupts", "both", "IO-APIC 23-fasteoi virtio0")],
    "disk-features": [("both", "virtio", "qemu", "virtio0 feature 13")],
    "xsave-of-tcg": [
        ("both", "warnings", "qemu", "WARNING: at arch/x86/kernel/fpu/xstate.c:606 fpu+0x85a"),
    ],
}  # fmt: skip
"""Differences of real boots by key: machine, section, who has the fact, the fact."""


def test_differences_of_real_boots_have_their_reasons_and_only_there() -> None:
    assert list(SEEN) == [one.key for one in KNOWN]
    for key, rows in SEEN.items():
        for place, section, side, fact in rows:
            told = {
                (machine, one): reason_of(machine, Section(section), one, fact)[0]
                for machine in (QemuMachine.MICROVM, QemuMachine.Q35)
                for one in Side
            }
            for (machine, one), found in told.items():
                if place in {"both", machine.value} and side in {"both", one.value}:
                    assert found == key, fact


@pytest.mark.parametrize(
    ("section", "fact"),
    [
        ("memory", "System RAM in MiB, rounded up: 255"),
        ("memory", "fee00000-fee00fff Local APIC"),
        ("pci", "0000:00:01.0 1af4:1042 class 018000 driver -"), ("virtio", "virtio0 feature 32"),
        ("interrupts", "IO-APIC 4-edge ttyS0"), ("log", "TSC deadline timer available"),
        ("warnings", "I/O error, dev vda, sector 0"), ("clock", "current tsc"),
        ("log", "virtio-pci 0000:00:01.0: cannot enable device"),
    ],
)  # fmt: skip
def test_what_has_no_reason_on_any_machine(section: str, fact: str) -> None:
    for machine in (QemuMachine.MICROVM, QemuMachine.Q35):
        for side in Side:
            assert reason_of(machine, Section(section), side, fact) == ("", "")


def test_a_warning_of_pyvmms_alone_is_never_explained() -> None:
    warning = "WARNING: at arch/x86/kernel/fpu/xstate.c:606 fpu__init_system_xstate+0x85a/0xb19"
    told = reason_of(QemuMachine.Q35, Section.WARNINGS, Side.THEIRS, warning)
    assert told[0] == "xsave-of-tcg"
    assert reason_of(QemuMachine.Q35, Section.WARNINGS, Side.OURS, warning) == ("", "")


def test_a_reason_of_one_machine_is_none_of_the_others() -> None:
    for machine, key in ((QemuMachine.MICROVM, "power-management-timer"), (QemuMachine.Q35, "")):
        told = reason_of(machine, Section.CLOCK, Side.OURS, "available acpi_pm")
        assert told[0] == key


def test_the_document_lists_the_known_differences_and_no_others() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split("\n### Differences of machines that are known\n")[1].split("\n## ")[0]
    table = re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE)
    assert table == [one.key for one in KNOWN]
