# SPDX-License-Identifier: MIT
"""The port numbers that guests are compiled with are those that the machine has."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from pyvmm.boot import launch_format as launch
from pyvmm.boot import pvh
from pyvmm.boot.launch_format import BootFlag, LaunchHypercall, LaunchInfoFlag, LaunchStatus
from pyvmm.devices import ports
from pyvmm.devices.pvpanic import PanicEvent
from pyvmm.errors import GUEST_STATUS_MAX
from pyvmm.memory import layout
from pyvmm.rules.abi import KVM_HC_MAP_GPA_RANGE, PAGE_SIZE

HEADER = Path(__file__).parents[2] / "guest" / "include" / "protocol.h"
_DEFINE = re.compile(r"^#define[ \t]+(\w+)[ \t]+(0[xX][0-9a-fA-F]+|\d+)[ \t]*$", re.MULTILINE)


def defines() -> dict[str, int]:
    return {name: int(value, 0) for name, value in _DEFINE.findall(HEADER.read_text())}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PAGE_SIZE", PAGE_SIZE),
        ("HYPERCALL_MAP_GPA_RANGE", KVM_HC_MAP_GPA_RANGE),
        ("PORT_SERIAL", ports.COM1),
        ("PORT_DEBUG_CONSOLE", ports.DEBUG_CONSOLE),
        ("PORT_EXIT", ports.EXIT),
        ("EXIT_STATUS_MAX", GUEST_STATUS_MAX),
        ("PORT_PVPANIC", ports.PVPANIC),
        ("PVPANIC_PANICKED", PanicEvent.PANICKED),
        ("PORT_LAUNCH", ports.LAUNCH),
    ],
)
def test_both_sides_agree(name: str, value: int) -> None:
    assert defines()[name] == value


LAUNCH = {
    "NOTE_PYVMM_NEEDS": pvh.NEEDS,
    "NOTE_PYVMM_PRIVATE_ENTRY": pvh.PRIVATE_ENTRY,
    "WINDOW_GPA": layout.WINDOW_GPA,
    "WINDOW_MAX": layout.WINDOW_MAX,
    "STAGING_GPA": layout.STAGING_GPA,
    "STAGING_MAX": layout.STAGING_MAX,
    "FIRMWARE_GPA": layout.FIRMWARE_GPA,
    "FIRMWARE_SIZE": layout.FIRMWARE_SIZE,
    "LAUNCH_TABLES": layout.LAUNCH_TABLES,
    "LAUNCH_START": layout.LAUNCH_TABLES,
    "LAUNCH_INFO": layout.LAUNCH_INFO,
    "LAUNCH_CODE": layout.LAUNCH_CODE,
    "LAUNCH_MAILBOX": layout.LAUNCH_MAILBOX,
    "LAUNCH_END": layout.LAUNCH_END,
    "LAUNCH_MISMATCH": LaunchStatus.MISMATCH,
    "LAUNCH_BROKEN": LaunchStatus.BROKEN,
    "LAUNCH_REFUSED": LaunchStatus.REFUSED,
    "BOOT_BLOCK_MAGIC": launch.BOOT_BLOCK_MAGIC,
    "BOOT_BLOCK_MAX": launch.BOOT_BLOCK_MAX,
    "BOOT_BLOCK_TABLES": launch.BOOT_BLOCK.size,
    "BOOT_REGION_BYTES": launch.BOOT_REGION.size,
    "BOOT_RUN_BYTES": launch.BOOT_RUN.size,
    "BOOT_REGIONS_MAX": launch.BOOT_REGIONS_MAX,
    "BOOT_RUNS_MAX": launch.BOOT_RUNS_MAX,
    "BOOT_CPUS_MAX": launch.BOOT_CPUS_MAX,
    "BOOT_CONVERT": BootFlag.CONVERT,
    "BOOT_EXPECT": BootFlag.EXPECT,
    "DIGEST_BYTES": launch.DIGEST_BYTES,
    "LAUNCH_REPORT_MAGIC": launch.LAUNCH_REPORT_MAGIC,
    "LAUNCH_REPORT_BYTES": launch.LAUNCH_REPORT.size,
    "LAUNCH_INFO_MAGIC": launch.LAUNCH_INFO_MAGIC,
    "LAUNCH_HYPERCALL_VMCALL": LaunchHypercall.VMCALL,
    "LAUNCH_HYPERCALL_VMMCALL": LaunchHypercall.VMMCALL,
    "LAUNCH_INFO_PRIVATE": LaunchInfoFlag.PRIVATE,
    "MAILBOX_BYTES": launch.MAILBOX.size,
}


@pytest.mark.parametrize("name", LAUNCH)
def test_both_sides_agree_on_a_launch(name: str) -> None:
    assert defines()[name] == LAUNCH[name]


FIELDS = {
    "BOOT_BLOCK_": "SIZE CPUS FLAGS ENTRY START_INFO REGION_COUNT RUN_COUNT WINDOW_GPA WINDOW_SIZE "
    "EXPECTED",
    "LAUNCH_REPORT_": "STATUS PAGES DIGEST DETAIL",
    "LAUNCH_INFO_": "CPUS HYPERCALL PAGE_LEVEL FLAGS WINDOW_GPA WINDOW_SIZE DIGEST PARKED",
    "MAILBOX_": "ARGUMENT",
}
"""Everything behind the first field, which is at 0."""


@pytest.mark.parametrize(
    ("prefix", "structure"),
    [
        ("BOOT_BLOCK_", launch.BOOT_BLOCK),
        ("LAUNCH_REPORT_", launch.LAUNCH_REPORT),
        ("LAUNCH_INFO_", launch.LAUNCH_INFO_FIELDS),
        ("MAILBOX_", launch.MAILBOX),
    ],
)
def test_fields_are_where_both_sides_think(prefix: str, structure: struct.Struct) -> None:
    names = defines()
    fields = ["", *FIELDS[prefix].split()]
    for number, field in enumerate(fields[1:], start=1):
        values: list[int | bytes] = [
            b"" if name in {"EXPECTED", "DIGEST"} else 0 for name in fields
        ]
        values[number] = b"\1" if isinstance(values[number], bytes) else 1
        assert structure.pack(*values).index(1) == names[prefix + field], field


def test_every_port_of_the_header_is_compared_or_the_kernels() -> None:
    """The interrupt controllers and the timer are in the kernel (KVM_CREATE_IRQCHIP, PIT2)."""
    found = {name for name in defines() if name.startswith("PORT_")}
    in_kernel = {name for name in found if name.startswith(("PORT_PIC_", "PORT_PIT_"))}
    assert found - in_kernel == {
        "PORT_SERIAL",
        "PORT_DEBUG_CONSOLE",
        "PORT_EXIT",
        "PORT_PVPANIC",
        "PORT_LAUNCH",
    }
