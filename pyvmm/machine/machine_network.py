# SPDX-License-Identifier: MIT
"""Network cards of a machine's guest, as the machine's owner has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.errors import UsageError

if TYPE_CHECKING:
    from pyvmm.machine.network.cards import CardState, FilterState, MachineCards


class MachineNetwork:
    """Network cards of a guest, and their links."""

    def __init__(self, cards: MachineCards | None = None) -> None:
        self._cards = cards

    @property
    def cards(self) -> tuple[CardState, ...]:
        """State of each card now, in their order. Any thread."""
        return () if self._cards is None else self._cards.states()

    def find(self, card: str) -> CardState | None:
        """Find the state of the card of this name now; None: there is none. Any thread."""
        return None if self._cards is None else self._cards.find(card)

    def set_link(self, card: str, *, up: bool) -> None:
        """Have the guest told that the card of this name has a link, or none.

        No frame goes either way without one. Raises `UsageError` where there is no such card, and
        for a link of a card whose network has ended.
        """
        attempt = f"set the link of {card} {'up' if up else 'down'}"
        if self._cards is None:
            raise UsageError(attempt, "the machine has no network card", "give it one with --net")
        self._cards.set_link(card, attempt, up=up)

    def receive_filter(self, card: str) -> FilterState | None:
        """Find which frames the guest wants to get by the card of this name; None: there is none.

        The next change is told then (`ReceiveFilterChanged`), and no other until this is called
        again. Any thread.
        """
        return None if self._cards is None else self._cards.receive_filter(card)
