/* SPDX-License-Identifier: MIT */
/* A VM's conversions, for conversions.c and the lock that it shares with held.c. */
#pragma once
#include "conversions.h"
#include "held.h"

#include <pthread.h>

struct pyvmm_conversions {
    uint32_t served; /* how many spans; written under `lock`, read without it as a hint */
    pthread_mutex_t lock;
    int vm_fd; /* -1 once closed */
    struct pyvmm_served_span spans[PYVMM_SERVED_SPANS];
    struct pyvmm_held *held;
    uint32_t journalled; /* how many entries the journal has */
    struct pyvmm_converted journal[PYVMM_JOURNAL_ENTRIES];
};
