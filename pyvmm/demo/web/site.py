# SPDX-License-Identifier: MIT
"""The page and its visitors: what each sees, and what becomes of what they ask."""

from __future__ import annotations

import trio

from pyvmm.demo.house.houses import Houses
from pyvmm.demo.telling.beginning import Telling
from pyvmm.demo.telling.player import Phase, Predict, View
from pyvmm.demo.web.admission import Admission, Role
from pyvmm.demo.web.lecture import WAITING, Lecture
from pyvmm.demo.web.messages import Asked, Consider, LeaveLecture, LeaveMachine
from pyvmm.demo.web.parts import parts_of
from pyvmm.demo.web.visitors import Visitor

MOST_READERS = 32
"""Readers at a time, followers of a lecture included; its teacher comes on top."""
FULL = f"All {MOST_READERS} places are taken. Try again when somebody has closed the page."
_NOT_YOURS = "the teacher's step is everybody's: leave the lecture for a machine of your own"


class Site:
    """All visitors of one server. `nursery` is where they live; `first` a view for strangers."""

    def __init__(
        self,
        telling: Telling,
        houses: Houses,
        admission: Admission,
        first: View,
        nursery: trio.Nursery,
        *,
        is_lecture: bool,
    ) -> None:
        self.telling, self.admission, self.first = telling, admission, first
        self._houses = houses
        self._nursery = nursery
        self._lecture = Lecture() if is_lecture else None
        self._visitors: dict[str, Visitor] = {}
        self.living: set[Visitor] = set()
        """These, and those whose machines are being freed."""
        self._teacher: Visitor | None = None
        self._followers: dict[str, Visitor] = {}

    @property
    def visitors(self) -> int:
        """Visitors that have a place now, a teacher included."""
        return len(self.living)

    def visitor(self, cookie: str, role: Role) -> Visitor | None:
        """The visitor with this cookie, who gets a place; None where all are taken."""
        known = self._visitors.get(cookie)
        if known is not None and not known.is_leaving:
            return known
        readers = sum(one is not self._teacher for one in self.living)
        if role is Role.READER and readers >= MOST_READERS:
            return None
        visitor = Visitor(self._houses, self.telling.player)
        self._visitors[cookie] = visitor
        self.living.add(visitor)
        self._nursery.start_soon(self._live, cookie, visitor, role)
        return visitor

    async def _live(self, cookie: str, visitor: Visitor, role: Role) -> None:
        try:
            await visitor.live(lambda: self._settle(cookie, visitor, role))
        finally:
            self.living.remove(visitor)
            if self._visitors.get(cookie) is visitor:
                del self._visitors[cookie]
            if visitor is self._teacher:
                self._teacher = None
            if self._lecture is not None:
                if self._followers.get(cookie) is visitor:
                    del self._followers[cookie]
                    self._lecture.forget(cookie)
                self._show_lecture()

    def _settle(self, cookie: str, visitor: Visitor, role: Role) -> None:
        if self._lecture is None:
            visitor.start_playing(lambda view: {**parts_of(view), "@role": "reader"})
        elif role is Role.TEACHER:
            self._teacher = visitor
            visitor.start_playing(self._teachers_parts)
            visitor.on_view = self._show_followers
        else:
            self._followers[cookie] = visitor
            self._show_lecture()

    # -- the lecture --

    def _teachers_parts(self, view: View) -> dict[str, str]:
        assert self._lecture is not None
        tally = self._lecture.tally(view, len(self._followers))
        return {**parts_of(view), "tally": tally, "@role": "teacher"}

    def _show_lecture(self) -> None:
        """Show the tally as it is now, and what the teacher shows to the others."""
        if self._teacher is not None and self._teacher.view is not None:
            self._teacher.tell({**self._teacher.story.parts, **self._tally(self._teacher.view)})
        self._show_followers()

    def _tally(self, view: View) -> dict[str, str]:
        assert self._lecture is not None
        return {"tally": self._lecture.tally(view, len(self._followers))}

    def _show_followers(self) -> None:
        assert self._lecture is not None
        view = None if self._teacher is None else self._teacher.view
        common = parts_of(self.first if view is None else view)
        for cookie, one in self._followers.items():
            own = {"mine": f"<p>{WAITING}</p>"}
            if view is not None:
                own["mine"] = self._lecture.own(cookie, view)
            phase = Phase.DOING.value if view is None else view.phase.value
            one.tell({**common, **own, "@phase": phase, "@role": "follower"})

    def _leave_lecture(self, cookie: str, visitor: Visitor) -> None:
        assert self._lecture is not None
        del self._followers[cookie]
        self._lecture.forget(cookie)
        visitor.start_playing(lambda view: {**parts_of(view), "@role": "reader"})
        self._show_lecture()

    # -- what is asked --

    def take(self, cookie: str, visitor: Visitor, asked: Asked) -> str:
        """Do what a tab asks for; gives a notice for that tab, or ""."""
        wish = asked.wish
        if visitor.is_leaving:
            # The tab is about to be closed; who comes back has another visitor's place.
            return ""
        if isinstance(wish, LeaveMachine):
            visitor.leave()
            return ""
        is_follower = self._followers.get(cookie) is visitor
        if isinstance(wish, LeaveLecture):
            if not is_follower:
                return "you follow no lecture"
            self._leave_lecture(cookie, visitor)
            return ""
        if isinstance(wish, Consider):
            return _NOT_YOURS if is_follower else ""
        if asked.seen is not None and asked.seen != visitor.story.number:
            # Somebody else's tab, or an impatient second click, was quicker.
            return ""
        if not is_follower:
            return visitor.ask(wish)
        if not isinstance(wish, Predict):
            return _NOT_YOURS
        assert self._lecture is not None
        view = None if self._teacher is None else self._teacher.view
        why_not = self._lecture.predict(cookie, wish.key, view)
        if not why_not:
            self._show_lecture()
        return why_not
