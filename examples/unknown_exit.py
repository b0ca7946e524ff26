# SPDX-License-Identifier: MIT
"""Reading an unknown exit: KVM leaves the guest for a reason that pyvmm has no name for.

    python examples/unknown_exit.py

KVM_EXIT_TPR_ACCESS stands for the exit of a new series: every KVM with local APICs has it, and
pyvmm does not know it. Its structure is declared here, and laid over the kernel's bytes.
"""

from pyvmm.experiment import declare, guest, short_errors
from pyvmm.hosts.exits import Interrupted

C = declare("""
struct kvm_tpr_access_ctl { __u32 enabled; __u32 flags; __u32 reserved[8]; };
struct tpr_access         { __u64 rip; __u32 is_write; __u32 pad; };
#define KVM_TPR_ACCESS_REPORTING _IOWR(KVMIO, 0x92, struct kvm_tpr_access_ctl)
#define KVM_EXIT_TPR_ACCESS 12
""")
CODE = """
        mov     $0xfee00080, %ebx       # the local APIC's task priority
        mov     (%rbx), %eax
again:  jmp     again
"""

with short_errors(), guest(CODE, host="kvm", irqchip=True) as one:
    C.KVM_TPR_ACCESS_REPORTING(one.vcpu, enabled=1)
    # The exit comes with an entry after the access: the guest is interrupted until then.
    while (reason := one.run(timeout=0.02)) == Interrupted():
        pass
    print(reason, "is", C.name_of("KVM_EXIT_", reason.reason))
    access = C.view("struct tpr_access", one.raw(reason).data)
    verb = "write" if access.is_write else "read"
    print(f"a {verb}, before {access.rip - one.code.at:#x} in the code")
