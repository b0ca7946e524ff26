# SPDX-License-Identifier: MIT
"""The structures of a private launch, as the firmware and the guest know them (firmware/README.md).

``guest/include/protocol.h`` says the same in C; a test compares both sides. Everything is little
endian; offsets and sizes are bytes.
"""

from __future__ import annotations

import enum
import struct

BOOT_BLOCK_MAGIC = 0x314B_4C42_4D56_5950
"""The bytes ``PYVMBLK1``."""
BOOT_BLOCK = struct.Struct("<QIIQQQIIQQ48s16x")
"""Magic, size, cpus, flags, entry, start info, regions, runs, window GPA and size, expected."""
BOOT_REGION = struct.Struct("<QQ")
"""GPA, size."""
BOOT_RUN = struct.Struct("<QQQ")
"""GPA, offset from the start of the staging area, size."""
BOOT_BLOCK_MAX = 0x1_0000
BOOT_REGIONS_MAX = 4
BOOT_RUNS_MAX = 2048
BOOT_CPUS_MAX = 255
"""Initial APIC ids are 8 bits, and 255 means everybody."""

DIGEST_BYTES = 48
"""A SHA-384."""
ENTRY_RECORD = struct.Struct("<16sQQ")
"""Record that is measured last: a name, entry, start info."""
ENTRY_RECORD_NAME = b"pyvmm entry"

LAUNCH_REPORT_MAGIC = 0x3152_524D_5659_4C50
"""The bytes ``PLYVMRR1``."""
LAUNCH_REPORT = struct.Struct("<QII48sQ")
"""Magic, status, pages measured, digest, detail."""

LAUNCH_INFO_MAGIC = 0x314F_464E_4956_5950
"""The bytes ``PYVINFO1``."""
LAUNCH_INFO_FIELDS = struct.Struct("<QIIIIQQ48sI")
"""Magic, cpus, hypercall, page level, flags, window GPA and size, digest, parked."""

MAILBOX = struct.Struct("<QQ")
"""Mailbox of a parked processor: the entry it jumps to (0: it waits on), and its RDI there."""


class BootFlag(enum.IntFlag):
    """Options that the boot block asks for."""

    CONVERT = 1 << 0
    """Make memory private by hypercalls."""
    EXPECT = 1 << 1
    """The digest must be the one that the block has."""


class LaunchStatus(enum.IntEnum):
    """Outcome of a launch; all but the first are the run's status."""

    LAUNCHED = 0
    MISMATCH = 60
    """The digest is not the expected one."""
    BROKEN = 61
    """The boot block contradicts itself, or asks for something that cannot be."""
    REFUSED = 62
    """The monitor refused to make memory private."""


class LaunchHypercall(enum.IntEnum):
    """Instruction that makes a hypercall on this processor."""

    VMCALL = 1
    VMMCALL = 2


class LaunchInfoFlag(enum.IntFlag):
    """Facts of the machine that the launch info tells."""

    PRIVATE = 1 << 0
    """All RAM was made private."""
