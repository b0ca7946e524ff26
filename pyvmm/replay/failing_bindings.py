# SPDX-License-Identifier: MIT
"""Bindings for which the kernel has no memory: each allocation of one fails, with others.

A binding that fails has to leave nothing behind. Kernels up to 7.0 did not look at the result of
storing it (``xa_store_range`` in ``kvm_gmem_bind``), until they were mended: the ioctl succeeded,
there was a slot, and the file did not know of it.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyvmm.errors import InternalError
from pyvmm.hosts.kvm.system import System
from pyvmm.replay.failing_allocations import FailingAllocations
from pyvmm.replay.hands import MOST_ALLOCATIONS, OK, Hands
from pyvmm.replay.memory_kind import MemoryKind

PAGES = 2
"""Pages of the file; the second is bound: an entry at index 0 takes the xarray no memory."""
_BOUND = 1


class Ending(enum.Enum):
    """Ending of a binding for which there was no memory."""

    REFUSED = "ENOMEM, and nothing is bound"
    HALF_BOUND = "ok, and the file does not know of the slot"
    LEFT_BOUND = "ENOMEM, and the file names a slot that is not there"
    BOUND = "ok, and bound: it did without"
    OTHER = "something else"


@dataclass(frozen=True, slots=True)
class FailedBinding:
    """A binding whose allocation `nth`, from 1, failed, and of those after it all or one.

    `answer` is the ioctl's, `access` a guest's read through the slot afterwards, "" without a slot;
    `again` the answer to binding the same page to another slot.
    """

    nth: int
    answer: str
    access: str
    again: str

    @property
    def ending(self) -> Ending:
        """The one of these that it was."""
        match self.answer, self.access, self.again:
            case "ENOMEM", "", "ok":
                return Ending.REFUSED
            case "ENOMEM", "", _:
                return Ending.LEFT_BOUND
            case "ok", "0", again if again != OK:
                return Ending.BOUND
            case "ok", "EIO", "ok":
                return Ending.HALF_BOUND
        return Ending.OTHER


def failed_bindings(
    system: System, allocations: FailingAllocations, kind: MemoryKind
) -> Iterator[FailedBinding]:
    """Two bindings for each allocation that there is in one, each with a VM of its own.

    Two failures are what storing in an xarray takes, which tries twice; the rest then goes well.
    """
    for failing in (-1, 2):
        yield from _failed(system, allocations, kind, failing)


def _failed(
    system: System, allocations: FailingAllocations, kind: MemoryKind, failing: int
) -> Iterator[FailedBinding]:
    for passing in range(MOST_ALLOCATIONS):
        with Hands(system, PAGES, kind, vcpus=True) as hands:
            hands.create_vm(0)
            _require(hands.create_file(0, 0))
            _require(hands.create_vcpu(0))
            with allocations.after(passing, failing) as countdown:
                answer = hands.bind(0, 0, 0, _BOUND)
            if not countdown.reached:
                _require(answer)
                return
            access = again = ""
            try:
                access = str(hands.guest_read(0, 0)) if answer == OK else ""
                again = hands.bind(0, 1, 0, _BOUND)
            finally:
                # In this order, and before the file is closed: its release does not find a slot
                # that it does not know, which then keeps a pointer to a file that is freed.
                if again == OK:
                    hands.unbind(0, 1)
                if answer == OK:
                    hands.unbind(0, 0)
        yield FailedBinding(passing + 1, answer, access, again)
    raise InternalError("have a binding fail", f"it allocates more than {MOST_ALLOCATIONS} times")


def _require(answer: str) -> None:
    if answer != OK:
        raise InternalError("bind a file with enough memory", f"the kernel answered {answer}")


def counted(bindings: Iterable[FailedBinding]) -> Counter[Ending]:
    """Number of bindings that ended in each way."""
    return Counter(each.ending for each in bindings)
