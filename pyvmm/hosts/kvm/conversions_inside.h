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
