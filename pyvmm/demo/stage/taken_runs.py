# SPDX-License-Identifier: MIT
"""A recorder of a stage on which vCPUs are run an access at a time: it has each KVM_RUN, too."""

from __future__ import annotations

import errno
import threading
from collections import Counter

from pyvmm.demo.stage.taken import Taken
from pyvmm.hosts.call_record import Made, SystemCall
from pyvmm.hosts.exits import Exit, Interrupted, MemoryFault, MmioWrite
from pyvmm.replay.guest import DONE

_SHOWN = frozenset(
    {"KVM_CREATE_VCPU", "KVM_SET_USER_MEMORY_REGION", "KVM_SET_REGS", "KVM_RUN", "close", "fcntl"}
)
_THE_LAST = "exit by which the guest says that it is done"


class TakenRuns(Taken):
    """A `Taken` for guests of `replay.guest`, which tells what is of interest of an access.

    An exit is what one KVM_RUN gave: nothing is posted on such VMs.
    """

    def __init__(self, made: Made) -> None:
        super().__init__()
        self._made = made
        self._ended = 0

    def exit(self, vcpu: int, exit_: Exit) -> None:
        """Keep KVM_RUN, and the exit unless it is the access's last one."""
        number = 0
        if isinstance(exit_, MemoryFault):
            number = exit_.errno
        elif isinstance(exit_, Interrupted):
            number = errno.EINTR
        self.call(
            SystemCall(
                made=self._made,
                name="ioctl",
                request="KVM_RUN",
                target=self._calls[-1].target if self._calls else f"vCPU {vcpu}",
                structure="",
                given=(),
                returned=(),
                result=-1 if number else 0,
                errno=number,
                section="api.rst 4.10",
                thread=threading.current_thread().name,
            )
        )
        if isinstance(exit_, MmioWrite) and exit_.gpa == DONE:
            self._ended += 1
        else:
            super().exit(vcpu, exit_)

    def take_access(
        self,
    ) -> tuple[tuple[SystemCall, ...], tuple[str, ...], tuple[tuple[str, int], ...]]:
        """All calls and exits of an access that are of interest; the others' names and numbers."""
        calls, exits = self.take()
        left_out = Counter(one.request or one.name for one in calls if _name(one) not in _SHOWN)
        if self._ended:
            left_out[_THE_LAST] = self._ended
        self._ended = 0
        shown = tuple(one for one in calls if _name(one) in _SHOWN)
        return shown, exits, tuple(sorted(left_out.items()))


def _name(call: SystemCall) -> str:
    return call.request if call.name == "ioctl" else call.name
