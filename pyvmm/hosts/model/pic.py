# SPDX-License-Identifier: MIT
"""One 8259A interrupt controller (Intel 8259A data sheet). Pure; no locks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.hosts.model.saved_values import SavedPic


_ICW1 = 0x10
_ICW4_NEEDED = 0x01
_SINGLE = 0x02
_OCW3 = 0x08
_AUTO_END = 0x02
SPURIOUS = 7


class Pic:
    """Lines, masks, priorities; commands at offset 0, mask and set-up words at offset 1."""

    def __init__(self, ended: Callable[[int], None] | None = None) -> None:
        """`ended` is told each line whose interrupt has ended; it may lower the line."""
        self._ended = ended
        self.base = 0
        self.level_triggered = 0
        """The ELCR: a mask of lines that are level-triggered."""
        self._mask = 0xFF
        self._requests = 0
        self._in_service = 0
        self._lines = 0
        self._lowest = 7
        self._expecting: list[int] = []
        self._auto_end = False
        self._read_in_service = False

    def save(self) -> SavedPic:
        """All its registers and the levels of its lines."""
        from pyvmm.hosts.model.saved_values import SavedPic

        return SavedPic(
            self.base,
            self.level_triggered,
            self._mask,
            self._requests,
            self._in_service,
            self._lines,
            self._lowest,
            tuple(self._expecting),
            self._auto_end,
            self._read_in_service,
        )

    def restore(self, saved: SavedPic) -> None:
        """Take what `save` gave."""
        self.base = saved.base
        self.level_triggered = saved.level_triggered
        self._mask = saved.mask
        self._requests = saved.requests
        self._in_service = saved.in_service
        self._lines = saved.lines
        self._lowest = saved.lowest
        self._expecting = list(saved.expecting)
        self._auto_end = saved.auto_end
        self._read_in_service = saved.read_in_service

    def set_line(self, line: int, level: bool) -> None:
        """An input goes up or down; a rising edge is remembered."""
        bit = 1 << line
        if level:
            if self.level_triggered & bit or not self._lines & bit:
                self._requests |= bit
            self._lines |= bit
        else:
            self._lines &= ~bit
            # An edge-triggered request that has gone is a spurious one for the data sheet; KVM,
            # as here, drops it only where the line is level-triggered.
            if self.level_triggered & bit:
                self._requests &= ~bit

    def is_busy(self, line: int) -> bool:
        """Tell whether a request of this line waits or is being served."""
        return bool((self._requests | self._in_service) >> line & 1)

    def _priority(self, bits: int) -> int | None:
        """The line of highest priority among `bits`."""
        for step in range(1, 9):
            line = self._lowest + step & 7
            if bits >> line & 1:
                return line
        return None

    def _rank(self, line: int) -> int:
        return line - self._lowest - 1 & 7

    def _waiting(self) -> int | None:
        line = self._priority(self._requests & ~self._mask)
        if line is None:
            return None
        serving = self._priority(self._in_service)
        return line if serving is None or self._rank(line) < self._rank(serving) else None

    @property
    def output(self) -> bool:
        """The INT pin."""
        return self._waiting() is not None

    def acknowledge(self) -> int:
        """The line to be served; 7 when it has gone meanwhile."""
        line = self._waiting()
        if line is None:
            return SPURIOUS
        bit = 1 << line
        if not self.level_triggered & bit:
            self._requests &= ~bit
        if not self._auto_end:
            self._in_service |= bit
        elif self._ended is not None:
            self._ended(line)
        return line

    def read(self, offset: int) -> int:
        """The mask, or what OCW3 chose."""
        if offset:
            return self._mask
        return self._in_service if self._read_in_service else self._requests

    def write(self, offset: int, value: int) -> None:
        """A command or set-up word."""
        if offset:
            self._write_data(value)
        elif value & _ICW1:
            self._requests = self._in_service = self._mask = 0
            self._lowest = 7
            self._auto_end = self._read_in_service = False
            self._expecting = [2, *([] if value & _SINGLE else [3])]
            self._expecting += [4] if value & _ICW4_NEEDED else []
        elif value & _OCW3:
            if value & 2:
                self._read_in_service = bool(value & 1)
        else:
            self._end(value)

    def _write_data(self, value: int) -> None:
        word = self._expecting.pop(0) if self._expecting else 0
        if word == 2:
            self.base = value & 0xF8
        elif word == 4:
            self._auto_end = bool(value & _AUTO_END)
        elif not word:
            self._mask = value

    def _end(self, value: int) -> None:
        """OCW2: end of interrupt, rotation."""
        command = value >> 5
        line = value & 7
        if command in (1, 5):
            served = self._priority(self._in_service)
            if served is None:
                return
            line = served
        if command in (1, 3, 5, 7):
            self._in_service &= ~(1 << line)
            if self._ended is not None:
                self._ended(line)
            # A level-triggered line that is still up asks again.
            self._requests |= self._lines & self.level_triggered & 1 << line
        if command in (5, 6, 7):
            self._lowest = line
