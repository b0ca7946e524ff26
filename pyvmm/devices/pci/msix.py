# SPDX-License-Identifier: MIT
"""MSI-X of a PCI function: its capability, its table and the pending bits (PCI 3.0, 6.8.2). Pure.

::

    capability  control (enable, function mask), places of the two
    0x000       table: address, upper address, data, vector control; 16 bytes each
    0x800       pending bit array

A vector is masked by its own bit, by the function's, while MSI-X is off, and while the function may
not reach memory (a message is a write). At reset it is off, and every vector has its bit set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pyvmm.devices.pci.capabilities import Capability, CapabilityId
from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts.interrupts import Msi

if TYPE_CHECKING:
    from pyvmm.devices.pci.saved import SavedMsix

BAR_SIZE: Final = 0x1000
WIDTH: Final = 4
"""Widest access that goes whole: 8 bytes of a row are two registers."""
PENDING: Final = 0x800
"""Offset of the pending bit array in the BAR."""
MOST_VECTORS: Final = PENDING // 16
_ROW: Final = 16
_ADDRESS, _UPPER, _DATA, _CONTROL = range(0, _ROW, 4)
_VECTOR_MASK: Final = 1
_ENABLE: Final = 1 << 15
_FUNCTION_MASK: Final = 1 << 14


class VectorChange(NamedTuple):
    """A vector that sends `msi` from now on, or sent that until now and is masked."""

    vector: int
    msi: Msi
    masked: bool


def _nothing(_changes: Sequence[VectorChange]) -> None:
    """Do nothing."""


def _no_switch() -> None:
    """Do nothing."""


def _none_pending(_vector: int) -> bool:
    return False


class Msix:
    """MSI-X with `vectors` vectors; also the registers of the BAR. The guard is its owner's.

    `on_vectors` is told of vectors that send otherwise than before, those that change together in
    one go; what a masked one would send is told when it is unmasked. `pending` says whether a
    vector keeps what was signalled; `on_switch` is called when MSI-X is turned on or off.
    """

    def __init__(self, vectors: int, bar: int) -> None:
        if not 0 < vectors <= MOST_VECTORS:
            raise InternalError(
                f"make MSI-X with {vectors} vectors", f"its table has room for {MOST_VECTORS}"
            )
        self.vectors = vectors
        self._bar = bar
        self.on_vectors: Callable[[Sequence[VectorChange]], None] = _nothing
        self.pending: Callable[[int], bool] = _none_pending
        self.on_switch: Callable[[], None] = _no_switch
        self._told: dict[int, Msi] = {}
        self._allowed = False
        self._forget()

    def _forget(self) -> None:
        self.enabled = False
        self._function_masked = False
        self._table = bytearray(bytes(_CONTROL) + b"\1\0\0\0") * self.vectors

    @property
    def capability(self) -> Capability:
        """The capability, for the function's configuration space."""
        body = (
            (self.vectors - 1).to_bytes(2, "little")
            + self._bar.to_bytes(4, "little")
            + (PENDING | self._bar).to_bytes(4, "little")
        )
        writable = (_ENABLE | _FUNCTION_MASK).to_bytes(2, "little") + bytes(8)
        return Capability(CapabilityId.MSIX, body, writable, self._show, self._control)

    def _show(self, body: bytearray, _offset: int, _size: int) -> None:
        control = self.vectors - 1
        control |= _ENABLE if self.enabled else 0
        control |= _FUNCTION_MASK if self._function_masked else 0
        body[:2] = control.to_bytes(2, "little")

    def _control(self, body: bytearray, offset: int, size: int) -> None:
        if offset <= 1 < offset + size:
            control = int.from_bytes(body[:2], "little")
            before, self.enabled = self.enabled, bool(control & _ENABLE)
            self._function_masked = bool(control & _FUNCTION_MASK)
            self._tell()
            if self.enabled is not before:
                self.on_switch()

    # -- the BAR --

    def read(self, offset: int, size: int) -> int:
        """A part of the table or of the pending bits; 0 for everything else."""
        if offset < PENDING:
            return int.from_bytes(self._table[offset : offset + size], "little")
        first = 8 * (offset - PENDING)
        bits = range(first, min(first + 8 * size, self.vectors))
        return sum(1 << bit - first for bit in bits if self.pending(bit))

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a register of the table whole; everything else is dropped, and so are other sizes:
        no driver may make such accesses (6.8.2)."""
        if size != WIDTH or offset % WIDTH or offset >= len(self._table):
            return
        if offset % _ROW == _CONTROL:
            value &= _VECTOR_MASK
        elif offset % _ROW == _ADDRESS:
            value &= ~3
        self._table[offset : offset + 4] = value.to_bytes(4, "little")
        self._tell()

    # -- the machine's side --

    def allow(self, allowed: bool) -> None:
        """Let the function reach memory, or not."""
        if allowed is not self._allowed:
            self._allowed = allowed
            self._tell()

    def _messages(self) -> Iterator[tuple[int, Msi]]:
        """The vectors that are not masked, with what they send."""
        if not self.enabled or self._function_masked or not self._allowed:
            return
        for vector in range(self.vectors):
            row = self._table[_ROW * vector : _ROW * (vector + 1)]
            if not row[_CONTROL] & _VECTOR_MASK:
                address = int.from_bytes(row[_ADDRESS:_DATA], "little")
                yield vector, Msi(address, int.from_bytes(row[_DATA:_CONTROL], "little"))

    def _tell(self) -> None:
        now = dict(self._messages())
        if now == self._told:
            return
        before, self._told = self._told, now
        masked = [VectorChange(one, before[one], True) for one in before.keys() - now.keys()]
        sent = [VectorChange(one, msi, False) for one, msi in now.items() if before.get(one) != msi]
        self.on_vectors((*sorted(masked), *sent))

    def reset(self) -> None:
        """Off, and all masked; what is pending is for the owner to forget."""
        self._forget()
        self._tell()

    def save(self) -> SavedMsix:
        """The table, the switches, and which vectors are pending."""
        from pyvmm.devices.pci.saved import SavedMsix

        waiting = tuple(one for one in range(self.vectors) if self.pending(one))
        return SavedMsix(bytes(self._table), waiting, self.enabled, self._function_masked)

    def restore(self, value: SavedMsix) -> None:
        """Take the table and the switches over; what was pending is for the owner to signal.

        Raises `UsageError`, before anything is changed, for another number of vectors.
        """
        if len(value.table) != len(self._table):
            saved = len(value.table) // _ROW
            raise UsageError(
                "restore a PCI function",
                f"it has {self.vectors} vectors, and the one that was saved {saved}",
                "make the machine with the same devices",
            )
        self._table = bytearray(value.table)
        self.enabled, self._function_masked = value.enabled, value.masked
        self._tell()
