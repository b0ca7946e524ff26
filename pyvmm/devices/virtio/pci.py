# SPDX-License-Identifier: MIT
"""A virtio device as a PCI function (virtio 1.2, 4.1): capabilities, registers, interrupts. Pure.

Registers are in an I/O BAR, of which IN and OUT reach everything without an instruction being
decoded; the table of MSI-X and its pending bits are in a memory BAR (docs/decisions/0018). One
interrupts by messages while MSI-X is on, and else by the line INTA, which is up while there is a
reason in the ISR status: reading that lowers it.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyvmm.devices.pci.bars import Bar, BarKind
from pyvmm.devices.pci.capabilities import HEADER, Capability, CapabilityId
from pyvmm.devices.pci.config_space import ConfigSpace, PciIdentity
from pyvmm.devices.pci.msix import BAR_SIZE, MOST_VECTORS, Msix
from pyvmm.devices.pci.msix import WIDTH as MSIX_WIDTH
from pyvmm.devices.virtio import pci_registers
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.pci_registers import (
    DEVICE_CONFIG,
    ISR,
    MOST_CONFIG,
    MOST_QUEUES,
    NO_VECTOR,
    NOTIFY,
    NOTIFY_STRIDE,
    Isr,
    VirtioPciRegisters,
)
from pyvmm.errors import InternalError, UsageError

if TYPE_CHECKING:
    from pyvmm.devices.virtio.saved_pci import SavedVirtioPci

REGISTERS_BAR: Final = 0
MSIX_BAR: Final = 1
VENDOR: Final = 0x1AF4
FIRST_ID: Final = 0x1040
"""PCI device ID of virtio device ID 0 (4.1.2)."""
_SUBSYSTEM: Final = 0x1100
"""Of what is no transitional device: 0x40 or more (4.1.2.1). The number is QEMU's."""
_REVISION: Final = 1
_OTHER: Final = 0x00FF
_CLASSES: Final = {1: 0x0200, 2: 0x0100, 3: 0x0780}
"""Class and subclass by virtio device ID, as QEMU has them: network, disk, console; or others."""


class Structure(enum.IntEnum):
    """Types of virtio's capabilities (4.1.4)."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI_CFG = 5


def _structure(kind: Structure, offset: int, length: int, more: bytes = b"") -> Capability:
    """A capability that says where in the registers' BAR a structure is."""
    body = struct.pack("<BBBB2xII", 16 + len(more), kind, REGISTERS_BAR, 0, offset, length)
    return Capability(CapabilityId.VENDOR, body + more, bytes(len(body + more)))


def _nothing(_value: object = None) -> None:
    """Do nothing."""


