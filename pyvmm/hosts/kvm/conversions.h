/* SPDX-License-Identifier: MIT */
/*
 * Conversions of guest pages between shared and private that a vCPU's thread makes by itself. cffi
 * reads this file as well (see kvm_abi.h). Functions that can fail return a negative errno.
 */
#ifndef PYVMM_CDEF
#pragma once
#include "kvm_abi.h"
#include <stdbool.h>
#endif

struct pyvmm_conversions;

#define PYVMM_SERVED_SPANS 8
/* Whoever drains them has the lock, and notes each in Python: some milliseconds for all. */
#define PYVMM_JOURNAL_ENTRIES 1024
/* What one holding of the lock converts at the most, in bytes: longer requests are done in steps. */
#define PYVMM_STEP 0x200000
/* slot of a span that has its memslot */
#define PYVMM_PLUGGED 0xffffffffU

/*
 * [gpa, gpa + size): shared side mapped at `hva`, private side in the file from the offset on. Where
 * there is no file (-1), pages that are touched while they are marked private become shared, the
 * `touch_block` bytes around them at once (a power of two). Where `slot` is a number, that memslot is
 * missing, all pages are marked private, and the first private access sets it, with `slot_flags`.
 * `in_place`: both sides are the file, which keeps what is private; nothing is given back.
 */
struct pyvmm_served_span {
    uint64_t gpa;
    uint64_t size;
    uint64_t hva;
    uint64_t guest_memfd_offset;
    uint64_t touch_block;
    int32_t guest_memfd;
    uint32_t slot;
    uint32_t slot_flags;
    uint32_t in_place;
};

/* `plugged`: all of a span, whose memslot is set now. */
struct pyvmm_converted {
    uint64_t gpa;
    uint64_t size;
    uint32_t is_private;
    uint32_t plugged;
};

/* One per VM. It does not own the VM's fd, nor anything that a span names. */
struct pyvmm_conversions *pyvmm_conversions_new(int vm_fd);
void pyvmm_conversions_free(struct pyvmm_conversions *conversions);
/* Serves nothing from here on; the VM's fd may be closed afterwards. */
void pyvmm_conversions_close(struct pyvmm_conversions *conversions);
/*
 * The lock of all conversions of the VM. -EDEADLK: the calling thread has it already; -EPERM: it
 * does not have it. The functions below take it themselves unless the calling thread has it.
 */
int pyvmm_conversions_lock(struct pyvmm_conversions *conversions);
int pyvmm_conversions_unlock(struct pyvmm_conversions *conversions);
/*
 * With the lock, between two steps of long work: every thread that waits for it now has it once, then
 * the caller has it again. False where none waits, and then it has not been given away.
 */
bool pyvmm_conversions_give_way(struct pyvmm_conversions *conversions);
/* With the lock: gives it away until something that is worked on in steps (held.h) is so no more. */
void pyvmm_conversions_await_end(struct pyvmm_conversions *conversions);
/* How many threads wait for the lock, or for such an end. Without the lock it is a moment's figure. */
uint32_t pyvmm_conversions_waiting(struct pyvmm_conversions *conversions);
/* Replaces the spans served; -EINVAL for more than PYVMM_SERVED_SPANS, -EBADF once closed. */
int pyvmm_conversions_serve(struct pyvmm_conversions *conversions,
                            const struct pyvmm_served_span *spans, uint32_t count);
/* Takes the whole journal; `out` has room for PYVMM_JOURNAL_ENTRIES. Returns how many. */
uint32_t pyvmm_conversions_drain(struct pyvmm_conversions *conversions,
                                 struct pyvmm_converted *out);
/*
 * Does what the KVM_EXIT_HYPERCALL in `run` asks for and answers it. False: that is left to Python,
 * which finds in the journal what has changed nevertheless.
 */
bool pyvmm_conversions_take(struct pyvmm_conversions *conversions, struct kvm_run *run);
/*
 * Does about the KVM_EXIT_MEMORY_FAULT in `run` what a span says: what was touched is marked private,
 * and has no private side and becomes shared; or no memslot, and gets it. The vCPU then tries again.
 */
bool pyvmm_conversions_take_touch(struct pyvmm_conversions *conversions, const struct kvm_run *run);
