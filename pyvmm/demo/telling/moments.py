# SPDX-License-Identifier: MIT
"""Moments: outcomes as they are kept, with what was predicted and what came true."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.demo.telling.acts import Act
from pyvmm.demo.telling.chapter import Choice, Question, Step
from pyvmm.demo.telling.outcomes import Observed, Outcome, Staged
from pyvmm.demo.telling.predictions import question_of


@dataclass(frozen=True, slots=True)
class Moment:
    """An outcome as it is kept: of which step or attempt, with the prediction and what came true.

    `before` is the stage's state when the act was asked for.
    """

    step: Step
    act: Act
    staged: Staged
    predicted: str | None
    came_true: str | None
    before: Observed
    outcome: Outcome

    @property
    def was_tried(self) -> bool:
        """True for an act of the reader's own choice."""
        return self.act is not self.step.act

    @property
    def question(self) -> Question | None:
        """The question that was asked before: the step's, or that of what was tried."""
        return question_of(self.act) if self.was_tried else self.step.question

    @property
    def true_choice(self) -> Choice | None:
        """The answer that came true; None where none did, or nothing was asked."""
        return self._choice(self.came_true)

    @property
    def predicted_choice(self) -> Choice | None:
        """The answer that was predicted; None for none."""
        return self._choice(self.predicted)

    def _choice(self, key: str | None) -> Choice | None:
        choices = () if self.question is None else self.question.choices
        return next((one for one in choices if one.key == key), None)
