# SPDX-License-Identifier: MIT
"""``--guest-memfd-flags`` and ``--memslot-flags``: flags of the kernel's that have no name here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.machine.raw_flags import RawFlags


def add_flags_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that RAM is made with beside those that pyvmm needs."""
    parser.add_argument(
        "--guest-memfd-flags", type=_flags(64), default=0, metavar="0x..",
        help="further flags of KVM_CREATE_GUEST_MEMFD for RAM, as they are",
    )  # fmt: skip
    parser.add_argument(
        "--memslot-flags", type=_flags(32), default=0, metavar="0x..",
        help="further flags of KVM_SET_USER_MEMORY_REGION2 for RAM's memslots, as they are",
    )  # fmt: skip


def raw_flags(options: argparse.Namespace) -> RawFlags | None:
    """The flags asked for; None for none."""
    if not options.guest_memfd_flags and not options.memslot_flags:
        return None
    from pyvmm.machine.raw_flags import RawFlags

    return RawFlags(options.guest_memfd_flags, options.memslot_flags)


def _flags(bits: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            value = -1
        if not 0 <= value < 1 << bits:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of {bits} bits, such as 0x10")
        return value

    return parse
