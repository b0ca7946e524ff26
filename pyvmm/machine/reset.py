# SPDX-License-Identifier: MIT
"""Starting a guest again in its machine."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from pyvmm.errors import InternalError, PyvmmError, UsageError
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.control import RunControl
from pyvmm.machine.events import WasReset

if TYPE_CHECKING:
    from pyvmm.machine.machine import Machine

_ATTEMPT = "reset the machine"


async def reset(machine: Machine, control: RunControl, assembly: Assembly) -> None:
    """Do what `Machine.reset` documents. If the host fails in the middle, the run fails too."""
    if machine.config.private is not None:
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
        with trio.CancelScope(shield=True):
            try:
                for index in range(machine.config.cpus):
                    await machine.on_vcpu(index, partial(assembly.reset_vcpu, index))
                assembly.reset()
            except PyvmmError as failure:
                # A run that has ended meanwhile has its ending: nothing is broken.
                if not control.is_over:
                    control.fail(failure)
                raise
            control.reset_done()


async def serve_resets(machine: Machine, control: RunControl, assembly: Assembly) -> None:
    """Make the resets that the guest asks for, until the run is over."""
    with suppress(PyvmmError):  # The host failed, which the run tells, or the guest has ended.
        while True:
            await control.reset_asked()
            await reset(machine, control, assembly)
            if not control.is_over:  # Whose end has been told: nothing comes after that.
                machine.tell(WasReset(by_guest=True))
