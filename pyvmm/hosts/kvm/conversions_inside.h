/* SPDX-License-Identifier: MIT */
/* A VM's conversions, for conversions.c and the lock that it shares with held.c. */
#pragma once
#include "conversions.h"
#include "held.h"

#include <pthread.h>

struct pyvmm_conversions {
    uint32_t served; /* how many spans; written under `lock`, read without it as a hint */
    pthread_mutex_t lock;
    uint32_t waiting;      /* threads that wait for the lock, changed without it as well */
    uint32_t awaiting;     /* threads that wait for a conversion to end */
    uint64_t turns;        /* how often a thread that waited has had the lock */
    uint64_t ends;         /* how many conversions in steps have ended */
    pthread_cond_t turned; /* `turns` has gone up */
    pthread_cond_t ended;  /* `ends` has gone up */
    int vm_fd;             /* -1 once closed */
    struct pyvmm_served_span spans[PYVMM_SERVED_SPANS];
    struct pyvmm_held *held;
    uint32_t journalled; /* how many entries the journal has */
    struct pyvmm_converted journal[PYVMM_JOURNAL_ENTRIES];
};

/* [gpa, gpa + size) is to be private, or shared. */
struct request {
    uint64_t gpa;
    uint64_t size;
    bool to_private;
};

#define PYVMM_ATTRIBUTE_PRIVATE (1ULL << 3)

/* These are done again where a signal has interrupted them; errno says why they failed. */

/* KVM_SET_MEMORY_ATTRIBUTES of the VM. */
bool pyvmm_conversion_of_vm(int vm_fd, const struct request *request);
/*
 * The ioctl of the span's guest_memfd: contents stay. EAGAIN, where somebody holds a page, is
 * Python's: it waits, and says which page.
 */
bool pyvmm_conversion_in_file(const struct pyvmm_served_span *span, const struct request *request);
/* Gives the pages of the side back that the request leaves. */
bool pyvmm_conversion_discard(const struct pyvmm_served_span *span, const struct request *request);
