# SPDX-License-Identifier: MIT
"""Random walks that meet each state beside the one that stands for it."""

from __future__ import annotations

import random

from pyvmm.lifetime.canonical import Canonical
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import Universe

SEED = 15


def assert_states_called_one_behave_as_one(design: Design, universe: Universe, steps: int) -> None:
    """Walk so many steps: a state and its canonical one lead to the same canonical states."""
    system = TransitionSystem(design, universe)
    canonical = Canonical(system.layout)
    choose = random.Random(SEED)
    state = system.initial
    for _ in range(steps):
        one = canonical.of(state)
        assert canonical.of(one) == one
        found = system.steps(state)
        ours, theirs = (
            {canonical.of(step.state) for _, step in each} for each in (found, system.steps(one))
        )
        assert ours == theirs
        state = choose.choice(found)[1].state
