# SPDX-License-Identifier: MIT
"""The keys by which a console's user speaks to the monitor instead of the guest.

As on QEMU's multiplexed console (qemu(1), "Keys in the character backend multiplexer"): Ctrl-A and
one more key. ``Ctrl-A a``, for the literal Ctrl-A, is screen's; QEMU has only ``Ctrl-A Ctrl-A``.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias

ESCAPE: Final = 0x01
"""Ctrl-A."""


class KeyAction(enum.Enum):
    """Action that the user asks for by keys."""

    QUIT = "quit"
    TOGGLE_MONITOR = "toggle monitor"
    HELP = "help"


_ACTIONS: Final = {
    ord("x"): KeyAction.QUIT,
    ord("c"): KeyAction.TOGGLE_MONITOR,
    ord("h"): KeyAction.HELP,
    ord("?"): KeyAction.HELP,
}
_LITERAL: Final = frozenset({ESCAPE, ord("a")})

HELP_TEXT: Final = (
    "Ctrl-A h       this help\n"
    "Ctrl-A x       end the run\n"
    "Ctrl-A c       switch between the console and the monitor\n"
    "Ctrl-A Ctrl-A  send Ctrl-A to the guest (Ctrl-A a does too)\n"
)
"""Text shown for `KeyAction.HELP`, with plain newlines."""

ConsoleInput: TypeAlias = bytes | KeyAction


class EscapeKeys:
    """Tells a console's input apart, however the bytes come in: for the guest or for us.

    Keys after Ctrl-A that mean nothing are dropped together with it.
    """

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> list[ConsoleInput]:
        """Input in order: bytes (never empty) as they are meant for the guest, and actions.

        A Ctrl-A at the end of `data` waits for the next call.
        """
        found: list[ConsoleInput] = []
        plain = bytearray()
        for key in data:
            if not self._escaped:
                if key == ESCAPE:
                    self._escaped = True
                else:
                    plain.append(key)
                continue
            self._escaped = False
            if key in _LITERAL:
                plain.append(ESCAPE)
            elif key in _ACTIONS:
                if plain:
                    found.append(bytes(plain))
                    plain.clear()
                found.append(_ACTIONS[key])
        if plain:
            found.append(bytes(plain))
        return found
