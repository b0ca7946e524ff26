# SPDX-License-Identifier: MIT
"""Opening the wires of network cards."""

from __future__ import annotations

from contextlib import ExitStack

from pyvmm.machine.hardware import DescriptorNet, NetCard, TapNet, UserNet
from pyvmm.net.frames import Wire


def open_wire(card: NetCard, number: int, stack: ExitStack) -> Wire:
    """Open the wire of the card with this number; `stack` closes it.

    May block for some milliseconds. Raises `UsageError`, `HostLacksError`, `NoPermissionError`,
    `NoInputError`, `SystemCallError`.
    """
    match card.wire:
        case TapNet():
            from pyvmm.machine.network.tap_opening import open_tap_wire

            return stack.enter_context(open_tap_wire(card.wire, card.mtu))
        case DescriptorNet():
            from pyvmm.machine.network.tap_opening import adopt_tap_wire

            return stack.enter_context(adopt_tap_wire(card.wire, number))
        case UserNet():
            from pyvmm.net.passt import open_passt

            return stack.enter_context(open_passt(card.wire.forwards, card.mtu))
