# SPDX-License-Identifier: MIT
"""Exits in words."""

from __future__ import annotations

import errno
import typing

import pytest

from pyvmm.demo.stage.exit_words import exit_words
from pyvmm.demo.telling.chapter import Exited, is_true
from pyvmm.demo.telling.outcomes import Observed, Outcome
from pyvmm.hosts import exits


@pytest.mark.parametrize(
    ("exit_", "words"),
    [
        (exits.Hlt(), "Hlt()"),
        (
            exits.Hypercall(12, (0x80_0000, 3, 16, 0, 0, 0), True),
            "Hypercall(KVM_HC_MAP_GPA_RANGE, gpa=0x800000, pages=3, private)",
        ),
        (
            exits.Hypercall(12, (0, 1, 0, 0, 0, 0), True),
            "Hypercall(KVM_HC_MAP_GPA_RANGE, gpa=0x0, pages=1, shared)",
        ),
        (
            exits.Hypercall(5, (1, 2, 0, 0, 0, 0x10), False),
            "Hypercall(number=5, args=(1, 2, 0, 0, 0, 0x10), long_mode=False)",
        ),
        (
            exits.MemoryFault(0xC000_0000, 4096, exits.MemoryFaultFlag.PRIVATE, errno.EFAULT),
            "MemoryFault(gpa=0xc0000000, size=4096, private, EFAULT)",
        ),
        (
            exits.MemoryFault(0x1000, 4096, exits.MemoryFaultFlag(0), 99_999),
            "MemoryFault(gpa=0x1000, size=4096, shared, errno 99999)",
        ),
        (exits.IoOut(0x5F0, 1, 1, b"\xab"), "IoOut(port=0x5f0, size=1, count=1, data=ab)"),
        (
            exits.IoOut(0x3F8, 1, 20, bytes(20)),
            "IoOut(port=0x3f8, size=1, count=0x14, data=" + "00 " * 15 + "00..)",
        ),
    ],
)
def test_words(exit_: exits.Exit, words: str) -> None:
    assert exit_words(3, exit_) == f"vCPU 3: {words}"


def test_a_fact_knows_each_kind_by_its_words() -> None:
    kinds = typing.get_args(exits.Exit)
    made: list[exits.Exit] = [
        exits.Hlt(),
        exits.Shutdown(),
        exits.Interrupted(),
        exits.IoIn(1, 1, 1),
    ]
    for one in made:
        outcome = Outcome((), (exit_words(0, one),), 0, None, None, Observed(), 0.0)
        true_of = {kind for kind in kinds if is_true(Exited(kind.__name__), outcome, Observed())}
        assert true_of == {type(one)}
