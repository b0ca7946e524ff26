# SPDX-License-Identifier: MIT
"""Starting a guest again in its machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from pyvmm.errors import InternalError, PyvmmError, UsageError
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.control import RunControl
from pyvmm.machine.events import Audience, WasReset
from pyvmm.machine.leases import LeaseHeldError, Vacating
from pyvmm.machine.tracked_memory import ALL_MEMORY
from pyvmm.machine.vcpus import MachineVcpu

_ATTEMPT = "reset the machine"


async def reset(
    control: RunControl,
    assembly: Assembly,
    vcpus: Sequence[MachineVcpu],
    *,
    by_guest: bool = False,
) -> None:
    """Do what `Control.reset` documents. If the host fails in the middle, the run fails too.

    A lease that does not end refuses the reset before anything has changed; then it is the run that
    fails where the guest (`by_guest`) waits for being reset.
    """
    if assembly.launch is not None:
        raise UsageError(
            _ATTEMPT,
            "its guest was launched and measured once, and has private memory that is its own",
            "end the run and start another",
        )
    async with control.resetting():
        if control.is_over:
            raise InternalError(_ATTEMPT, "the guest has ended")
        # From here on the guest is neither what it was nor what it will be. Bounded: a vCPU that
        # does not answer ends the run.
        with (
            trio.CancelScope(shield=True),
            assembly.memory.leases.vacating(ALL_MEMORY) as vacating,
        ):
            await _vacate(vacating, control, by_guest=by_guest)
            try:
                for vcpu in vcpus:
                    await vcpu.call(partial(assembly.reset_vcpu, vcpu.index))
                assembly.reset()
            except PyvmmError as failure:
                # A run that has ended meanwhile has its ending: nothing is broken.
                if not control.is_over:
                    control.fail(failure)
                raise
            control.reset_done()


async def _vacate(vacating: Vacating, control: RunControl, *, by_guest: bool) -> None:
    """Wait for devices that work on memory; none begins to meanwhile. Raises `LeaseHeldError`."""
    try:
        await vacating.wait_in_trio(_ATTEMPT)
    except LeaseHeldError as failure:
        if by_guest and not control.is_over:
            control.fail(failure)
        raise


async def serve_resets(
    control: RunControl, assembly: Assembly, vcpus: Sequence[MachineVcpu], audience: Audience
) -> None:
    """Make the resets that the guest asks for, until the run is over."""
    while not control.is_over:
        await control.reset_asked()
        try:
            await reset(control, assembly, vcpus, by_guest=True)
        except PyvmmError:
            return  # The host failed, which the run tells, or the guest has ended.
        if not control.is_over:  # Whose end has been told: nothing comes after that.
            try:
                audience.tell(WasReset(by_guest=True))
            except Exception as failure:  # noqa: BLE001 - a listener's; told by `Control.wait`
                control.fail(failure)
