# SPDX-License-Identifier: MIT
"""Opening the wires of network cards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import trio

from pyvmm.errors import UsageError
from pyvmm.machine.hardware import DescriptorNet, NetCard, TapNet, UserNet
from pyvmm.net.frames import Wire


@asynccontextmanager
async def opened_wires(cards: Sequence[NetCard]) -> AsyncIterator[tuple[Wire, ...]]:
    """Open the wires of all cards, and close them in the end; both on a thread, since both wait:
    for the kernel's locks, and for programs. Raises as `open_wire`.
    """
    with ExitStack() as stack:
        try:
            yield await trio.to_thread.run_sync(_open_all, cards, stack)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(stack.close)


def _open_all(cards: Sequence[NetCard], stack: ExitStack) -> tuple[Wire, ...]:
    taps = [card.wire for card in cards if isinstance(card.wire, TapNet) and card.wire.name]
    for number, tap in enumerate(taps):
        if (tap.name, tap.netns) in [(one.name, one.netns) for one in taps[:number]]:
            raise UsageError(
                f"use the tap {tap.name} for two cards",
                "it is at the end of one",
                "give one of them another name",
            )
    opened = [_begin(card, number, stack) for number, card in enumerate(cards)]
    # No file of the user's is emptied for a machine of which a wire is refused.
    return tuple(finish() for finish in opened)


def open_wire(card: NetCard, number: int, stack: ExitStack) -> Wire:
    """Open the wire of the card with this number; `stack` closes it.

    Blocks for some milliseconds, and longer where programs are started. Raises `UsageError`,
    `HostLacksError`, `NoPermissionError`, `NoInputError`, `SystemCallError`.
    """
    return _begin(card, number, stack)()


def _begin(card: NetCard, number: int, stack: ExitStack) -> Callable[[], Wire]:
    """Open a wire; what is given begins its capture, and gives the wire."""
    if card.capture is not None:
        from pyvmm.machine.network.capture_opening import captured

        return captured(card.capture, stack, partial(_open, card, number, stack))
    wire = _open(card, number, stack)
    return lambda: wire


def _open(card: NetCard, number: int, stack: ExitStack) -> Wire:
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
