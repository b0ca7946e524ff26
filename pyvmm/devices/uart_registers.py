# SPDX-License-Identifier: MIT
"""The registers of a 16550A: offsets and bits, under the names of the PC16550D datasheet.

Source: National Semiconductor, "PC16550D Universal Asynchronous Receiver/Transmitter with FIFOs",
June 1995, section 8.
"""

from __future__ import annotations

import enum
from typing import Final


class Register(enum.IntEnum):
    """Offsets in bytes (datasheet, table I). Several registers share an offset."""

    DATA = 0
    """RBR when read, THR when written; DLL while `Lcr.DLAB` is set."""
    IER = 1
    """Interrupt enable; DLM while `Lcr.DLAB` is set."""
    IIR_FCR = 2
    """Interrupt identification when read, FIFO control when written."""
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


class Ier(enum.IntFlag):
    """Interrupt enable (8.7)."""

    RECEIVED = 1 << 0
    TRANSMITTER_EMPTY = 1 << 1
    LINE_STATUS = 1 << 2
    MODEM_STATUS = 1 << 3


class Iir(enum.IntEnum):
    """Interrupt identification (8.6, table IV), without the FIFO bits; lower rows win."""

    MODEM_STATUS = 0x00
    NONE = 0x01
    TRANSMITTER_EMPTY = 0x02
    RECEIVED = 0x04
    LINE_STATUS = 0x06
    TIMEOUT = 0x0C


IIR_FIFOS_ENABLED: Final = 0xC0
"""Both set while the FIFOs are enabled: how a driver tells a 16550A."""


class Fcr(enum.IntFlag):
    """FIFO control (8.5)."""

    ENABLE = 1 << 0
    RESET_RECEIVER = 1 << 1
    RESET_TRANSMITTER = 1 << 2


TRIGGER_LEVELS: Final = (1, 4, 8, 14)
"""Bytes in the receive FIFO at which it interrupts, by FCR bits 6 and 7."""


class Lcr(enum.IntFlag):
    """Line control (8.2). The frame's format has no meaning for us."""

    DLAB = 1 << 7


class Mcr(enum.IntFlag):
    """Modem control (8.8)."""

    DTR = 1 << 0
    RTS = 1 << 1
    OUT1 = 1 << 2
    OUT2 = 1 << 3
    LOOP = 1 << 4


MCR_MASK: Final = 0x1F
"""Bits 5 to 7 are permanently 0."""


class Lsr(enum.IntFlag):
    """Line status (8.4)."""

    DATA_READY = 1 << 0
    OVERRUN = 1 << 1
    THR_EMPTY = 1 << 5
    TRANSMITTER_EMPTY = 1 << 6


class Msr(enum.IntFlag):
    """Modem status (8.9): lines in the high half, their changes since the last read in the low."""

    DELTA_CTS = 1 << 0
    DELTA_DSR = 1 << 1
    TRAILING_RI = 1 << 2
    DELTA_DCD = 1 << 3
    CTS = 1 << 4
    DSR = 1 << 5
    RI = 1 << 6
    DCD = 1 << 7


FIFO_SIZE: Final = 16
"""Bytes in the receive FIFO."""

DIVISOR_AT_RESET: Final = 12
"""9600 baud; the datasheet leaves it undefined, QEMU and firmware start with this."""
