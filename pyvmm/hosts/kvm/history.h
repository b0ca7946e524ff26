/* SPDX-License-Identifier: MIT */
/*
 * What a vCPU did last, for the report that follows when something goes wrong. cffi reads this file
 * as well (see kvm_abi.h).
 */
#ifndef PYVMM_CDEF
#pragma once
#include "kvm_abi.h"
#include <stdbool.h>

/* Exit reasons and directions that the C code tells apart. */
#define KVM_EXIT_IO 2
#define KVM_EXIT_HYPERCALL 3
#define KVM_EXIT_MMIO 6
#define KVM_EXIT_INTERNAL_ERROR 17
#define KVM_EXIT_X86_RDMSR 29
#define KVM_EXIT_X86_WRMSR 30
#define KVM_EXIT_MEMORY_FAULT 39
#define KVM_EXIT_IO_OUT 1
#define KVM_INTERNAL_ERROR_EMULATION 1
#endif

#define PYVMM_RECORDS 32
#define PYVMM_REASONS 64

/*
 * One exit, or `count` of them that differ in nothing but the value, of which the first is kept;
 * `when` is the last one's time, CLOCK_MONOTONIC in ns.
 */
struct pyvmm_record {
    uint64_t when;
    uint64_t address;
    uint64_t value;
    uint64_t count;
    uint32_t reason;
    uint32_t size;
    uint32_t is_write;
    uint32_t pad;
};

struct pyvmm_history {
    uint32_t next; /* where the next record goes */
    uint32_t held; /* how many there are */
    struct pyvmm_record records[PYVMM_RECORDS];
    uint64_t counts[PYVMM_REASONS + 1]; /* by reason; the last one for all reasons above */
    uint64_t interrupted;
    uint64_t posted_writes;
    uint64_t posted_reads;
    uint64_t conversions;
    uint64_t hypercalls_completed;
};

/* Records the exit in `run`; its details only when it is `sound`. */
void pyvmm_history_add(struct pyvmm_history *history, const struct kvm_run *run, bool sound);
void pyvmm_history_count(struct pyvmm_history *history, uint32_t reason);
/* Copies the records, oldest first; `out` has room for PYVMM_RECORDS. Returns how many. */
uint32_t pyvmm_history_records(const struct pyvmm_history *history, struct pyvmm_record *out);
/* The number that the first `size` bytes, at most 8, make. */
uint64_t pyvmm_little_endian(const uint8_t *bytes, uint32_t size);
