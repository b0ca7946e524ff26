# SPDX-License-Identifier: MIT
"""A 16550A serial port, as far as software can see it.

Source: PC16550D datasheet (`pyvmm.devices.uart_registers`). Where that leaves something to time,
which does not exist here:

- Transmission takes no time: THR and transmitter are always empty, so the THR-empty interrupt comes
  back at once after every byte.
- The character timeout is over at once: any received byte interrupts, and below the trigger level
  IIR calls it a timeout. So no byte ever waits for its successors.

Breaks, parity and framing errors do not happen. As in QEMU, MCR's OUT2 does not gate the interrupt.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyvmm.devices.posting import PortPosting
from pyvmm.devices.uart_registers import (
    DIVISOR_AT_RESET,
    FIFO_SIZE,
    IIR_FIFOS_ENABLED,
    MCR_MASK,
    TRIGGER_LEVELS,
    Fcr,
    Ier,
    Iir,
    Lcr,
    Lsr,
    Mcr,
    Msr,
    Register,
)

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedUart

# Members as plain ints: arithmetic on IntFlag members makes new members, at a microsecond each.
_IER_RECEIVED: Final = int(Ier.RECEIVED)
_IER_TRANSMITTER_EMPTY: Final = int(Ier.TRANSMITTER_EMPTY)
_IER_LINE_STATUS: Final = int(Ier.LINE_STATUS)
_IER_MODEM_STATUS: Final = int(Ier.MODEM_STATUS)
_IER_MASK: Final = 0x0F
_DLAB: Final = int(Lcr.DLAB)
_LOOP: Final = int(Mcr.LOOP)
_LSR_IDLE: Final = int(Lsr.THR_EMPTY | Lsr.TRANSMITTER_EMPTY)
_LSR_DATA_READY: Final = int(Lsr.DATA_READY)
_LSR_OVERRUN: Final = int(Lsr.OVERRUN)
_MSR_LINES: Final = 0xF0
_MSR_CARRIER: Final = int(Msr.DCD | Msr.DSR | Msr.CTS)
_MSR_RI: Final = int(Msr.RI)
_FCR_ENABLE: Final = int(Fcr.ENABLE)
_FCR_RESET_RECEIVER: Final = int(Fcr.RESET_RECEIVER)
_FCR_STICKY: Final = 0xC9

_BYTES: Final = tuple(bytes((value,)) for value in range(256))


@functools.cache
def _postings(thr: bool, lsr: bool, msr: int | None) -> tuple[PortPosting, ...]:
    """The tuple for one state, always the same object for the same state."""
    postings = []
    if thr:
        postings.append(PortPosting(Register.DATA, write=True, read_value=None))
    if lsr:
        postings.append(PortPosting(Register.LSR, write=False, read_value=_LSR_IDLE))
    if msr is not None:
        postings.append(PortPosting(Register.MSR, write=False, read_value=msr))
    return tuple(postings)


class Uart16550:
    """One serial port of 8 single-byte registers.

    `transmit` takes what the guest sends, in order, one byte or more at a time. `set_irq` is called
    with the new level whenever the interrupt line changes; it starts low. None: not connected.
    All calls are one at a time: the caller locks, and the callables run within its calls.
    """

    def __init__(
        self,
        transmit: Callable[[bytes], None],
        set_irq: Callable[[bool], None] | None = None,
    ) -> None:
        self.on_room: Callable[[], None] | None = None
        """Called when the guest has taken so much that the receive FIFO is half empty, when it is
        empty, and when what kept it from receiving is over. Who waits for room is always called."""
        self._transmit = transmit
        self._set_irq = set_irq
        self._irq = False
        self._plain_output = True
        self._posting: tuple[PortPosting, ...] = ()
        self._readers = (
            self._read_data,
            lambda: self._divisor >> 8 if self._lcr & _DLAB else self._ier,
            self._read_iir,
            lambda: self._lcr,
            lambda: self._mcr,
            self._read_lsr,
            self._read_msr,
            lambda: self._scr,
        )
        self._start()

    def reset(self) -> None:
        """As at power-on, with the other end there; what was received and not read is lost."""
        self._start()
        self._tell_room()

    def _start(self) -> None:
        self._received: deque[int] = deque()
        self._carrier = self._msr = _MSR_CARRIER
        self._ier = self._fcr = self._lcr = self._mcr = self._scr = 0
        self._divisor = DIVISOR_AT_RESET
        self._overrun = self._thr_empty_pending = False
        self._settle()

    def save(self) -> SavedUart:
        """Registers, FIFO and modem lines; the interrupt line follows from them."""
        from pyvmm.devices.saved_values import SavedUart

        return SavedUart(
            received=bytes(self._received),
            lines=self._carrier,
            ier=self._ier,
            fcr=self._fcr,
            lcr=self._lcr,
            mcr=self._mcr,
            scr=self._scr,
            divisor=self._divisor,
            msr=self._msr,
            overrun=self._overrun,
            thr_empty_pending=self._thr_empty_pending,
        )

    def restore(self, value: SavedUart) -> None:
        """Take over registers, FIFO and modem lines."""
        self._received = deque(value.received)
        self._carrier = value.lines
        self._ier = value.ier
        self._fcr = value.fcr
        self._lcr = value.lcr
        self._mcr = value.mcr
        self._scr = value.scr
        self._divisor = value.divisor
        self._msr = value.msr
        self._overrun = value.overrun
        self._thr_empty_pending = value.thr_empty_pending
        self._settle()

    # The outside of the wire.

    @property
    def room(self) -> int:
        """Number of bytes `receive` would take now; 0 in loopback, which disconnects the wire."""
        if self._mcr & _LOOP:
            return 0
        return self._capacity - len(self._received)

    def receive(self, data: bytes) -> int:
        """Bytes arrive from the other side: take as many as there is room for, say how many."""
        taken = min(self.room, len(data))
        if taken:
            self._received.extend(data[:taken])
            self._settle()
        return taken

    def set_carrier(self, present: bool) -> None:
        """Set whether the other end is there: DCD, DSR and CTS together; present at the start.

        Our guests take a lost carrier with nothing left to read as the end of their input.
        """
        self._carrier = _MSR_CARRIER if present else 0
        self._sample_lines()
        self._settle()

    @property
    def irq(self) -> bool:
        """The level of the interrupt line."""
        return self._irq

    # The fast path's side (pyvmm.devices.posting).

    @property
    def posting(self) -> tuple[PortPosting, ...]:
        """THR writes, LSR reads and MSR reads, each while nobody could tell the difference."""
        return self._posting

    def posted_write(self, data: bytes) -> None:
        """Bytes that were written to THR while `posting` allowed it."""
        self._transmit(data)

    # The guest's side.

    def read(self, offset: int, size: int) -> int:
        """A register, 8 bits whatever `size` is."""
        del size
        return self._readers[offset & 7]()

    def write(self, offset: int, size: int, value: int) -> None:
        """A register, from the low 8 bits of `value`. LSR and MSR ignore writes."""
        del size
        value &= 0xFF
        offset &= 7
        if offset == 0:
            if self._plain_output:
                self._transmit(_BYTES[value])
            elif self._lcr & _DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            else:
                self._write_thr(value)
            return
        match offset:
            case Register.IER:
                if self._lcr & _DLAB:
                    self._divisor = self._divisor & 0xFF | value << 8
                else:
                    self._write_ier(value)
            case Register.IIR_FCR:
                self._write_fcr(value)
            case Register.LCR:
                self._lcr = value
                self._settle()
            case Register.MCR:
                self._write_mcr(value)
            case Register.SCR:
                self._scr = value
            case _:
                pass

    # Registers whose access does something.

    def _read_data(self) -> int:
        received = self._received
        if self._lcr & _DLAB:
            return self._divisor & 0xFF
        if not received:
            return 0
        value = received.popleft()
        self._settle()
        if len(received) in (0, self._capacity // 2):
            self._tell_room()
        return value

    def _read_lsr(self) -> int:
        value = _LSR_IDLE
        if self._received:
            value |= _LSR_DATA_READY
        if self._overrun:
            value |= _LSR_OVERRUN
            self._overrun = False
            self._settle()
        return value

    def _read_iir(self) -> int:
        cause = self._interrupt()
        if cause == Iir.TRANSMITTER_EMPTY:
            self._thr_empty_pending = False
            self._update_irq()
        return cause | (IIR_FIFOS_ENABLED if self._fcr & _FCR_ENABLE else 0)

    def _read_msr(self) -> int:
        value = self._msr
        if value & ~_MSR_LINES:
            self._msr = value & _MSR_LINES
            self._settle()
        return value

    def _write_thr(self, value: int) -> None:
        # The interrupt goes away with the write and comes back with the empty transmitter: an
        # edge-triggered controller needs to see both.
        self._thr_empty_pending = False
        self._update_irq()
        self._thr_empty_pending = True
        if self._mcr & _LOOP:
            self._loop_back(value)
            self._settle()
        else:
            self._transmit(_BYTES[value])
            self._update_irq()

    def _loop_back(self, value: int) -> None:
        received = self._received
        if len(received) < self._capacity:
            received.append(value)
            return
        self._overrun = True
        # With FIFOs the character that found no room is lost, without them it replaces the old
        # one (8.4, bit 1).
        if not self._fcr & _FCR_ENABLE:
            received[0] = value

    def _write_ier(self, value: int) -> None:
        value &= _IER_MASK
        # Enabling it with an empty THR interrupts at once, even if IIR was read before (QEMU's
        # hw/char/serial.c: Windows relies on it). Only the change from 0 to 1 does, so what is
        # pending while it is disabled does not matter.
        if (self._ier ^ value) & _IER_TRANSMITTER_EMPTY:
            self._thr_empty_pending = bool(value & _IER_TRANSMITTER_EMPTY)
        self._ier = value
        self._settle()

    def _write_fcr(self, value: int) -> None:
        switched = (self._fcr ^ value) & _FCR_ENABLE
        # Bits other than ENABLE are taken only together with it (8.5, bit 0).
        self._fcr = value & _FCR_STICKY if value & _FCR_ENABLE else 0
        dropped = bool(switched or value & _FCR_RESET_RECEIVER)
        if dropped:
            self._received.clear()
        self._settle()
        if dropped:
            self._tell_room()

    def _write_mcr(self, value: int) -> None:
        was_looping = self._mcr & _LOOP
        self._mcr = value & MCR_MASK
        self._sample_lines()
        self._settle()
        if was_looping:
            self._tell_room()

    # What follows from the registers.

    @property
    def _capacity(self) -> int:
        return FIFO_SIZE if self._fcr & _FCR_ENABLE else 1

    def _sample_lines(self) -> None:
        """Take over the modem lines, noting changes; in loopback they are MCR's outputs (8.8)."""
        if self._mcr & _LOOP:
            mcr = self._mcr
            # RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD.
            lines = (mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 | (mcr & 8) << 4
        else:
            lines = self._carrier
        changed = (self._msr ^ lines) & _MSR_LINES
        if changed & lines & _MSR_RI:
            # Only RI's trailing edge is noted.
            changed &= ~_MSR_RI
        self._msr = lines | self._msr & ~_MSR_LINES | changed >> 4

    def _interrupt(self) -> Iir:
        """The pending interrupt of the highest priority (table IV)."""
        ier = self._ier
        if ier & _IER_LINE_STATUS and self._overrun:
            return Iir.LINE_STATUS
        if ier & _IER_RECEIVED and self._received:
            if len(self._received) >= self._trigger:
                return Iir.RECEIVED
            return Iir.TIMEOUT
        if ier & _IER_TRANSMITTER_EMPTY and self._thr_empty_pending:
            return Iir.TRANSMITTER_EMPTY
        if ier & _IER_MODEM_STATUS and self._msr & ~_MSR_LINES:
            return Iir.MODEM_STATUS
        return Iir.NONE

    @property
    def _trigger(self) -> int:
        return TRIGGER_LEVELS[self._fcr >> 6]

    def _settle(self) -> None:
        """Bring up to date what depends on the registers: the interrupt line and the posting."""
        self._plain_output = not (
            self._lcr & _DLAB or self._mcr & _LOOP or self._ier & _IER_TRANSMITTER_EMPTY
        )
        self._posting = _postings(
            self._plain_output,
            not self._received and not self._overrun,
            None if self._msr & ~_MSR_LINES else self._msr,
        )
        self._update_irq()

    def _update_irq(self) -> None:
        level = self._interrupt() is not Iir.NONE
        if level is not self._irq:
            self._irq = level
            if self._set_irq is not None:
                self._set_irq(level)

    def _tell_room(self) -> None:
        # Reading back what was looped makes no room: there is none until loopback ends.
        if self.on_room is not None and not self._mcr & _LOOP:
            self.on_room()
