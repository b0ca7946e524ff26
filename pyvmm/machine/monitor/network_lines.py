# SPDX-License-Identifier: MIT
"""Network cards as ``info network`` shows them, in QEMU's form. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pyvmm.visible import visible

if TYPE_CHECKING:
    from pyvmm.machine.network.cards import CardState


def network_lines(cards: Iterable[CardState]) -> Iterator[str]:
    """A line for each card, and one for what it is connected to."""
    for one in cards:
        mtu = "" if one.mtu is None else f",mtu={one.mtu}"
        link = "up" if one.is_link_up else "down"
        yield (
            f"{one.name}: index=0,type=nic,model=virtio-net,macaddr={one.mac.hex(':')}{mtu},"
            f"link={link}"
        )
        yield visible(f" \\ {one.name}: index=0,{one.wire}")
        if one.ended is not None:
            yield visible(f"   it has ended: {one.ended}")