class VirtioPci:
    """A virtio device's function. The guard is its owner's, and all callbacks are under it.

    `on_line` sets INTA's level; `on_message` signals a vector; `on_place` is called when BARs are
    decoded otherwise than before; `on_vectors` when `queue_vector` may be another one; `on_forget`
    when no vector keeps anything any more; `on_keep` gives vectors back what they kept.
    """

    def __init__(self, core: VirtioCore) -> None:
        model = core.model
        if core.queue_count > MOST_QUEUES or len(model.config()) > MOST_CONFIG:
            raise InternalError(
                f"put a virtio device of kind {model.kind} on PCI",
                f"it has {core.queue_count} queues and {len(model.config())} bytes of "
                f"configuration; there is room for {MOST_QUEUES} and {MOST_CONFIG}",
            )
        self.core = core
        vectors = min(core.queue_count + 1, MOST_VECTORS)
        self.registers = VirtioPciRegisters(core, vectors)
        self.msix = Msix(vectors, MSIX_BAR)
        self._bars = (
            Bar(
                REGISTERS_BAR, BarKind.IO, pci_registers.LENGTH, self.registers,
                pci_registers.WIDTH, "virtio-pci",
            ),
            Bar(MSIX_BAR, BarKind.MEMORY_32, BAR_SIZE, self.msix, MSIX_WIDTH, "virtio-pci-msix"),
        )  # fmt: skip
        self.space = ConfigSpace(
            PciIdentity(
                VENDOR, FIRST_ID + model.kind, _CLASSES.get(model.kind, _OTHER) << 8, _REVISION,
                VENDOR, _SUBSYSTEM,
            ),
            self._bars,
            tuple(self._capabilities()),
            interrupt=True,
        )  # fmt: skip
        self.on_line: Callable[[bool], None] = _nothing
        self.on_message: Callable[[int], None] = _nothing
        self.on_place: Callable[[], None] = _nothing
        self.on_vectors: Callable[[], None] = _nothing
        self.on_forget: Callable[[], None] = _nothing
        self.on_keep: Callable[[tuple[int, ...]], None] = _nothing
        self._is_up = False
        core.on_interrupt = self._interrupt
        core.on_reset = self._was_reset
        self.registers.on_isr = self._set_line
        self.registers.on_vector = self._vectors_changed
        self.msix.on_switch = self._switched
        self.space.on_change = self._changed
        core.allow_dma(False)

    def _capabilities(self) -> list[Capability]:
        config = self.core.model.config()
        notify = NOTIFY_STRIDE.to_bytes(4, "little")
        queues = NOTIFY_STRIDE * max(self.core.queue_count, 1)
        found = [
            self.msix.capability,
            _structure(Structure.COMMON, 0, ISR),
            _structure(Structure.ISR, ISR, 1),
            _structure(Structure.NOTIFY, NOTIFY, queues, notify),
        ]
        # Linux refuses a device whose own configuration has no bytes.
        if config:
            found.append(_structure(Structure.DEVICE, DEVICE_CONFIG, len(config)))
        found.append(ConfigAccess(self._bars).capability)
        return found

    # -- interrupts --

    def _interrupt(self, queue: int | None) -> None:
        registers = self.registers
        if queue is None:
            registers.isr |= Isr.CONFIGURATION
        elif not self.msix.enabled:
            registers.isr |= Isr.QUEUE
        self._set_line()
        if not self.msix.enabled:
            return
        vector = registers.config_vector if queue is None else registers.queue_vectors[queue]
        if vector != NO_VECTOR:
            self.on_message(vector)

    def queue_vector(self, queue: int) -> int | None:
        """The vector that a queue's interrupts go by; None: by the line, or nowhere."""
        vector = self.registers.queue_vectors[queue]
        return vector if self.msix.enabled and vector != NO_VECTOR else None

    def _vectors_changed(self) -> None:
        self.on_vectors()

    def _switched(self) -> None:
        self._set_line()
        self.on_vectors()

    def _set_line(self) -> None:
        reason = bool(self.registers.isr) and not self.msix.enabled
        self.space.show_interrupt(reason)
        up = reason and self.space.intx_allowed
        if up is not self._is_up:
            self._is_up = up
            self.on_line(up)

    def _was_reset(self) -> None:
        self.registers.forget()
        self._set_line()

    def _changed(self) -> None:
        """The command register or a BAR has changed."""
        allowed = self.space.bus_master
        self.msix.allow(allowed)
        self.core.allow_dma(allowed)
        self._set_line()
        self.on_place()

    # -- the machine's side --

    def address(self) -> int | None:
        """I/O port at which the registers are decoded now; None: nowhere."""
        for bar, address in self.space.placed():
            if bar.number == REGISTERS_BAR:
                return address
        return None

    def reset(self) -> None:
        """Be as firmware has left it."""
        self.core.reset()
        self.msix.reset()
        self.on_forget()
        self.space.reset()
        self._set_line()

    def save(self) -> SavedVirtioPci:
        """The core's state, and that of everything around it."""
        from pyvmm.devices.virtio.saved_pci import SavedVirtioPci

        registers = self.registers
        return SavedVirtioPci(
            core=self.core.save(),
            config=self.space.save(),
            msix=self.msix.save(),
            selects=registers.selects,
            isr=int(registers.isr),
            config_vector=registers.config_vector,
            queue_vectors=tuple(registers.queue_vectors),
        )

    def restore(self, value: SavedVirtioPci) -> None:
        """Be as the device that `value` was saved from."""
        if len(value.queue_vectors) != self.core.queue_count:
            raise UsageError(
                "restore a virtio device",
                f"it has {self.core.queue_count} queues, and the one that was saved "
                f"{len(value.queue_vectors)}",
                "make the machine with the same devices",
            )
        registers = self.registers
        self.msix.reset()
        self.on_forget()
        if self._is_up:
            self._is_up = False
            self.on_line(False)
        registers.forget()
        self.space.restore(value.config)
        self.msix.restore(value.msix)
        registers.selects = value.selects
        registers.isr = Isr(value.isr)
        registers.config_vector = value.config_vector
        registers.queue_vectors = list(value.queue_vectors)
        self.core.restore(value.core)
        # Behind the routes, or what is pending gets nowhere.
        self.on_keep(value.msix.pending)
        self._set_line()


class ConfigAccess:
    """Access to BARs by configuration space (4.1.4.9): a driver writes BAR, offset and length, and
    reads or writes the data behind them. It works with decoding off."""

    _BAR: Final = 2
    _DATA: Final = 14

    def __init__(self, bars: tuple[Bar, ...]) -> None:
        self._bars = {bar.number: bar for bar in bars}

    @property
    def capability(self) -> Capability:
        """The capability, for the function's configuration space."""
        body = struct.pack("<BBBB2xIII", HEADER + 18, Structure.PCI_CFG, 0, 0, 0, 0, 0)
        writable = b"\0\0\xff\0\0\0" + b"\xff" * 12
        return Capability(CapabilityId.VENDOR, body, writable, self._read, self._write)

    def _access(self, body: bytearray, offset: int, size: int) -> tuple[Bar, int, int] | None:
        """The BAR, offset and length of an access that a driver makes by the data's bytes."""
        if offset < self._DATA or offset + size > len(body):
            return None
        start, length = struct.unpack_from("<II", body, 6)
        bar = self._bars.get(body[self._BAR])
        fits = length in (1, 2, 4) and bar is not None and not start % length
        if bar is None or not fits or start + length > bar.size:
            return None
        return bar, start, length

    def _read(self, body: bytearray, offset: int, size: int) -> None:
        found = self._access(body, offset, size)
        if found is not None:
            bar, start, length = found
            value = bar.registers.read(start, length)
            body[self._DATA : self._DATA + length] = value.to_bytes(length, "little")

    def _write(self, body: bytearray, offset: int, size: int) -> None:
        found = self._access(body, offset, size)
        if found is not None:
            bar, start, length = found
            value = int.from_bytes(body[self._DATA : self._DATA + length], "little")
            bar.registers.write(start, length, value)
