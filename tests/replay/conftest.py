# SPDX-License-Identifier: MIT
"""This host's KVM, and what it can be brought to do; where the lab's has to, nothing is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

import pytest

from pyvmm.errors import HostLacksError
from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.designs import Design, file_pins_vm
from pyvmm.lifetime.universe import Universe
from pyvmm.replay.failing_allocations import FailingAllocations
from pyvmm.replay.host import can_name, kinds_of, profile_of
from pyvmm.replay.liveness import Liveness, observe
from pyvmm.replay.means import Means
from pyvmm.replay.memory_kind import MemoryKind
from tests.conftest import REQUIRED


def missing(reason: str) -> NoReturn:
    """Skip, except in the lab, which has it all."""
    if "private" in REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    with System() as made:
        try:
            kinds_of(made)
        except HostLacksError as error:
            pytest.skip(str(error))
        yield made


@pytest.fixture(scope="session")
def kind(system: System) -> MemoryKind:
    """Mappable where there is such, as in every kernel but the oldest."""
    return kinds_of(system)[0]


@pytest.fixture(scope="session")
def allocations() -> Iterator[FailingAllocations]:
    try:
        made = FailingAllocations()
    except HostLacksError as error:
        missing(str(error))
    with made:
        yield made


@pytest.fixture(scope="session")
def means(kind: MemoryKind) -> Means:
    """Those of any host."""
    return Means(kind)


@pytest.fixture
def lives(system: System) -> Iterator[Liveness]:
    seen, why = observe()
    if seen is None or not can_name(system, seen):
        pytest.skip(f"VMs cannot be observed: {why}")
    with seen:
        yield seen


@pytest.fixture(scope="session")
def linux(system: System, kind: MemoryKind) -> Design:
    return replace(file_pins_vm(), profile=profile_of(system, kind))


def fitting(universe: Universe, kind: MemoryKind) -> Universe:
    """The universe, without mappings where there are none."""
    return replace(universe, host_maps=universe.host_maps and not kind.is_private)
