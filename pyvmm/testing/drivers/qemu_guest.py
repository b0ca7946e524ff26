# SPDX-License-Identifier: MIT
"""Guest of a QEMU: all that a `QemuProcess` is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.compare.guest_files import GuestFiles
from pyvmm.compare.subjects import QemuSubject

if TYPE_CHECKING:
    from pyvmm.testing.network.ports import Port


@dataclass(frozen=True, slots=True)
class QemuGuest:
    """A guest, the QEMU that runs it, and how long it may run, in seconds.

    `paused`: it waits for `QemuProcess.resume` before its first instruction.
    """

    subject: QemuSubject
    files: GuestFiles
    timeout: float
    paused: bool
    cards: tuple[str, ...] = ()
    """Arguments for its network cards."""
    descriptors: tuple[int, ...] = ()
    """Descriptors that these name; they last as long as the guest."""


def qemu_cards(ports: Sequence[Port], taps: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    """QEMU's arguments for a card at each port; `taps` are the descriptors of their queues."""
    arguments: list[str] = []
    for number, (port, fds) in enumerate(zip(ports, taps, strict=True)):
        name = f"net{number}"
        several = len(fds) > 1
        which = f"fds={':'.join(map(str, fds))}" if several else f"fd={fds[0]}"
        card = f"virtio-net-device,id={name},netdev={name}-wire,mac={port.mac.hex(':')}"
        card += ",mq=on" if several else ""
        card += "" if port.told_mtu is None else f",host_mtu={port.told_mtu}"
        arguments += ["-netdev", f"tap,id={name}-wire,{which}", "-device", card]
    return tuple(arguments)
