# SPDX-License-Identifier: MIT
"""Targets of fuzzing take their own seeds, and what is near them: so they are not out of date."""

from __future__ import annotations

import random

import pytest

from .target import names, target_of


def test_there_are_targets() -> None:
    assert "loader" in names()


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_a_target_takes_its_seeds_and_what_is_near_them(name: str) -> None:
    target = target_of(name)
    generator = random.Random(17)
    assert target.seeds
    for seed in target.seeds:
        assert len(seed) <= target.most
        target.one(seed)
        if seed:
            near = bytearray(seed)
            near[generator.randrange(len(near))] ^= 1 << generator.randrange(8)
            target.one(bytes(near))
            target.one(seed[: generator.randrange(len(seed))])
    target.one(b"")
