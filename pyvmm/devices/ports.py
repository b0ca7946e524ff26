# SPDX-License-Identifier: MIT
"""Every I/O port and interrupt line that a machine of ours has, with the reason for its number.

Numbers that guests know by heart (a PC's) keep their PC meaning; the others are QEMU's, so that one
guest image runs under both. ``guest/include/protocol.h`` repeats those that our own guests use, and
a test compares both sides.

Ports are numbers in the 64 KiB port space; lengths are in ports (bytes); IRQs are ISA interrupt
lines, which are also the GSIs of the in-kernel controllers.
"""

from __future__ import annotations

from typing import Final

PORT_SPACE_SIZE: Final = 0x1_0000
"""The x86 port space: 16-bit addresses (SDM volume 1, 19.3)."""

PIC: Final = 0x20
"""8259A interrupt controller; the host's, where there are interrupt controllers."""

SECOND_PIC: Final = 0xA0
ELCR: Final = 0x4D0
"""Trigger registers of the two, edge or level."""

PIC_LENGTH: Final = 2
"""Of each of these three."""

CASCADE_IRQ: Final = 2
"""Input of the first controller that the second one is connected to."""

PIT_IRQ: Final = 0
"""Interrupt line of the timer's first counter."""

PIT: Final = 0x40
"""8254 interval timer; ours only where the host has none, that is without interrupt controllers."""

PIT_LENGTH: Final = 4

KEYBOARD_DATA: Final = 0x60
"""Keyboard controller, data."""

PORT_B: Final = 0x61
"""The timer's third counter: speaker and gate. Ours where `PIT` is."""

KEYBOARD_COMMAND: Final = 0x64
"""Keyboard controller, command and status: Linux's first way to reset a PC (0xfe)."""

CMOS_INDEX: Final = 0x70
"""CMOS and real-time clock: which of the 128 bytes; bit 7 masks NMIs."""

CMOS_DATA: Final = 0x71
"""CMOS and real-time clock: the byte itself."""

CMOS_LENGTH: Final = 2
"""`CMOS_INDEX` and `CMOS_DATA` together."""

CMOS_SIZE: Final = 128
"""Bytes of CMOS memory, the clock's included."""

CMOS_IRQ: Final = 8
"""Interrupt line of the real-time clock."""

FAST_RESET: Final = 0x92
"""PS/2 system control port A: fast A20 gate and fast reset."""

DEBUG_CONSOLE: Final = 0xE9
"""Bochs' and QEMU's debug console: a byte written is a byte shown."""

TEST_BANK: Final = 0xE0
"""pc-testdev's four bytes, in accesses of up to 4 bytes."""

TEST_FLUSH: Final = 0xE4
"""I/O port by which pc-testdev is told a page to flush."""

TEST_BYTE_BANK: Final = 0xE8
"""pc-testdev's four bytes again, byte by byte. Its second port is `DEBUG_CONSOLE`, which stays that
unless pc-testdev is asked for."""

TEST_LENGTH: Final = 4
"""Of each of these three."""

TEST_LINE_COUNT: Final = 24
TEST_WINDOW_SIZE: Final = 0x1_0000
"""Bytes of pc-testdev's memory that is no RAM."""

TEST_LINES: Final = 0x2000
"""pc-testdev's interrupt lines, a port each."""

EXIT: Final = 0xF4
"""I/O port by which a guest ends its run with a status; the usual one of ``isa-debug-exit``."""

EXIT_LENGTH: Final = 4
"""So that one 32-bit write is one write (``isa-debug-exit,iosize=4``)."""

EXIT_WIDTH: Final = 4
"""Widest access of the exit port, in bytes."""

DEBUG_EXIT: Final = 0x501
"""QEMU's default I/O port of ``isa-debug-exit``."""

DEBUG_EXIT_LENGTH: Final = 2

COM1: Final = 0x3F8
"""First serial port: the console."""

COM1_LENGTH: Final = 8
"""Registers of a 16550."""

COM1_IRQ: Final = 4
"""Interrupt line of the first serial port."""

PVPANIC: Final = 0x505
"""I/O port of QEMU's pvpanic ISA device (docs/specs/pvpanic)."""

FW_CFG: Final = 0x510
"""QEMU's firmware configuration: selector and data (docs/specs/fw_cfg)."""

FW_CFG_LENGTH: Final = 2
FW_CFG_WIDTH: Final = 2
"""Widest access, in bytes: a key is written in one piece."""

FW_CFG_DMA: Final = 0x514
"""Its DMA address register, 64 bits, big endian."""

FW_CFG_DMA_LENGTH: Final = 8
FW_CFG_DMA_WIDTH: Final = 4
"""Widest access, in bytes; no processor has wider ports."""

POST: Final = 0x80
"""POST codes; Linux writes here to let time pass."""

PM_EVENTS: Final = 0x600
"""ACPI PM1a event block, where SeaBIOS puts it on QEMU's pc; control and timer are behind it."""

PM_EVENTS_LENGTH: Final = 4
PM_CONTROL: Final = 0x604
"""ACPI PM1a control block."""

PM_CONTROL_LENGTH: Final = 2
PM_WIDTH: Final = 4
"""Widest access of these two, in bytes: Linux reads a register of 16 bits in one piece."""

SCI: Final = 9
"""Interrupt line of ACPI's events, as on a PC."""

PM_TIMER: Final = 0x608
"""ACPI PM timer, where SeaBIOS puts it on QEMU's pc."""

PM_TIMER_LENGTH: Final = 4

LAUNCH: Final = 0x5F0
"""I/O port by which the firmware says that a launch is complete; nobody else uses the number."""

PCI_ADDRESS: Final = 0xCF8
"""PCI configuration address, a 32-bit port."""

PCI_DATA: Final = 0xCFC
"""PCI configuration data: the double word that the address selects."""

PCI_LENGTH: Final = 4
"""Of each of these two."""

PCI_WIDTH: Final = 4
"""Widest access, in bytes: a 32-bit write must not be split, or its second byte would be taken for
a write to `RESET_CONTROL`."""

RESET_CONTROL: Final = 0xCF9
"""Reset control register of Intel's south bridges since the PIIX3: single-byte accesses only."""

PCI_IO: Final = 0xC000
"""First port of the window for I/O BARs, as on QEMU's pc; it ends where the ports do."""

PCI_IRQS: Final = (10, 11)
"""Interrupt lines of PCI devices, slots taking turns: two that no device of a PC has."""
