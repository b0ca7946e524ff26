# SPDX-License-Identifier: MIT
"""The parts of `interface.Vcpu` and `interface.Vm` that save and restore.

What is saved is declared in `saved_state`, which is loaded when something is: most runs never do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyvmm.hosts.saved_state import Origin, SavedVcpu, SavedVm


class SaveableVcpu(Protocol):
    """The part of `interface.Vcpu` that saves it and restores it."""

    def save(self) -> SavedVcpu:
        """All of its state; complete the last exit first (`complete`), and any that comes of that.

        No vCPU of the VM runs meanwhile. Raises `InternalError` where an exit is under way.
        """
        ...

    def restore(self, saved: SavedVcpu) -> None:
        """Take a state that `save` of such a vCPU gave; before it, guest memory is as it was then.

        An exit under way is forgotten. No vCPU of the VM runs meanwhile, and `SaveableVm.restore`
        comes after all of them. Raises `HostLacksError`, which names both, for a state of another
        host, version or processor, `UsageError` for one of another vCPU; then nothing has changed.
        """
        ...


class SaveableVm(Protocol):
    """The part of `interface.Vm` that saves its clock and controllers and restores them."""

    @property
    def origin(self) -> Origin:
        """Origin of what is saved here, and of all that can be restored here."""
        ...

    def save(self) -> SavedVm:
        """Clock, controllers and timer, while no vCPU runs; neither memory nor vCPUs."""
        ...

    def restore(self, saved: SavedVm) -> None:
        """Take a state that `save` of such a VM gave, before any vCPU runs, and after their own.

        Lines that devices hold up are raised before: what controllers have made of them is in the
        state. Raises as `SaveableVcpu.restore`.
        """
        ...
