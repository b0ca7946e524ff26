/* SPDX-License-Identifier: MIT */
/*
 * The plain frames of one queue of a virtio network device (split ring), between a tap and guest memory,
 * moved by a thread that needs no Python. cffi reads this file as well (see kvm_abi.h).
 *
 * Plain: a frame with a header that does not lie about it, in a chain that is for frames, of shared memory.
 */
#ifndef PYVMM_CDEF
#pragma once
#include "split_queue.h"
#endif

struct pyvmm_net_setup {
    int32_t tap;    /* does not block, and gives each frame a header of 12 bytes; stays its owner's */
    uint32_t most;  /* bytes of the longest frame that is to be expected, without the header */
    uint32_t offloads; /* TUN_F_..., see linux/if_tun.h: what headers may ask for */
    bool receives;  /* frames are the driver's to take, not its own */
    bool merges;    /* a frame that comes may lie in several chains */
};

struct pyvmm_net_queue;

/* NULL with errno. The conversions outlive it. */
struct pyvmm_net_queue *pyvmm_net_new(struct pyvmm_conversions *conversions,
                                      const struct pyvmm_split_setup *ring,
                                      const struct pyvmm_net_setup *setup);
/* No run is under way. */
void pyvmm_net_free(struct pyvmm_net_queue *queue);
/* Its ring, which is there as long as it is. */
struct pyvmm_split_queue *pyvmm_net_ring(struct pyvmm_net_queue *queue);
/* Serves the queue until one of split_queue.h's reasons; `waits` for more frames. One thread at a time. */
int pyvmm_net_run(struct pyvmm_net_queue *queue, bool waits);
