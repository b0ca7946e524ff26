/* SPDX-License-Identifier: MIT */
/* KVM's hypercalls (Documentation/virt/kvm/x86/hypercalls.rst). */
#ifndef GUEST_HYPERCALL_H
#define GUEST_HYPERCALL_H

#include <stdint.h>

/*
 * RAX = number, RBX, RCX, RDX = arguments; returns RAX. VMMCALL on AMD's processors, VMCALL on all
 * others. An invalid opcode where nobody takes hypercalls.
 */
int64_t hypercall(uint64_t number, uint64_t first, uint64_t second, uint64_t third);

#endif
