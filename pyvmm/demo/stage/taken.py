# SPDX-License-Identifier: MIT
"""A recorder of a stage's calls and exits, which are taken an act at a time."""

from __future__ import annotations

from pyvmm.demo.stage.exit_words import exit_words
from pyvmm.hosts.call_record import SystemCall
from pyvmm.hosts.exits import Exit


class Taken:
    """A recorder that keeps everything until it is taken."""

    def __init__(self) -> None:
        self._calls: list[SystemCall] = []
        self._exits: list[str] = []

    def call(self, made: SystemCall) -> None:
        """Keep a call."""
        self._calls.append(made)

    def exit(self, vcpu: int, exit_: Exit) -> None:
        """Keep an exit, in words."""
        self._exits.append(exit_words(vcpu, exit_))

    def take(self) -> tuple[tuple[SystemCall, ...], tuple[str, ...]]:
        """All that was told since the last call of this."""
        calls, exits = tuple(self._calls), tuple(self._exits)
        self._calls.clear()
        self._exits.clear()
        return calls, exits
