# SPDX-License-Identifier: MIT
"""Opening vhost-net for the pairs of a card's queues, where it was asked for and can be."""

from __future__ import annotations

from contextlib import ExitStack

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError, UsageError
from pyvmm.machine.hardware import NetCard, UserNet, VhostChoice
from pyvmm.net.frames import Wire
from pyvmm.net.vhost import VhostNet, open_vhost


def open_pairs(
    card: NetCard, wire: Wire, number: int, stack: ExitStack, *, against: str = ""
) -> tuple[VhostNet, ...]:
    """Open vhost-net for each pair of the queues of card `number`; `stack` closes it.

    None for a card whose frames are this process's. `against` is what speaks against it in this
    machine, "" for nothing. Only where it is insisted on (`VhostChoice.ON`) does this raise:
    `UsageError` where it cannot be, `HostLacksError`, `NoPermissionError`, `SystemCallError`.
    """
    choice = VhostChoice.OFF if isinstance(card.wire, UserNet) else card.wire.vhost
    if choice is VhostChoice.OFF:
        return ()
    if not wire.descriptors:
        against = "its frames have to be seen here, for a capture"
    if against:
        if choice is VhostChoice.AUTO:
            return ()
        raise UsageError(f"give net {number} vhost-net", against, "give vhost=off")
    with ExitStack() as opened:
        try:
            pairs = tuple(opened.enter_context(open_vhost()) for _ in wire.descriptors)
        except (HostLacksError, NoPermissionError, SystemCallError):
            if choice is VhostChoice.AUTO:
                return ()
            raise
        stack.push(opened.pop_all())
    return pairs
