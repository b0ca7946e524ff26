# SPDX-License-Identifier: MIT
"""Target of an attack: a private machine that stands still, and what the roads to it share."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from pyvmm.demo.stage.attackers.searching import Searcher
from pyvmm.demo.stage.private_launch import LaunchInputs
from pyvmm.demo.stage.secret import SIZE, Secret, content_of
from pyvmm.demo.telling.acts import ATTEMPT, Road
from pyvmm.demo.telling.outcomes import Content, Seen
from pyvmm.errors import UsageError
from pyvmm.hosts.call_record import Field, Made, Recorder, SystemCall
from pyvmm.hosts.interface import GuestMemfd
from pyvmm.hosts.model.guest_memfd import ModelGuestMemfd
from pyvmm.machine.config import HostChoice
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.machine.running import Running


@dataclass(frozen=True)
class Target:
    """A machine that stands still, its launch, and the guest's secret, if it has one.

    `recorder` is told of the system calls that an attack makes itself. `exits` are the guest's
    so far, in words.
    """

    inside: Running
    inputs: LaunchInputs
    recorder: Recorder
    secret: Secret | None = None
    exits: tuple[str, ...] = ()

    @property
    def host(self) -> HostChoice:
        """The host that the machine is on."""
        return self.inside.assembly.host.choice

    def sides(self, gpa: int) -> MemorySides:
        """The memory at a GPA. Raises `UsageError` where there is none."""
        for sides in self.inside.assembly.memory.regions.sides():
            if sides.region.range.contains(gpa, 1):
                return sides
        raise UsageError(ATTEMPT, f"there is no memory at {gpa:#x}")

    def size(self, gpa: int) -> int:
        """Bytes that an attack reads from a GPA on: at most those of a secret."""
        return min(SIZE, self.sides(gpa).region.range.end - gpa)

    def hva(self, gpa: int) -> int:
        """The host virtual address behind the memslot."""
        sides = self.sides(gpa)
        return sides.memslot().hva + gpa - sides.region.range.start

    def file(self, gpa: int) -> tuple[GuestMemfd, int] | None:
        """The guest_memfd that is bound to the memslot, and the offset in it; None without one."""
        slot = self.sides(gpa).memslot()
        if slot.guest_memfd is None or not slot.guest_memfd.is_open:
            return None
        return slot.guest_memfd, slot.guest_memfd_offset + gpa - slot.gpa

    def model_hva(self, gpa: int) -> int | None:
        """The address at which the model has the private side in this process; None on KVM."""
        bound = self.file(gpa)
        if bound is None or not isinstance(bound[0], ModelGuestMemfd):
            return None
        return bound[0].memory.address + bound[1]

    def has_on_model(self, address: int) -> bool:
        """Tell whether that is where the model has private memory in this process."""
        file = self.inside.assembly.ram.guest_memfd
        if not isinstance(file, ModelGuestMemfd):
            return False
        return 0 <= address - file.memory.address < file.size

    def searcher(self) -> Searcher:
        """A search for the secret. Raises `UsageError` where there is none to be looked for."""
        secret = self.secret
        if secret is None:
            raise UsageError(ATTEMPT, "there is no secret to be looked for: hide one first")
        return Searcher(secret.gpa, secret.seed, tuple(range(0, SIZE, 8)))

    # -- what came of it --

    def got(self, road: Road, gpa: int, data: bytes, note: str = "") -> Seen:
        """Bytes that were read from a GPA on."""
        return Seen(road, gpa, content_of(data, gpa, self.secret), data, note=note)

    def told(
        self,
        name: str,
        target: str,
        *given: Field,
        result: int | OSError,
        request: str = "",
        structure: str = "",
    ) -> None:
        """Tell the recorder of a system call of this process's own, and its result."""
        number = result.errno or 0 if isinstance(result, OSError) else 0
        self.recorder.call(
            SystemCall(
                made=Made.KERNEL,
                name=name,
                request=request,
                target=target,
                structure=structure,
                given=given,
                returned=(),
                result=-1 if isinstance(result, OSError) else result,
                errno=number,
                section=f"{name}(2)",
                thread=threading.current_thread().name,
            )
        )


def closed(road: Road, gpa: int, note: str, errno: int = 0) -> Seen:
    """A road that was closed: by an errno, or for a reason."""
    return Seen(road, gpa, Content.REFUSED, errno=errno, note=note)


def reason(error: OSError) -> str:
    """The errno in words."""
    return os.strerror(error.errno or 0)
