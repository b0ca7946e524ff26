# SPDX-License-Identifier: MIT
"""A device on an ioeventfd: the guest rings it by a port, and its vCPU goes on without an exit.

    python examples/ioeventfd_device.py [kvm|model]

KVM adds 1 to an eventfd for each write (KVM_IOEVENTFD, api.rst 4.59); the device reads it when it
has time. What was written is not told.
"""

import select
import sys

from pyvmm.experiment import guest, short_errors
from pyvmm.hosts.interrupts import DoorbellPlace

PORT = 0x510
CODE = f"""
        mov     ${PORT}, %dx
        mov     $3, %ecx
ring:   out     %al, %dx
        loop    ring
        out     %al, $0x80              # nobody has this port: an exit
        hlt
"""

with short_errors(), guest(CODE, host=(*sys.argv[1:], "auto")[0]) as one:
    place = DoorbellPlace(PORT, 1, is_port=True)
    with one.vm.create_doorbell(place, "the example") as bell:
        print("exits of the vCPU:", *one.exits())
        readable, _, _ = select.select([bell], [], [], 10)
        print(f"the device was rung {'' if readable else 'not at all, '}{bell.drain()} times")
