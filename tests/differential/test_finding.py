# SPDX-License-Identifier: MIT
"""A model that is wrong in one thing against one that is right: found, and told in a few lines."""

from __future__ import annotations

import pytest

from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import NO_GUEST_MEMFD_FLAGS, Memslot
from pyvmm.hosts.model.guest_memfd import ModelGuestMemfd
from pyvmm.hosts.model.host_memory import Mapped
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.vm import ModelVm
from pyvmm.rules.profile import MAINLINE

from .comparing import Pair, story_of_a_difference
from .guests import SpanGuest
from .sequences import sequences

SEED = 20
FLAGS = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED


class HoleIsNone(ModelGuestMemfd):
    def punch_hole(self, offset: int, size: int) -> None:
        self._judged(3, offset, size, "free")


class KeepsContents(ModelVm):
    """Punched memory keeps its contents."""

    def create_guest_memfd(
        self, size: int, flags: GuestMemfdFlag = NO_GUEST_MEMFD_FLAGS
    ) -> ModelGuestMemfd:
        with super().create_guest_memfd(size, flags) as right:
            return HoleIsNone(right.size, flags, self, MAINLINE, Mapped())


class ForgetsAttributes(ModelVm):
    """Shared stays shared."""

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        super().set_memory_attributes(gpa, size, attributes)
        self.memory.set_attributes(gpa, size, private=False)


class BindsTwice(ModelVm):
    """Two slots may have one part of a file."""

    def set_memslot(self, memslot: Memslot) -> None:
        held = self.memory.slots
        for slot in held:
            if slot.file is memslot.guest_memfd is not None and memslot.slot != slot.slot.slot:
                self.memory.delete_slot(slot.slot.slot)
        super().set_memslot(memslot)


class Wrong(ModelSystem):
    def __init__(self, kind: type[ModelVm]) -> None:
        super().__init__(MAINLINE)
        self._kind = kind

    def create_vm(self, vm_type: VmType = VmType.DEFAULT) -> ModelVm:
        return self._kind(vm_type, MAINLINE, self._mapped)


def story(wrong: type[ModelVm], kind: VmType) -> str | None:
    pair = Pair(ModelSystem(MAINLINE), Wrong(wrong), FLAGS, (SpanGuest, SpanGuest))
    tried = sequences(MAINLINE, private=kind is not VmType.DEFAULT)
    return story_of_a_difference(pair, tried, kind, 2000, SEED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "kind", "told"),
    [
        (KeepsContents, VmType.SW_PROTECTED, "punch"),
        (ForgetsAttributes, VmType.SW_PROTECTED, "are private"),
        (BindsTwice, VmType.DEFAULT, "EEXIST"),
    ],
)
def test_a_wrong_model_is_found_out(wrong: type[ModelVm], kind: VmType, told: str) -> None:
    found = story(wrong, kind)
    assert found is not None
    print(found)
    assert told in found
    # Four steps at least; older versions of Hypothesis leave one or two that could go.
    assert len(found.splitlines()) <= 10, found


def test_a_right_model_is_not() -> None:
    pair = Pair(ModelSystem(), ModelSystem(), FLAGS, (SpanGuest, SpanGuest))
    tried = sequences(MAINLINE, private=True)
    assert story_of_a_difference(pair, tried, VmType.SW_PROTECTED, 100, SEED) is None
    assert pair.counted.reached > 10
