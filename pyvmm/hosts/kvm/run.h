/* SPDX-License-Identifier: MIT */
/*
 * The exit path: one vCPU's KVM_RUN loop, kicks, posted port accesses, conversions of pages, the
 * record of exits.
 *
 * cffi reads this file as well (see kvm_abi.h). Functions that can fail return a negative errno.
 */
#ifndef PYVMM_CDEF
#pragma once
#include "conversions.h"
#include "history.h"
#include "posted.h"
#endif

struct pyvmm_vcpu;

/*
 * What pyvmm_vcpu_run returns:
 *   negative                  -errno of KVM_RUN
 *   below PYVMM_INTERRUPTED   an exit reason; kvm_run holds the rest
 *   PYVMM_INTERRUPTED         kicked, or a signal arrived
 *   PYVMM_POSTED_FULL         the posted ring has no room; the write is still to be taken
 *   PYVMM_FAULT_EFAULT,
 *   PYVMM_FAULT_EHWPOISON     KVM_EXIT_MEMORY_FAULT, and the errno that it came with
 *   PYVMM_BROKEN_RUN          kvm_run points outside of its mapping
 *   PYVMM_PORT | ...          a single port access, whole in the code, so that Python can look the
 *                             finished exit up instead of building it:
 *                             port in bits 0..15, size in 16..23, "write" in 24, value in 25..56
 */
#define PYVMM_INTERRUPTED 0x100000000
#define PYVMM_POSTED_FULL 0x100000001
#define PYVMM_FAULT_EFAULT 0x100000002
#define PYVMM_FAULT_EHWPOISON 0x100000003
#define PYVMM_BROKEN_RUN 0x100000004
#define PYVMM_PORT 0x4000000000000000

/* `run` of `run_size` bytes is the mapping of the vCPU's fd, which pyvmm_vcpu_close unmaps. */
struct pyvmm_vcpu *pyvmm_vcpu_new(int fd, struct kvm_run *run, uint64_t run_size,
                                  struct pyvmm_posted *posted,
                                  struct pyvmm_conversions *conversions);
/*
 * Before the first run, on a VM with private memory: a hypercall made by private code is got past
 * where KVM by itself cannot. It is not where registers are hidden from us.
 */
void pyvmm_vcpu_finish_hypercalls(struct pyvmm_vcpu *vcpu);
void pyvmm_vcpu_free(struct pyvmm_vcpu *vcpu);
/* -EBUSY while a thread is inside pyvmm_vcpu_run. After it, kicks do nothing. */
int pyvmm_vcpu_close(struct pyvmm_vcpu *vcpu);
int64_t pyvmm_vcpu_run(struct pyvmm_vcpu *vcpu);
/* PYVMM_INTERRUPTED also for an exit that did not have to go to Python; for single steps. */
int64_t pyvmm_vcpu_run_once(struct pyvmm_vcpu *vcpu);
int pyvmm_vcpu_complete(struct pyvmm_vcpu *vcpu);
/* Whether an exit is kept for pyvmm_vcpu_run that nobody has seen yet. */
int pyvmm_vcpu_keeps_exit(const struct pyvmm_vcpu *vcpu);
/*
 * Before all of the vCPU's state is replaced: has the kernel finish what an exit left under way,
 * whatever that does to the old state. Exits are forgotten.
 */
int pyvmm_vcpu_drop_exit(struct pyvmm_vcpu *vcpu);
void pyvmm_vcpu_kick(struct pyvmm_vcpu *vcpu);
/*
 * Answers to the exit that pyvmm_vcpu_run returned last, once each, before the vCPU runs again.
 * -ENOENT: that exit asks for no such answer, or has it already; -EINVAL: not the size asked for.
 */
int pyvmm_vcpu_answer(struct pyvmm_vcpu *vcpu, const char *data, uint64_t size);
int pyvmm_vcpu_answer_hypercall(struct pyvmm_vcpu *vcpu, uint64_t value);
int pyvmm_vcpu_answer_msr(struct pyvmm_vcpu *vcpu, uint64_t value, int fault);
/* The code that pyvmm_vcpu_run would return for the contents of `run` (for tests as well). */
int64_t pyvmm_exit_code(const struct kvm_run *run, uint64_t run_size, int run_errno);

/* Lives as long as the vCPU; to be read by the thread that runs it. */
const struct pyvmm_history *pyvmm_vcpu_history(const struct pyvmm_vcpu *vcpu);

/*
 * Empties the VM's ring of coalesced writes, which lies at `offset` in the mapping of any of its
 * vCPUs. `out` has room for PYVMM_COALESCED_ENTRIES. Returns how many; -EBADF on a closed vCPU.
 * May be called from any thread.
 */
int64_t pyvmm_vcpu_take_coalesced(struct pyvmm_vcpu *vcpu, uint64_t offset,
                                  struct kvm_coalesced_mmio *out);

/* For measurements: runs `exits` exits in C alone, whatever they are; as the loop above does. */
int64_t pyvmm_vcpu_run_many(struct pyvmm_vcpu *vcpu, uint64_t exits);
/* The signal that kicks are sent by. */
int pyvmm_kick_signal(void);
