# SPDX-License-Identifier: MIT
"""A serial port with its outside recorded."""

from __future__ import annotations

from pyvmm.devices.uart import Uart16550

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7
DLAB = 0x80
LOOP = 0x10
RDI, THRI, RLSI, MSI = 1, 2, 4, 8


class WiredPort:
    """What was sent, each change of the interrupt line, the room at each call of `on_room`."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.irqs: list[bool] = []
        self.rooms: list[int] = []
        self.uart = Uart16550(self.sent.extend, self.irqs.append)
        self.uart.on_room = lambda: self.rooms.append(self.uart.room)

    def read(self, register: int) -> int:
        return self.uart.read(register, 1)

    def write(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)
