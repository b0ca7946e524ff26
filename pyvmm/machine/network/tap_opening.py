# SPDX-License-Identifier: MIT
"""Taps of network cards: made for the run and set up, or used as they are where there is one."""

from __future__ import annotations

import ipaddress
import os
from functools import partial
from typing import TYPE_CHECKING, Final

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.machine.hardware import DescriptorNet, TapNet
from pyvmm.net.host_address import parse_host_address
from pyvmm.net.link_state import link_state
from pyvmm.net.namespaces import within
from pyvmm.net.taps import (
    MOST_QUEUES,
    OpenedTap,
    TapWire,
    adopt_taps,
    attach_tap,
    make_tap,
)

if TYPE_CHECKING:  # A tap that is there already does without pyroute2.
    from pyvmm.net.links import Link, Links

LEAST_MTU, MOST_MTU = 68, 65_521
"""Bytes (ETH_MIN_MTU, and MAX_MTU of drivers/net/tun.c)."""
_DEFAULT_MTU: Final = 1500


def open_tap_wire(net: TapNet, mtu: int | None) -> TapWire:
    """Open a tap as `net` has it; `mtu` is in bytes, None: the bridge's, or Ethernet's.

    A tap that is made for the run is down again, and gone, once the wire is closed or its process
    has ended in whatever way. Raises `UsageError` for what cannot be and for what is somebody
    else's, `NoInputError` for a namespace that is not there, `HostLacksError`,
    `NoPermissionError`, `SystemCallError`.
    """
    attempt = f"make the tap {net.name}" if net.name else "make a tap"
    if not 1 <= net.queues <= MOST_QUEUES:
        raise UsageError(attempt, f"it has 1 to {MOST_QUEUES} queues", f"not {net.queues}")
    if mtu is not None and not LEAST_MTU <= mtu <= MOST_MTU:
        raise UsageError(attempt, f"its MTU is {LEAST_MTU} to {MOST_MTU} bytes", f"not {mtu}")
    if net.address is not None:
        if net.bridge is not None:
            cause = "nobody reaches the address of a bridge's port"
            raise UsageError(attempt, cause, "give it to the bridge instead")
        try:
            parse_host_address(net.address)
        except ValueError as error:
            cause = f"{net.address} is {error}"
            raise UsageError(attempt, cause, "give another") from error
    return within(net.netns, partial(_open_here, net, mtu))


def adopt_tap_wire(net: DescriptorNet, number: int) -> TapWire:
    """Make a wire of the descriptors of card `number`. Raises `UsageError`, `SystemCallError`."""
    attempt = f"give network card {number} a tap"
    if not net.fds:
        raise UsageError(attempt, "it has no descriptors", "give one for each queue")
    fds = adopt_taps(net.fds, attempt)
    return _wire(OpenedTap(f"descriptor {net.fds[0]}", fds, is_new=False), None)


def _open_here(net: TapNet, mtu: int | None) -> TapWire:
    """Open a tap of the calling thread's network namespace."""
    made = make_tap(net.name, net.queues)
    if made is not None:
        return _wire(made, mtu, net)
    if net.bridge or net.address:
        raise UsageError(
            f"make the tap {net.name}",
            "there is a network device of that name, which is left as it is",
            f"leave {'bridge=' if net.bridge else 'addr='} out to use it, or give another name",
        )
    return _wire(attach_tap(net.name or "", net.queues), mtu)


def _wire(opened: OpenedTap, mtu: int | None, net: TapNet | None = None) -> TapWire:
    """Take over a tap; `net` is what one that is new is to be set up as."""
    attempt = f"set up the tap {opened.name}"
    try:
        wire = TapWire(opened.name, opened.fds, hold=opened.hold)
    except OSError as error:
        for fd in (*opened.fds, *(() if opened.hold is None else (opened.hold,))):
            os.close(fd)
        raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
    try:
        if net is not None:
            wire.mtu = _set_up(net, wire.name, mtu)
        elif opened.hold is not None:
            wire.mtu = _used_mtu(wire.name, mtu)
    except BaseException:
        wire.close()
        raise
    return wire


def _used_mtu(name: str, wanted: int | None) -> int:
    """MTU of a tap that is there already and stays as it is."""
    attempt = f"use the tap {name}"
    try:
        state = link_state(name)
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
    if not state.is_up:
        raise UsageError(attempt, "it is down", f"ip link set {name} up")
    _require_mtu(attempt, name, state.mtu, wanted)
    return state.mtu


def _require_mtu(attempt: str, name: str, mtu: int, wanted: int | None) -> None:
    if wanted is not None and wanted > mtu:
        remedy = f"leave mtu= out, or ip link set {name} mtu {wanted}"
        raise UsageError(
            f"{attempt} with an MTU of {wanted}", f"{name} takes at most {mtu} bytes", remedy
        )


def _set_up(net: TapNet, name: str, mtu: int | None) -> int:
    """Set a tap up that was made for the run. Return its MTU in bytes."""
    from pyvmm.net.links import opened_links
    from pyvmm.net.marks import RUN, Mark

    attempt = f"set up the tap {name}"
    with opened_links() as links:
        tap = links.find(name)
        if tap is None:
            raise UsageError(attempt, "somebody has removed it", "try again")
        bridge = None if net.bridge is None else _bridge(links, net.bridge, name)
        if bridge is not None:
            _require_mtu(f"put the tap {name} on a bridge", bridge.name, bridge.mtu, mtu)
        if net.address is not None:
            links.require_free(net.address)
            links.add_address(tap, net.address)
        if net.address is None or ipaddress.ip_interface(net.address).version == 4:
            # Or the guest could speak to this machine where nobody has asked for that.
            links.forgo_link_local(tap)
        # The bridge's own, not the card's: a bridge takes the least MTU of its ports. And it takes
        # the lowest of their MACs, unless it was given one: it is to keep what it has.
        mtu = bridge.mtu if bridge is not None else mtu or _DEFAULT_MTU
        mac = None if bridge is None else f"fe:{os.urandom(5).hex(':')}"
        mark = Mark(RUN, str(os.getpid()))
        links.change(tap, mark=mark, mtu=mtu, bridge=bridge, mac=mac, is_up=True)
        return mtu


def _bridge(links: Links, name: str, tap: str) -> Link:
    found = links.find(name)
    attempt = f"put the tap {tap} on the bridge {name}"
    if found is None:
        remedy = f"make it with ip link add {name} type bridge, or pyvmm net up"
        raise UsageError(attempt, "there is none", remedy)
    if found.kind != "bridge":
        raise UsageError(attempt, "there is a network device of that name that is no bridge")
    if not found.is_up:
        raise UsageError(attempt, "the bridge is down", f"ip link set {name} up")
    return found
