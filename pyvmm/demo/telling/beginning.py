# SPDX-License-Identifier: MIT
"""The beginning of a telling: which book, where in it, on what host."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.demo.telling.chapter import Book
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import Player


@dataclass(frozen=True, slots=True)
class Telling:
    """The book that is told, the place it begins at, and the host wished; None: the best."""

    book: Book
    chapter: str
    step: str = ""
    wish: StageHost | None = None

    def player(self) -> Player:
        """A reader at the beginning."""
        return Player(self.book, self.chapter, self.step)
