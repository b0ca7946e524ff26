# SPDX-License-Identifier: MIT
"""Roads to the page through the guest_memfd's descriptor: pread(2) and mmap(2)."""

from __future__ import annotations

import mmap
import os

from pyvmm.demo.stage.attackers.process_memory import map_file, proc_self_mem, unmap
from pyvmm.demo.stage.attackers.target import Target, closed, reason
from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Seen
from pyvmm.errors import SystemCallError
from pyvmm.hosts.call_record import number_field
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.model.refusals import RefusedByRuleError
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.files import FileCall, file_call
from pyvmm.rules.profile import MAINLINE

NO_FILE = "no guest_memfd is bound there: the page has a shared side only"


async def by_pread(target: Target, gpa: int) -> Seen:
    """pread(2) at the page's offset in the file."""
    bound = target.file(gpa)
    if bound is None:
        return closed(Road.FILE_READ, gpa, NO_FILE)
    file, offset = bound
    if not isinstance(file, FdOwner):
        refusal = file_call(FileCall("pread"), MAINLINE)
        assert refusal is not None
        note = f"by the rules, since the model's file has no descriptor: {refusal.cause}"
        return closed(Road.FILE_READ, gpa, note, refusal.errno)
    size = target.size(gpa)
    asked = (number_field("length", size), number_field("offset", offset))
    name = f"{file.WHAT} fd {file.fd}"
    try:
        data = os.pread(file.fd, size, offset)
    except OSError as error:
        target.told("pread", name, *asked, result=error)
        return closed(Road.FILE_READ, gpa, reason(error), error.errno or 0)
    target.told("pread", name, *asked, result=len(data))
    return target.got(Road.FILE_READ, gpa, data)


async def by_mmap(target: Target, gpa: int) -> Seen:
    """mmap(2) of the page's place in the file, and a read there where that works."""
    bound = target.file(gpa)
    if bound is None:
        return closed(Road.FILE_MMAP, gpa, NO_FILE)
    file, offset = bound
    if not isinstance(file, FdOwner):
        try:
            with file.map() as mapping:
                # By a system call, as below.
                data = mapping.peek(offset, target.size(gpa))
        except SystemCallError as error:
            cause = error.cause
            if isinstance(error, RefusedByRuleError):
                cause = error.refusal.cause
            return closed(Road.FILE_MMAP, gpa, f"by the rules: {cause}", error.errno)
        return target.got(Road.FILE_MMAP, gpa, data)
    page = offset // PAGE_SIZE * PAGE_SIZE
    asked = (
        number_field("length", PAGE_SIZE),
        number_field("prot", mmap.PROT_READ, 4, "PROT_READ"),
        number_field("flags", mmap.MAP_SHARED, 4, "MAP_SHARED"),
        number_field("offset", page),
    )
    name = f"{file.WHAT} fd {file.fd}"
    try:
        address = map_file(file.fd, PAGE_SIZE, mmap.PROT_READ, mmap.MAP_SHARED, page)
    except OSError as error:
        target.told("mmap", name, *asked, result=error)
        return closed(Road.FILE_MMAP, gpa, reason(error), error.errno or 0)
    target.told("mmap", name, *asked, result=address)
    try:
        # By a system call: what is a signal to a program is an errno to that.
        data = proc_self_mem(address + offset - page, target.size(gpa))
    except OSError as error:
        note = f"it is mapped, and a touch is refused: {reason(error)}"
        return closed(Road.FILE_MMAP, gpa, note, error.errno or 0)
    finally:
        unmap(address, PAGE_SIZE)
    return target.got(Road.FILE_MMAP, gpa, data)
