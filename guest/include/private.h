/* SPDX-License-Identifier: MIT */
/* Private memory: what the firmware says of the machine, and conversions of pages. */
#ifndef GUEST_PRIVATE_H
#define GUEST_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>

#include "memory.h"
#include "protocol.h"

/* At LAUNCH_INFO. */
struct launch_info {
	uint64_t magic;
	uint32_t cpus;
	uint32_t hypercall;  /* LAUNCH_HYPERCALL_... */
	uint32_t page_level; /* the largest that page tables may have: LAUNCH_PAGE_LEVEL_... */
	uint32_t flags;      /* LAUNCH_INFO_... */
	uint64_t window_gpa;
	uint64_t window_size; /* 0: there is no window */
	uint8_t digest[DIGEST_BYTES];
	uint32_t parked; /* how many CPUs wait at their mailboxes */
};

/* With NULL on an ordinary boot. */
void private_init(const struct launch_info *info);
/* NULL on an ordinary boot: one without the firmware. */
const struct launch_info *launch_info(void);
/* Whether all RAM was made private. False on an ordinary boot. */
bool memory_is_private(void);

/* What a program that cannot do without private memory ends with where there is none. */
#define EXIT_NOT_PRIVATE 2
/* memory_is_private(), and a line that says so where it is not. */
bool private_memory_needed(void);

/* Errors of conversions (include/uapi/linux/kvm_para.h). */
#define CONVERSION_INVALID (-22)
#define CONVERSION_UNKNOWN (-1000)

/*
 * The host gets to see [gpa, gpa + size), or no longer does. What was there before is gone, and pages
 * that change are zero afterwards, unless they are converted in place: then the host gets to see it.
 * Pages that are as asked for already keep what they have. `size` in bytes, both multiples of
 * PAGE_SIZE. 0, or a negative number when nothing has changed.
 */
int64_t memory_share(uint64_t gpa, uint64_t size);
int64_t memory_unshare(uint64_t gpa, uint64_t size);
/* Whether contents survive conversions: in-place=1 on the command line says so. */
bool contents_survive(void);
/* KVM_HC_MAP_GPA_RANGE with just these arguments, valid or not; `pages` of 4 KiB. */
int64_t memory_convert(uint64_t gpa, uint64_t pages, uint64_t attributes);

/* `size` bytes of whole pages that the host sees, for a device to work on; panics without them. */
void *shared_memory(uint64_t size);

/* Memory without a private side, withheld until it is touched. Empty where there is none. */
struct span shared_window(void);

#endif
