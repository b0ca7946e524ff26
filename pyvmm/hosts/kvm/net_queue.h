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

/* TUN_F_USO4 and TUN_F_USO6 (Linux 6.2): together, since a header does not tell them apart. */
#define PYVMM_NET_USO 0x60

struct pyvmm_net_setup {
    int32_t tap;       /* does not block, and gives each frame a header of 12 bytes; stays its owner's */
    uint32_t most;     /* bytes, without the header, of the longest frame that is sent uncut, or to be expected */
    uint32_t offloads; /* TUN_F_..., see linux/if_tun.h: what headers may ask for */
    bool receives;     /* frames are for the driver, not from it */
    bool merges;       /* a frame for the driver may lie in several chains */
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
