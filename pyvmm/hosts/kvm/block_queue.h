/* SPDX-License-Identifier: MIT */
/*
 * The plain requests of a virtio block queue (split ring), served by a thread that needs no Python. cffi
 * reads this file as well (see kvm_abi.h). Functions that can fail return a negative errno.
 *
 * Plain: IN, OUT and FLUSH, well-formed, on the disk, of shared memory, and without an error of the
 * host's. Everything else is left as it is, and Python does it.
 */
#ifndef PYVMM_CDEF
#pragma once
#include "conversions.h"
#endif

/* Why a run has ended. */
#define PYVMM_BLOCK_KICKED 0
/* The chain at the position is Python's. */
#define PYVMM_BLOCK_ODD_CHAIN 1
/* The ring cannot be understood, or is not where it was. */
#define PYVMM_BLOCK_BROKEN 2
/* A conversion waits for a lease that has been given back, or will not let one be given; or too many are. */
#define PYVMM_BLOCK_VACATING 3
/* There is nothing to be done: only where the run was not to wait. */
#define PYVMM_BLOCK_IDLE 4

/* GPAs of the three parts of a split ring; descriptors of the fds stay their owner's. */
struct pyvmm_block_setup {
    uint64_t descriptors;
    uint64_t driver;
    uint64_t device;
    uint64_t capacity; /* bytes */
    uint32_t size;
    uint16_t available; /* the position to begin at: free-running numbers */
    uint16_t used;
    int32_t file;
    int32_t doorbell;  /* an eventfd that the guest's notifications signal */
    int32_t interrupt; /* an eventfd; written when the driver wants to be told */
    bool indirect;
    bool event_index;
    bool read_only;
    bool flushes; /* a flush is plain */
};

struct pyvmm_block_counts {
    uint64_t requests;
    uint64_t bytes;
};

struct pyvmm_block_queue;

/* NULL with errno. The conversions outlive it. */
struct pyvmm_block_queue *pyvmm_block_new(struct pyvmm_conversions *conversions,
                                          const struct pyvmm_block_setup *setup);
/* No run is under way. */
void pyvmm_block_free(struct pyvmm_block_queue *queue);
/* Serves the queue until one of the reasons above; `waits` for more chains. One thread at a time. */
int pyvmm_block_run(struct pyvmm_block_queue *queue, bool waits);
/* Ends the run that is under way, or the next one at once. Any thread. */
void pyvmm_block_kick(struct pyvmm_block_queue *queue);
/* Whether a write is done only when it outlives a crash of the host. Any thread. */
void pyvmm_block_set_durable(struct pyvmm_block_queue *queue, bool durable);
/* The position, between two runs. */
uint16_t pyvmm_block_available(const struct pyvmm_block_queue *queue);
uint16_t pyvmm_block_used(const struct pyvmm_block_queue *queue);
/* The errno of a flush that has failed, between two runs; 0 for none. It is told of nowhere else. */
int pyvmm_block_flush_error(const struct pyvmm_block_queue *queue);
/* Any thread; a moment's figures. */
struct pyvmm_block_counts pyvmm_block_counted(const struct pyvmm_block_queue *queue);
