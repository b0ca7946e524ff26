/* SPDX-License-Identifier: MIT */
/*
 * Ranges of guest memory that somebody holds: a device that works on them (a lease), one that is told
 * when they are converted (a listener), conversions that wait for a lease to end, and what is worked
 * on in steps, with the lock given away between them. Beside them, which pages are shared. Addresses are GPAs in bytes. cffi reads this file as well (see kvm_abi.h).
 */
#ifndef PYVMM_CDEF
#pragma once
#include "kvm_abi.h"
#include <stdbool.h>
#endif

struct pyvmm_held;
struct pyvmm_conversions;

#define PYVMM_HELD_LEASE 0
#define PYVMM_HELD_LISTENER 1
#define PYVMM_HELD_WAITING 2
/* In steps, taken from the host: no lease, no other conversion. */
#define PYVMM_HELD_CONVERTING 3
/* In steps, and still the host's, or soon: no conversion. */
#define PYVMM_HELD_WORKING 4
#define PYVMM_HELD_KINDS 5

#define PYVMM_HELD_SEVERAL 0xffff

/* Of one kind, at a time. */
#define PYVMM_HELD_RANGES 65536

/* Why a lease is refused. The answer is -(16 * the range's index + one of these). */
#define PYVMM_LEASE_EMPTY 1
#define PYVMM_LEASE_WRAPS 2
#define PYVMM_LEASE_NO_MEMORY 3
#define PYVMM_LEASE_NOT_SHARED 4
#define PYVMM_LEASE_READ_ONLY 5
#define PYVMM_LEASE_OVERLAPS 6
#define PYVMM_LEASE_CONVERTING 7
#define PYVMM_LEASE_TOO_MANY 8
#define PYVMM_LEASE_CLOSED 9
#define PYVMM_LEASE_MEMORY_SHORT 10

/*
 * All of these take the lock of all conversions unless the calling thread has it. Rows are pairs of
 * GPA and size; functions that can fail return a negative errno.
 */

/*
 * Whole pages, all shared; -ENOMEM, -EEXIST for a slot or a range that is there, -EINVAL for a slot
 * from PYVMM_HELD_SEVERAL on.
 */
int pyvmm_held_add_region(struct pyvmm_conversions *conversions, uint32_t slot, uint64_t gpa,
                          uint64_t size, bool writable);
void pyvmm_held_remove_region(struct pyvmm_conversions *conversions, uint32_t slot);
/* Notes what Python has converted: whole pages, in any number of regions. */
void pyvmm_held_note(struct pyvmm_conversions *conversions, uint64_t gpa, uint64_t size, bool shared);
/* Whether all of it is in one region, and shared. */
bool pyvmm_held_is_shared(struct pyvmm_conversions *conversions, uint64_t gpa, uint64_t size);
/*
 * Takes a lease on all rows or on none, and gives its number, whose lower 16 bits are the slot of the
 * region that has all of them: PYVMM_HELD_SEVERAL where there is more than one. `writable`: no row
 * may overlap another. `rows` are `count` pairs of uint64_t; untyped, so that cffi passes Python's
 * bytes as they are.
 */
int64_t pyvmm_held_lease(struct pyvmm_conversions *conversions, const void *rows, uint32_t count,
                         bool writable);
/* Tells where the region of that slot is mapped in this process. */
void pyvmm_held_place(struct pyvmm_conversions *conversions, uint32_t slot, uint64_t hva);
#ifndef PYVMM_CDEF
/* As pyvmm_held_lease; `at` gets the host address of each row. Refused where a region has none. */
int64_t pyvmm_held_lease_at(struct pyvmm_conversions *conversions, const uint64_t *rows,
                            uint32_t count, bool writable, uint8_t **at);
#endif
/*
 * Holds the rows, of whatever kind but a lease; the number to release them by. 0, and nothing is held,
 * where what is to be worked on in steps is so already (pyvmm_conversions_await_end). -EINVAL for rows
 * that are empty or wrap, -E2BIG where too many are held, -ENOMEM.
 */
int64_t pyvmm_held_hold(struct pyvmm_conversions *conversions, uint32_t kind, const uint64_t *rows,
                        uint32_t count);
/* Returns whether somebody waits for a lease. */
bool pyvmm_held_release(struct pyvmm_conversions *conversions, uint32_t kind, int64_t number);
/* The number of what is held in that way and overlaps; 0: there is none. */
int64_t pyvmm_held_overlapping(struct pyvmm_conversions *conversions, uint32_t kind, uint64_t gpa,
                               uint64_t size);
