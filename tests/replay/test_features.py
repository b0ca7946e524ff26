# SPDX-License-Identifier: MIT
"""Errors on pages, bindings without memory, private memory: what takes a kernel built for it."""

from __future__ import annotations

import pytest

from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.universe import FAILURES, SMALL, TYPES, Feature, Universe
from pyvmm.replay.executor import Replayer
from pyvmm.replay.host import kinds_of
from pyvmm.replay.memory_kind import MAPPABLE, PRIVATE
from pyvmm.replay.plan import Comparison
from pyvmm.rules.lifecycle import Effect, Event
from tests.replay.conftest import missing

pytestmark = pytest.mark.kvm

ONE_PAGE = Universe("an error", 1, 1, 1, pages=1, processes=1, handles=1, errors=True)
"""Smaller than the explorer's own: Python is slow in the lab."""
SEQUENCES = 40
VM, FILE, BIND = Operation(Kind.CREATE_VM), Operation(Kind.CREATE_FILE), Operation(Kind.BIND)
READ, WRITE = Operation(Kind.GUEST_READ), Operation(Kind.GUEST_WRITE)
ERROR, PUNCH = Operation(Kind.PAGE_ERROR), Operation(Kind.PUNCH)
MAP, UNMAP = Operation(Kind.MAP), Operation(Kind.UNMAP)
HOST_READ = Operation(Kind.HOST_READ)


def require(comparison: Comparison, feature: Feature) -> None:
    if feature in comparison.means.why_not:
        missing(comparison.means.why_not[feature])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("universe", "feature", "kind", "most"),
    [
        (ONE_PAGE, Feature.ERRORS, Kind.PAGE_ERROR, None),
        (FAILURES, Feature.FAILURES, Kind.BIND_FAILS, SEQUENCES),
        (TYPES, Feature.TYPES, Kind.CREATE_FILE, SEQUENCES),
    ],
    ids=lambda value: value.value if isinstance(value, Feature) else "",
)
def test_sequences(
    system: System, universe: Universe, feature: Feature, kind: Kind, most: int | None
) -> None:
    with Comparison(system, lambda *_: None) as comparison:
        require(comparison, feature)
        result = comparison.cover(universe, most)
    assert not result.differences, "\n".join(result.differences[0].lines())
    assert result.tally.kinds[kind.name.lower()] > 3  # The kernel whose files are not mapped has 4.
    assert result.cut == (most is not None)


@pytest.mark.slow
def test_private_memory_where_there_is_mappable_too(system: System) -> None:
    if kinds_of(system) != (MAPPABLE, PRIVATE):
        pytest.skip("this KVM has memory of one kind only")
    with Comparison(system, lambda *_: None, PRIVATE) as comparison:
        result = comparison.cover(SMALL, SEQUENCES)
    assert not result.differences, "\n".join(result.differences[0].lines())
    assert result.name == "small, private"
    assert result.tally.kinds["guest_read"] > 20


def test_an_error_is_told_until_the_page_is_punched(system: System, linux: Design) -> None:
    with Comparison(system, lambda *_: None) as comparison:
        require(comparison, Feature.ERRORS)
        with Replayer(system, linux, ONE_PAGE, None, comparison.means) as replayer:
            told = (VM, FILE, MAP, BIND, WRITE, ERROR, READ, HOST_READ, PUNCH, READ, HOST_READ)
            assert replayer.replay(told) is None
            # The mapping of before keeps the error; a new one does not have it. Asked for twice
            # by comparing contents, after punching and after the guest's read.
            assert replayer.tally.errors_mapped == 3
            assert replayer.replay((*told, UNMAP, MAP, HOST_READ)) is None
        forgets = linux.without(Event.PAGE_ERROR, Effect.ZAP_PAGES)
        with Replayer(system, forgets, ONE_PAGE, None, comparison.means) as replayer:
            difference = replayer.replay((VM, FILE, BIND, WRITE, ERROR, READ))
    assert difference is not None
    assert (difference.step, difference.expected, difference.seen) == (6, "vm0's page", "EHWPOISON")
