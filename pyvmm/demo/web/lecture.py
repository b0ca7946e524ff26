# SPDX-License-Identifier: MIT
"""A lecture: the teacher's step is everybody's, and everybody may predict. Pure."""

from __future__ import annotations

from collections import Counter
from html import escape

from pyvmm.demo.telling.player import Phase, View

WAITING = "Wait for the teacher, who is not there yet."


class Lecture:
    """Predictions of those who follow, for the step that is asked about now."""

    def __init__(self) -> None:
        self._at = ""
        self._predicted: dict[str, str] = {}

    def predict(self, who: str, key: str, view: View | None) -> str:
        """Take a follower's prediction; gives a reason why not, or ""."""
        if view is None:
            return WAITING
        self.look(view)
        question = view.step.question
        if view.phase is not Phase.ASKING or question is None:
            return "there is nothing to be predicted now"
        if all(one.key != key for one in question.choices):
            return "there is no such answer"
        self._predicted[who] = key
        return ""

    def forget(self, who: str) -> None:
        """Count a follower who has left no more."""
        self._predicted.pop(who, None)

    def look(self, view: View) -> None:
        """Forget predictions of another step than the view's."""
        if view.link != self._at:
            self._at = view.link
            self._predicted.clear()

    def tally(self, view: View, followers: int) -> str:
        """HTML for the teacher: how many predicted what."""
        self.look(view)
        question = view.step.question
        said = f"{followers} following" if followers else "nobody follows yet"
        if question is None:
            return f"<p>{said}</p>"
        counted = Counter(self._predicted.values())
        lines = "".join(
            f"<li><b>{counted[one.key]}</b> {escape(one.words)}</li>" for one in question.choices
        )
        return f"<p>{said}; {counted.total()} predicted:</p><ol>{lines}</ol>"

    def own(self, who: str, view: View) -> str:
        """HTML for a follower: the own prediction, and what came true."""
        self.look(view)
        question = view.step.question
        if question is None or who not in self._predicted:
            return ""
        words = {one.key: one.words for one in question.choices}
        said = f"You predicted: {words[self._predicted[who]]}."
        moment = view.moment
        if moment is not None and moment.step is view.step and moment.came_true in words:
            said += f" It was: {words[moment.came_true]}."
        return f"<p>{escape(said)}</p>"
