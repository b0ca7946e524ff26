# SPDX-License-Identifier: MIT
"""Roads to the page through the monitor's own process: its mapping, and two system calls."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.demo.stage.attackers.process_memory import proc_self_mem, process_vm_read
from pyvmm.demo.stage.attackers.target import Target, closed, reason
from pyvmm.demo.stage.secret import content_of
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Seen
from pyvmm.hosts.call_record import number_field


async def by_api(target: Target, gpa: int) -> Seen:
    """The monitor's own reading, as its devices and debuggers read."""
    data = target.inside.assembly.memory.read(gpa, target.size(gpa))
    if data is None:
        return closed(Road.API, gpa, "the monitor reads shared pages only, and this one is private")
    return target.got(Road.API, gpa, data)


async def by_mapping(target: Target, gpa: int) -> Seen:
    """The host's mapping behind the memslot: the shared side, whatever the page is."""
    return target.got(Road.MAPPING, gpa, target.sides(gpa).read(gpa, target.size(gpa)))


async def by_proc_mem(target: Target, gpa: int) -> Seen:
    """/proc/self/mem at the mapping's address."""
    return _at_hva(target, gpa, Road.PROC_MEM, proc_self_mem, ("pread", "/proc/self/mem"))


async def by_process_vm_readv(target: Target, gpa: int) -> Seen:
    """process_vm_readv(2) at the mapping's address."""
    call = ("process_vm_readv", "this process")
    return _at_hva(target, gpa, Road.VM_READV, process_vm_read, call)


def _at_hva(
    target: Target, gpa: int, road: Road, read: Callable[[int, int], bytes], call: tuple[str, str]
) -> Seen:
    hva, size = target.hva(gpa), target.size(gpa)
    asked = (number_field("address", hva), number_field("length", size))
    try:
        data = read(hva, size)
    except OSError as error:
        target.told(*call, *asked, result=error)
        return closed(road, gpa, reason(error), error.errno or 0)
    target.told(*call, *asked, result=len(data))
    return target.got(road, gpa, data, _of_the_model(target, gpa, read))


def _of_the_model(target: Target, gpa: int, read: Callable[[int, int], bytes]) -> str:
    """On the model: what the same call finds elsewhere in this process."""
    elsewhere = target.model_hva(gpa)
    if elsewhere is None:
        return ""
    found = content_of(read(elsewhere, target.size(gpa)), gpa, target.secret)
    return (
        f"the model's processor needs the private side in this process, at {elsewhere:#x}, where "
        f"the same call finds {found.value}; a kernel maps it nowhere"
    )
