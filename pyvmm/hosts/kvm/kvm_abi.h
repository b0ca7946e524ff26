/* SPDX-License-Identifier: MIT */
/*
 * The KVM ABI of x86-64 as this project uses it: structures with their fixed layout.
 *
 * Declared here and not taken from <linux/kvm.h>, because the header of a distribution is often
 * older than the kernel that runs (Debian 12's knows nothing of guest_memfd). The source is the
 * kernel's Documentation/virt/kvm/api.rst, whose section is named at each structure's ioctl in
 * ioctls.py. cffi reads these files as well: build_extension.py leaves out what stands between an
 * ifndef of PYVMM_CDEF and its endif.
 */
#ifndef PYVMM_CDEF
#pragma once
#include "kvm_abi_vcpu.h"
#include "kvm_abi_vm.h"

/* As in pyvmm/rules/abi.py. */
#define PAGE_SIZE 4096UL
#define KVM_HC_MAP_GPA_RANGE 12
#endif
