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
#include "split_queue.h"
#endif

struct pyvmm_block_setup {
    uint64_t capacity; /* bytes */
    int32_t file;      /* stays its owner's */
    bool read_only;
    bool flushes; /* a flush is plain */
};

struct pyvmm_block_queue;

/* NULL with errno. The conversions outlive it. */
struct pyvmm_block_queue *pyvmm_block_new(struct pyvmm_conversions *conversions,
                                          const struct pyvmm_split_setup *ring,
                                          const struct pyvmm_block_setup *setup);
/* No run is under way. */
void pyvmm_block_free(struct pyvmm_block_queue *queue);
/* Its ring, which is there as long as it is. */
struct pyvmm_split_queue *pyvmm_block_ring(struct pyvmm_block_queue *queue);
/* Serves the queue until one of split_queue.h's reasons; `waits` for more chains. One thread at a time. */
int pyvmm_block_run(struct pyvmm_block_queue *queue, bool waits);
/* Whether a write is done only when it outlives a crash of the host. Any thread. */
void pyvmm_block_set_durable(struct pyvmm_block_queue *queue, bool durable);
/* The errno of a flush that has failed, between two runs; 0 for none. It is told of nowhere else. */
int pyvmm_block_flush_error(const struct pyvmm_block_queue *queue);
