/* SPDX-License-Identifier: MIT */
/*
 * A split virtqueue whose plain chains are served by a thread that needs no Python, whatever its device is.
 * cffi reads this file as well (see kvm_abi.h).
 *
 * Everything that is not plain is left as it is, and Python does it.
 */
#ifndef PYVMM_CDEF
#pragma once
#include "conversions.h"
#endif

/* Why a run has ended. */
#define PYVMM_SPLIT_KICKED 0
/* The chain at the position is Python's. */
#define PYVMM_SPLIT_ODD_CHAIN 1
/* The ring cannot be understood, or is not where it was. */
#define PYVMM_SPLIT_BROKEN 2
/* A conversion waits for a lease that has been given back, or will not let one be given; or too many are. */
#define PYVMM_SPLIT_VACATING 3
/* There is nothing to be done: only where the run was not to wait. */
#define PYVMM_SPLIT_IDLE 4

/* GPAs of the three parts of a split ring; descriptors of the fds stay their owner's. */
struct pyvmm_split_setup {
    uint64_t descriptors;
    uint64_t driver;
    uint64_t device;
    uint32_t size;
    uint16_t available; /* the position to begin at: free-running numbers */
    uint16_t used;
    int32_t doorbell;  /* an eventfd that the guest's notifications signal */
    int32_t interrupt; /* an eventfd; written when the driver wants to be told */
    bool indirect;
    bool event_index;
};

struct pyvmm_split_counts {
    uint64_t requests;
    uint64_t bytes;
};

struct pyvmm_split_queue;

/* Ends the run that is under way, or the next one at once. Any thread. */
void pyvmm_split_kick(struct pyvmm_split_queue *queue);
/* The position, between two runs. */
uint16_t pyvmm_split_available(const struct pyvmm_split_queue *queue);
uint16_t pyvmm_split_used(const struct pyvmm_split_queue *queue);
/* Any thread; a moment's figures. */
struct pyvmm_split_counts pyvmm_split_counted(const struct pyvmm_split_queue *queue);
