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


def card_name(number: int) -> str:
    """QEMU's name of a network card."""
    return f"net{number}"


def qemu_cards(ports: Sequence[Port], taps: Sequence[tuple[int, ...]] = ()) -> tuple[str, ...]:
    """QEMU's arguments for a card at each port; `taps` are the descriptors of their queues.

    Without these QEMU makes taps itself, as a person may.
    """
    # Cards of virtio 1, as pyvmm's are.
    arguments = ["-global", "virtio-mmio.force-legacy=off"] if ports else []
    for number, port in enumerate(ports):
        fds = taps[number] if taps else ()
        name = card_name(number)
        several = len(fds) > 1
        which = f"fd={fds[0]}" if fds else "script=no,downscript=no"
        which = f"fds={':'.join(map(str, fds))}" if several else which
        card = f"virtio-net-device,id={name},netdev={name}-wire,mac={port.mac.hex(':')}"
        # Otherwise the first card is what a guest finds last.
        card += f",bus=virtio-mmio-bus.{number}"
        card += ",mq=on" if several else ""
        card += "" if port.told_mtu is None else f",host_mtu={port.told_mtu}"
        arguments += ["-netdev", f"tap,id={name}-wire,{which}", "-device", card]
    return tuple(arguments)
