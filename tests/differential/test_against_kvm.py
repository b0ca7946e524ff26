# SPDX-License-Identifier: MIT
"""Random sequences of memory operations on KVM and on the model: each result must be the same.

The host's behaviours are asked of it once, then the model has the same. A difference shrinks to a
short sequence, which the failure tells as a story. ``PYVMM_DIFFERENTIAL=N`` tries N sequences of
each kind, a tenth of that with the model's processor; ``PYVMM_DIFFERENTIAL_SEED`` repeats a run;
0 tries what nobody has tried, and without it the sequences are always the same.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import MemslotFlag
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.model.system import ModelSystem

from .comparing import (
    Counted,
    MakeGuest,
    Pair,
    prefetches_beside_guest_memfd,
    story_of_a_difference,
)
from .guests import PAGE, RunningGuest, SpanGuest
from .matching import profile_of
from .operations import ARENA, GuestTouch, Operation, SetSlot
from .sequences import sequences

pytestmark = [pytest.mark.kvm, pytest.mark.slow]

AT_ONCE = 3000
"""Sequences of a kind; one costs some 5 ms."""
WITH_PROCESSOR = 10
"""A processor of the model's makes a sequence this many times as long."""
SEED = int(os.environ.get("PYVMM_DIFFERENTIAL_SEED", "4")) or random.randrange(1, 1 << 32)


def wanted() -> int:
    return int(os.environ.get("PYVMM_DIFFERENTIAL", AT_ONCE))


@pytest.fixture
def system() -> Iterator[System]:
    with System() as system:
        yield system


def offered(system: System, kind: VmType) -> VmType:
    if kind not in system.capabilities().vm_types:
        pytest.skip(f"this host has no VMs of type {kind.name}")
    return kind


GUESTS = pytest.mark.parametrize(
    ("guest", "share"), [(SpanGuest, 1), (RunningGuest, WITH_PROCESSOR)], ids=["spans", "processor"]
)
KINDS = pytest.mark.parametrize("kind", [VmType.DEFAULT, VmType.SW_PROTECTED])


def pair_of(system: System, guest: MakeGuest) -> Pair:
    return Pair(
        system,
        ModelSystem(profile_of(system)),
        system.capabilities().guest_memfd_flags,
        (RunningGuest, guest),
        prefetches=prefetches_beside_guest_memfd(system),
    )


@GUESTS
@KINDS
def test_the_model_answers_as_kvm_does(
    system: System, kind: VmType, guest: MakeGuest, share: int
) -> None:
    profile = profile_of(system)
    pair = pair_of(system, guest)
    count = max(1, wanted() // share)
    tried = sequences(profile, private=offered(system, kind) is not VmType.DEFAULT)
    story = story_of_a_difference(pair, tried, kind, count, SEED)
    assert story is None, f"\n{story}\nPYVMM_DIFFERENTIAL_SEED={SEED} repeats it"
    print(pair.counted)
    if count >= 100:
        assert_not_idle(pair.counted)


@pytest.mark.parametrize("guest", [SpanGuest, RunningGuest], ids=["spans", "processor"])
def test_a_read_only_slot_without_memory_is_no_device_for_having_been_written_to(
    system: System, guest: MakeGuest
) -> None:
    sequence: list[Operation] = [
        SetSlot(2, ARENA, 8 * PAGE, flags=MemslotFlag.READONLY),
        GuestTouch(ARENA, 0x11),
        GuestTouch(ARENA),
        GuestTouch(ARENA + PAGE),
        GuestTouch(ARENA, 0x22),
    ]
    assert pair_of(system, guest).difference(sequence, VmType.DEFAULT) is None


def assert_not_idle(counted: Counted) -> None:
    """Sequences that nothing comes of would find nothing."""
    assert counted.operations > 6 * counted.sequences
    assert counted.stale <= counted.sequences // 20
    assert counted.reached > counted.sequences // 8
    if counted.sequences >= 500:  # They are rare: in few sequences there may be none.
        assert counted.faulted > 0
    assert counted.operations // 20 < counted.refused < counted.operations // 2
