# SPDX-License-Identifier: MIT
"""Visitors: each has a place in the book, parts of a page that are told to their tabs, a machine.

In a lecture the teacher alone has a machine. The others follow the teacher's page, and predict.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from pyvmm.demo.house.houses import Houses
from pyvmm.demo.page.words import said
from pyvmm.demo.playing import playing_in
from pyvmm.demo.telling.player import Jump, Move, Phase, Plain, Player, View
from pyvmm.demo.web.messages import Story
from pyvmm.errors import PyvmmError

GRACE = 10.0
"""Seconds that a machine outlives its reader's last tab: enough for a reload."""
MOST_TABS = 7
"""Tabs of one visitor at once: those of all visitors leave connections for requests."""
_BUSY = "wait until it is done"
_LOST = "you have no machine any more: restart the chapter for another"


class Visitor:
    """Somebody who was let in, with any number of tabs. Used by trio's thread alone."""

    def __init__(self, houses: Houses, make: Callable[[], Player]) -> None:
        self.story = Story()
        self._houses, self._make = houses, make
        self._tabs = 0
        self._tabs_changed = trio.Event()
        self._told = trio.Event()
        self._moves_in, self._moves = trio.open_memory_channel[Move](1)
        self._why_not = "you have no machine: the lecture's moves for all"
        """Reason why no move can be made now, or ""."""
        self._is_lost = False
        """True while there is no machine, and a restart would bring another."""
        self._nursery: trio.Nursery | None = None
        self.left = trio.Event()
        """Set once the visitor is gone, and has no machine any more."""
        self.is_leaving = False
        """True once the machine is given up, which may take a moment."""
        self._scope = trio.CancelScope()
        self.view: View | None = None
        """The machine's; None without one."""
        self.on_view: Callable[[], None] = lambda: None
        """Called after each change of `view`."""

    # -- what tabs do --

    @property
    def has_room(self) -> bool:
        """True if one more tab may be opened."""
        return self._tabs < MOST_TABS

    @asynccontextmanager
    async def tab(self) -> AsyncIterator[None]:
        """One more tab within the block."""
        self._count(+1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._tabs += change
        self._tabs_changed.set()
        self._tabs_changed = trio.Event()

    async def beyond(self, number: int) -> str:
        """The next message for a tab that has seen `number`, once there is one."""
        while number == self.story.number:
            await self._told.wait()
        return self.story.since(number)

    def tell(self, parts: Mapping[str, str]) -> None:
        """Make these the parts of the visitor's page."""
        if self.story.tell(parts):
            self._told.set()
            self._told = trio.Event()

    def ask(self, move: Move) -> str:
        """Have a move made; gives a reason why not, or ""."""
        if self._why_not:
            return self._why_not
        if self._is_lost and move is not Plain.RESTART and not isinstance(move, Jump):
            return _LOST
        self._why_not, self._is_lost = _BUSY, False
        self._moves_in.send_nowait(move)
        return ""

    def leave(self) -> None:
        """Free the machine, and end the tabs' connections."""
        self.is_leaving = True
        self._scope.cancel()

    # -- the visitor's own tasks --

    async def live(self, begin: Callable[[], None]) -> None:
        """Be there until `GRACE` after the last tab; with a machine from `start_playing` on.

        `begin` is called once that can be.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    begin()
                    await self._all_tabs_closed()
                    self.is_leaving = True
                    self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self.view = None
            self.left.set()

    def start_playing(self, parts: Callable[[View], dict[str, str]]) -> None:
        """Get a machine; the parts of each view of it become those of the page."""
        assert self._nursery is not None
        self._why_not = _BUSY
        self._nursery.start_soon(self._play, parts)

    async def _all_tabs_closed(self) -> None:
        while True:
            changed = self._tabs_changed
            if self._tabs:
                await changed.wait()
                continue
            with trio.move_on_after(GRACE) as grace:
                await changed.wait()
            if grace.cancelled_caught:
                return

    async def _play(self, parts: Callable[[View], dict[str, str]]) -> None:
        """Play with one machine after the other: where one has failed, a restart brings another."""
        player = self._make()
        move: Move | None = None
        while True:
            try:
                await self._play_on(player, move, parts)
            except Exception as error:  # noqa: BLE001 - told to its reader: others are unharmed
                self._lose(player, error)
            move = await self._moves.receive()
            self.tell({**self.story.parts, "mine": "", "@phase": Phase.OPENING.value})

    async def _play_on(
        self, player: Player, move: Move | None, parts: Callable[[View], dict[str, str]]
    ) -> None:
        """Play with a new machine from a move on, or None: from the beginning."""

        def show() -> None:
            self.view = player.view
            self.tell(parts(self.view))
            self.on_view()

        async with playing_in(self._houses, player) as reader:
            if move is None:
                show()
                await reader.begin()
            else:
                await reader.move(move)
            while True:
                self._why_not = ""
                show()
                move = await self._moves.receive()
                self.tell({**self.story.parts, "@phase": Phase.DOING.value})
                await reader.move(move)

    def _lose(self, player: Player, error: Exception) -> None:
        """Tell that there is no machine any more; the next one comes with a restart or a jump."""
        # Stages may fail together with the nursery that they are held in.
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        why = str(error)
        if not isinstance(error, PyvmmError):
            why = f"{type(error).__name__}: {error}; this is a defect of pyvmm"
        player.lose(why)
        self._why_not, self._is_lost = "", True
        says = f"<p>There is no machine for you: {said(why)}</p>"
        self.tell({**self.story.parts, "mine": says, "@phase": Phase.LOST.value})
