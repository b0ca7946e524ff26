# SPDX-License-Identifier: MIT
"""Opening the wires of network cards."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial

from pyvmm.errors import HostLacksError, SystemCallError, UsageError
from pyvmm.machine.hardware import DescriptorNet, NetCard, TapNet, UserNet
from pyvmm.net.frames import Wire
from pyvmm.net.links import opened_links
from pyvmm.net.marks import RUN, Mark
from pyvmm.net.namespaces import within
from pyvmm.net.taps import TapWire, adopt_taps, open_tap


def open_wire(card: NetCard, number: int, stack: ExitStack) -> Wire:
    """Open the wire of the card with this number; `stack` closes it.

    May block for some milliseconds. Raises `UsageError`, `HostLacksError`, `NoPermissionError`,
    `NoInputError`, `SystemCallError`.
    """
    match card.wire:
        case TapNet():
            return stack.enter_context(_open_tap(card.wire, card.mtu))
        case DescriptorNet():
            return stack.enter_context(_adopt(card.wire, number))
        case UserNet():
            raise HostLacksError("open a user-mode network", "not built yet")


def _open_tap(net: TapNet, mtu: int | None) -> TapWire:
    return within(net.netns, partial(_open_here, net, mtu))


def _open_here(net: TapNet, mtu: int | None) -> TapWire:
    opened = open_tap(net.name, net.queues)
    wire = _wire(opened.name, opened.fds, mtu)
    try:
        if opened.is_new:
            _set_up(net, wire.name, mtu)
    except BaseException:
        wire.close()
        raise
    return wire


def _set_up(net: TapNet, name: str, mtu: int | None) -> None:
    """Give a tap that was made for the run what was asked for. It is up then."""
    with opened_links() as links:
        tap = links.find(name)
        bridge = links.find(net.bridge) if net.bridge else None
        if net.bridge and (bridge is None or bridge.kind != "bridge"):
            cause = f"there is no bridge {net.bridge}"
            remedy = f"make one with ip link add {net.bridge} type bridge, or pyvmm net up"
            raise UsageError(f"put the tap {name} on a bridge", cause, remedy)
        if tap is None:
            raise UsageError(f"set up the tap {name}", "somebody has removed it")
        if net.address:
            links.add_address(tap, net.address)
        links.change(tap, mark=Mark(RUN, str(os.getpid())), mtu=mtu, bridge=bridge, is_up=True)


def _adopt(net: DescriptorNet, number: int) -> TapWire:
    fds = adopt_taps(net.fds, f"give network card {number} a tap")
    return _wire(f"fd {net.fds[0]}", fds, None)


def _wire(name: str, fds: tuple[int, ...], mtu: int | None) -> TapWire:
    try:
        return TapWire(name, fds, mtu)
    except OSError as error:
        for fd in fds:
            os.close(fd)
        attempt = f"set up the tap {name}"
        raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
