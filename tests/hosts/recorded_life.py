# SPDX-License-Identifier: MIT
"""Program: a VM's life, and on standard output what its recorder was told, as JSON.

It lives twice, and the second life is recorded. Rows of [call, fd or address or path, result].
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress

from pyvmm.hosts.call_record import Recorder
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.system import System
from tests.hosts.test_recording import Taken

PAGE = 4096


def live(recorder: Recorder | None) -> None:
    with System(recorder=recorder) as system, system.create_vm() as vm:
        system.capabilities()
        vm.create_irqchip()
        with system.map_anonymous(16 * PAGE) as ram:
            vm.set_memslot(Memslot(0, 0, 16 * PAGE, ram.hva))
            with suppress(KvmError):
                vm.set_memslot(Memslot(1, 4 * PAGE, 16 * PAGE, ram.hva))
            with vm.create_vcpu(0) as vcpu:
                vcpu.use_host_cpuid()
                vcpu.restore(vcpu.save())
            ram.discard(PAGE, 2 * PAGE)
            ram.resident(0, 16 * PAGE)
        flags = system.capabilities().guest_memfd_flags & GuestMemfdFlag.MMAP
        with suppress(KvmError), vm.create_guest_memfd(8 * PAGE, flags) as file:
            file.allocate(0, PAGE)
            file.punch_hole(0, PAGE)
            if flags:
                file.map().close()


def main() -> None:
    live(None)  # What is imported at the first need opens files, which strace would see.
    taken = Taken()
    live(taken)
    rows = []
    for one in taken.calls:
        fd = re.search(r" fd (\d+)$", one.target)
        where = fd[1] if fd else one.target
        if one.target == "memory":
            where = str(one.given[0].value)
        if one.name == "memfd_create":
            where = f'"{one.target}"'
        rows.append([one.name, where, one.result])
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
