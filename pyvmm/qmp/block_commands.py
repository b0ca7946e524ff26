# SPDX-License-Identifier: MIT
"""query-block, in the shapes of qapi/block-core.json."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvmm.machine.hardware import DiskFormat
from pyvmm.qmp.command import Arguments, Command

if TYPE_CHECKING:
    from pyvmm.machine.disks.failures import MachineDisk
    from pyvmm.qmp.served import Served


async def _query_block(served: Served, _arguments: Arguments) -> object:
    disks = served.machine.host.disks
    return [] if disks is None else [_block_info(one, disks.io_status(one)) for one in disks.disks]


def _block_info(disk: MachineDisk, failed: int) -> object:
    """BlockInfo; `failed` is the errno of what has stopped it, 0 for nothing."""
    choice = disk.choice
    name, format_ = str(choice.path), (choice.format or DiskFormat.RAW).value
    status = "nospace" if failed == errno.ENOSPC else "failed" if failed else "ok"
    unlimited = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    return {
        "device": disk.name,
        "type": "unknown",
        "removable": False,
        "locked": False,
        "io-status": status,
        "inserted": {
            "file": name,
            "ro": choice.read_only,
            "drv": format_,
            "backing_file_depth": 0,
            "encrypted": False,
            "detect_zeroes": "off",
            **unlimited,
            "image": {"filename": name, "format": format_, "virtual-size": disk.size},
            "cache": {"writeback": True, "direct": False, "no-flush": False},
            "write_threshold": 0,
        },
    }


BLOCK_COMMANDS = (Command("query-block", (), _query_block),)
