# SPDX-License-Identifier: MIT
"""Finding a guest that has halted for ever behind in-kernel interrupt controllers.

There HLT ends no KVM_RUN: the vCPU waits in the kernel for an interrupt, and nothing tells that
none can come. So the machine looks from outside. While the vCPUs do anything that is a comparison
now and then; only vCPUs that have done nothing for a moment are stopped and asked, and where they
may go on some time, less and less often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from pyvmm.errors import PyvmmError
from pyvmm.machine.control import RunControl
from pyvmm.machine.ending import Ending, EndingKind
from pyvmm.machine.vcpus import MachineVcpu

TICK = 0.25
"""Seconds between two comparisons."""
RARELY = 32
"""At the most so many comparisons between two looks at a guest that does nothing, but may go on."""
SETTLING = 0.02
"""Seconds in which vCPUs that were let go are back where they were."""
PATIENCE = 1.0
"""Seconds that a look may take: who does not stop at once is not halted."""


_ENDING = Ending(
    EndingKind.HALTED, "the guest halted with interrupts off on every vCPU, and nothing can wake it"
)


@dataclass(frozen=True, slots=True)
class Watched:
    """Parts of a machine that tell whether its guest may go on.

    `can_send_unmaskable` is the VM's; `is_stalled` is true while the console makes the guest wait.
    """

    control: RunControl
    vcpus: Sequence[MachineVcpu]
    can_send_unmaskable: Callable[[], bool]
    is_stalled: Callable[[], bool]


async def watch_for_halt(watched: Watched) -> None:
    """End the run where all vCPUs have halted for ever (`EndingKind.HALTED`); until it is over.

    That is: each waits for what its controllers cannot send it (`Vcpu.sleeps_for_good`,
    `Vm.can_send_unmaskable`), and nobody holds the machine.
    """
    control = watched.control
    before: list[int] | None = None
    idle, next_look = 0, 1
    while not control.is_over:
        await trio.sleep(TICK)
        marks = _marks(watched)
        if marks is None or marks != before:
            before, idle, next_look = marks, 0, 1
            continue
        idle += 1
        if idle < next_look:
            continue
        try:
            await look(watched)
        except PyvmmError as failure:
            if not control.is_over:
                control.fail(failure)
            return
        next_look = idle + min(idle + 1, RARELY)
        # The look has moved them.
        await trio.sleep(SETTLING)
        before = _marks(watched)


def _marks(watched: Watched) -> list[int] | None:
    """See `RunControl.idle_marks`; None too where somebody else keeps the guest waiting."""
    if watched.control.is_held or watched.is_stalled():
        return None
    return watched.control.idle_marks()


async def look(watched: Watched) -> None:
    """Stop the vCPUs, and see whether there is anything that could wake one of them."""
    control = watched.control
    with trio.move_on_after(PATIENCE):
        async with control.frozen():
            # Who intervenes meanwhile may change what has been seen.
            expected = control.interventions + len(watched.vcpus)
            for vcpu in watched.vcpus:
                if not await vcpu.call(lambda vcpu: vcpu.sleeps_for_good()):
                    return
            undisturbed = control.interventions == expected and not control.is_paused
            if undisturbed and not watched.can_send_unmaskable():
                control.end(_ENDING)
