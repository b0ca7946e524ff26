/* SPDX-License-Identifier: MIT */
/*
 * System calls with the errno in the result: negative for an error. cffi reads this file as well
 * (see kvm_abi.h).
 */
#ifndef PYVMM_CDEF
#pragma once
#include "kvm_abi.h"
#endif

/* Raised with every change of what Python calls or reads of these headers (binding.py has it, too). */
#define PYVMM_INTERFACE 8

int64_t pyvmm_ioctl_value(int fd, uint64_t request, uint64_t argument);
int64_t pyvmm_ioctl_pointer(int fd, uint64_t request, void *argument);
int64_t pyvmm_map(int fd, uint64_t size, int flags, uint64_t offset);
int pyvmm_map_zeroes_over(uint64_t hva, uint64_t size);
/* Keeps a mapping out of this process's core (MADV_DONTDUMP). */
int pyvmm_leave_out_of_core(uint64_t hva, uint64_t size);
int pyvmm_unmap(uint64_t hva, uint64_t size);
int pyvmm_fallocate(int fd, int mode, uint64_t offset, uint64_t size);
/* Frees the pages of a shared mapping, and of the file behind it (MADV_REMOVE). */
int pyvmm_discard(uint64_t hva, uint64_t size);
/* How many pages of [hva, hva + size) are in memory (mincore). */
int64_t pyvmm_resident_pages(uint64_t hva, uint64_t size);
/* How many pages of [offset, offset + size) of a file are in memory (cachestat). */
int64_t pyvmm_cached_pages(int fd, uint64_t offset, uint64_t size);
/*
 * Takes up to `room` dirtied pages from a vCPU's ring, beginning with entry `first` (modulo
 * `entries`), and marks them for KVM_RESET_DIRTY_RINGS. Returns how many.
 */
uint32_t pyvmm_take_dirty(struct kvm_dirty_gfn *ring, uint32_t entries, uint32_t first,
                          struct kvm_dirty_gfn *out, uint32_t room);
