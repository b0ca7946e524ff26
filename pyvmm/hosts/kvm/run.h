/*
 * The exit path: one vCPU's KVM_RUN loop, kicks, posted port accesses, the record of exits.
 *
 * cffi reads this file as well (see kvm_abi.h). Functions that can fail return a negative errno.
 */
#ifndef PYVMM_CDEF
#pragma once
#include "kvm_abi.h"
#endif

struct pyvmm_posted;
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

#define PYVMM_POST_WRITE 0x100
#define PYVMM_POST_READ 0x200

#define PYVMM_RECORDS 32
#define PYVMM_REASONS 64
#define PYVMM_POSTED_CAPACITY 65536

struct pyvmm_record {
    uint64_t address;
    uint64_t value;
    uint64_t count;
    uint32_t reason;
    uint32_t size;
    uint32_t is_write;
    uint32_t pad;
};

struct pyvmm_posted_write {
    uint16_t port;
    uint8_t value;
    uint8_t pad;
};

/* One per VM. The capacity in entries is a power of two, at most PYVMM_POSTED_CAPACITY. */
struct pyvmm_posted *pyvmm_posted_new(uint32_t capacity);
void pyvmm_posted_free(struct pyvmm_posted *posted);
/* Closes the eventfd; further writes are still taken, but nobody is woken. */
void pyvmm_posted_close(struct pyvmm_posted *posted);
int pyvmm_posted_eventfd(struct pyvmm_posted *posted);
/* `rule`: PYVMM_POST_WRITE | PYVMM_POST_READ | the byte that a read gives. */
void pyvmm_posted_set_rule(struct pyvmm_posted *posted, uint16_t port, uint16_t rule);
/* Takes up to `room` entries; returns how many. Makes the eventfd unreadable. */
uint32_t pyvmm_posted_drain(struct pyvmm_posted *posted, struct pyvmm_posted_write *out,
                            uint32_t room);

/* `run` of `run_size` bytes is the mapping of the vCPU's fd, which pyvmm_vcpu_close unmaps. */
struct pyvmm_vcpu *pyvmm_vcpu_new(int fd, struct kvm_run *run, uint64_t run_size,
                                  struct pyvmm_posted *posted);
void pyvmm_vcpu_free(struct pyvmm_vcpu *vcpu);
/* -EBUSY while a thread is inside pyvmm_vcpu_run. After it, kicks do nothing. */
int pyvmm_vcpu_close(struct pyvmm_vcpu *vcpu);
int64_t pyvmm_vcpu_run(struct pyvmm_vcpu *vcpu);
int pyvmm_vcpu_complete(struct pyvmm_vcpu *vcpu);
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

/* Copies the records, oldest first; `out` has room for PYVMM_RECORDS. Returns how many. */
uint32_t pyvmm_vcpu_records(const struct pyvmm_vcpu *vcpu, struct pyvmm_record *out);
/* `reason` PYVMM_REASONS stands for all reasons from there on. */
uint64_t pyvmm_vcpu_count(const struct pyvmm_vcpu *vcpu, uint32_t reason);
uint64_t pyvmm_vcpu_interrupted(const struct pyvmm_vcpu *vcpu);
uint64_t pyvmm_vcpu_posted_writes(const struct pyvmm_vcpu *vcpu);
uint64_t pyvmm_vcpu_posted_reads(const struct pyvmm_vcpu *vcpu);

/* System calls with the errno in the result. */
int64_t pyvmm_ioctl_value(int fd, uint64_t request, uint64_t argument);
int64_t pyvmm_ioctl_pointer(int fd, uint64_t request, void *argument);
int64_t pyvmm_map(int fd, uint64_t size, int flags);
int pyvmm_map_zeroes_over(uint64_t hva, uint64_t size);
int pyvmm_unmap(uint64_t hva, uint64_t size);
int pyvmm_fallocate(int fd, int mode, uint64_t offset, uint64_t size);

/* For measurements: runs `exits` exits in C alone, whatever they are; as the loop above does. */
int64_t pyvmm_vcpu_run_many(struct pyvmm_vcpu *vcpu, uint64_t exits);
/* The signal that kicks are sent by. */
int pyvmm_kick_signal(void);
