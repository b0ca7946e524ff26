# SPDX-License-Identifier: MIT
"""The host's end of the page that a guest shares to be told what to do (guest/include/mailbox.h).

Requests are posted and looked at; who waits for an answer is the caller's affair, because the guest
may end instead.
"""

from __future__ import annotations

import enum
import re
import struct
from typing import Protocol

from pyvmm.errors import InternalError

MAGIC = 0x314C_4941_4D56_5950
"""The bytes ``PYVMAIL1``, at offset 0 when the page is ready."""
PATTERN = 0x9E37_79B9_7F4A_7C15
"""Factor of what `Mail.FILL` writes."""
INVALID = -22
"""Result of what cannot be."""
HOST_ASKS = 64
"""Offset of the channel on which the host asks."""
GUEST_ASKS = 128
REQUEST, ANSWER, COMMAND, RESULT, ARGUMENTS = 0, 8, 16, 24, 32
"""Offsets in a channel, in bytes."""
ARGUMENTS_MAX = 4
WHERE = re.compile(rb"mailbox at 0x([0-9a-f]+)\n")
"""Line that the guest prints when the page is ready."""
_MASK = (1 << 64) - 1
_ATTEMPT = "talk to the guest"


class Mail(enum.IntEnum):
    """Commands: those below 32 are the host's, the others the guest's."""

    END = 0
    ADD = 1
    READ = 2
    """GPA: the complement of the u64 there."""
    WRITE = 3
    SHARE = 4
    UNSHARE = 5
    FILL = 6
    """GPA, size, seed: every u64 gets `pattern_at`."""
    CHECK = 7
    CHECK_ZERO = 8
    CONVERT = 9
    """GPA, pages, attributes: the result of KVM_HC_MAP_GPA_RANGE."""
    TAKE = 10
    PUNCH = 32
    LOOK = 33


class Memory(Protocol):
    """A guest's shared memory."""

    def read(self, gpa: int, size: int) -> bytes | None:
        """`size` bytes; None unless all are shared."""
        ...

    def write(self, gpa: int, data: bytes) -> bool:
        """Write; False unless all is shared."""
        ...


def pattern_at(gpa: int, seed: int) -> int:
    """The u64 that `Mail.FILL` writes at `gpa`."""
    return (gpa ^ seed) * PATTERN & _MASK


class Mailbox:
    """Requests to the guest, and answers to the guest's. Results are signed.

    Methods raise `InternalError` where the page is not shared.
    """

    def __init__(self, memory: Memory, gpa: int) -> None:
        self._memory = memory
        self.gpa = gpa
        if self._get(0) != MAGIC:
            raise InternalError(_ATTEMPT, f"there is no mailbox at gpa {gpa:#x}")

    def _get(self, offset: int) -> int:
        data = self._memory.read(self.gpa + offset, 8)
        if data is None:
            raise InternalError(_ATTEMPT, "its mailbox is not shared")
        return int.from_bytes(data, "little")

    def _put(self, offset: int, value: int) -> None:
        if not self._memory.write(self.gpa + offset, struct.pack("<Q", value & _MASK)):
            raise InternalError(_ATTEMPT, "its mailbox is not shared")

    def _is_open(self, channel: int) -> bool:
        return self._get(channel + REQUEST) != self._get(channel + ANSWER)

    def post(self, command: Mail, *arguments: int) -> None:
        """Ask the guest for something. Raises `InternalError` while a request is open."""
        if not self.is_answered:
            raise InternalError(_ATTEMPT, "it has not answered what it was asked before")
        self._put(HOST_ASKS + COMMAND, command)
        for number, argument in enumerate(arguments):
            self._put(HOST_ASKS + ARGUMENTS + 8 * number, argument)
        self._put(HOST_ASKS + REQUEST, self._get(HOST_ASKS + REQUEST) + 1)

    @property
    def is_answered(self) -> bool:
        """True unless the guest has yet to answer."""
        return not self._is_open(HOST_ASKS)

    @property
    def result(self) -> int:
        """Result of what was asked last; not of any use while it is not answered."""
        result = self._get(HOST_ASKS + RESULT)
        return result - (1 << 64) if result >> 63 else result

    def guest_asks(self) -> tuple[Mail, int, int] | None:
        """The guest's open request: what for, and two arguments; None: there is none."""
        if not self._is_open(GUEST_ASKS):
            return None
        arguments = GUEST_ASKS + ARGUMENTS
        command = Mail(self._get(GUEST_ASKS + COMMAND))
        return command, self._get(arguments), self._get(arguments + 8)

    def answer(self, result: int) -> None:
        """Tell the guest what became of what it asked for."""
        self._put(GUEST_ASKS + RESULT, result)
        self._put(GUEST_ASKS + ANSWER, self._get(GUEST_ASKS + REQUEST))
