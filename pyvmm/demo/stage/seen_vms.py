# SPDX-License-Identifier: MIT
"""VMs of a stage that exist in the kernel, as debugfs has them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyvmm.demo.stage.things import Things
from pyvmm.hosts import interface
from pyvmm.hosts.owner import Owner
from pyvmm.replay.liveness import observe

if TYPE_CHECKING:
    from pyvmm.replay.liveness import Liveness


class SeenVms(Owner):
    """The VMs that there have been on a stage, and what debugfs says of them now."""

    def __init__(self, system: interface.System | None) -> None:
        """`system` is KVM's, which is not owned; None: nothing can be seen."""
        self._names: dict[int, str] = {}
        self._liveness: Liveness | None = None
        if system is None:
            return
        from pyvmm.hosts.kvm.system import System
        from pyvmm.replay.host import can_name

        liveness, _ = observe()
        try:
            if liveness is not None and isinstance(system, System) and can_name(system, liveness):
                self._liveness, liveness = liveness, None
        finally:
            if liveness is not None:
                liveness.close()

    @property
    def can_see(self) -> bool:
        """True where debugfs can be read, and names VMs as this process does."""
        return self._liveness is not None

    def add(self, number: int, vm: interface.Vm) -> None:
        """A VM has been made, by this thread."""
        fd = getattr(vm, "fd", -1)
        self._names[number] = f"{threading.get_native_id()}-{fd}"

    def alive(self, things: Things) -> Iterator[tuple[str, bool | None]]:
        """Existence of each VM, by its last number; None where that cannot be seen.

        A descriptor's number may be used again while its VM lives: the kernel has one folder then,
        and whose it is cannot be seen.
        """
        living = Counter(self._names[number] for number in things.vms)
        for number, name in sorted(self._names.items()):
            is_seen: bool | None = None
            if self._liveness is not None and living[name] <= 1:
                expected = number in things.vms
                # The folder of one that has gone may be another's by now.
                taken = not expected and living[name] == 1
                is_seen = expected
                if not taken and not self._liveness.agrees(name, expected):
                    is_seen = not expected
            yield f"vm {number}", is_seen

    def close(self) -> None:
        """Let go of debugfs; a second call does nothing."""
        if self._liveness is not None:
            self._liveness.close()
