/* SPDX-License-Identifier: MIT */
/* A network device's queue as its three parts have it: net_queue.c, net_send.c, net_receive.c. */
#pragma once
#include "net_queue.h"
#include "split_queue_inside.h"

#include <limits.h>
#include <sys/uio.h>

#define HEADER_SIZE 12
#define LEAST_FRAME 14
#define MOST_FRAME (14 + 65536)
#define LEAST (HEADER_SIZE + LEAST_FRAME)
#define MOST (HEADER_SIZE + MOST_FRAME)
/* A frame that is not to be cut (virtio 1.2, 5.1.6). */
#define SEGMENTS_NONE 0
/* Bytes of a VLAN's tag. */
#define TAG_SIZE 4
/* Bytes of a frame that are looked at: up to its type behind two tags. */
#define HEAD_SIZE (LEAST_FRAME + 2 * TAG_SIZE)

/* As many chains of frames to come are leased at the most. */
#define MOST_CHAINS 256
/* A header of our own before buffers, and memory of our own behind them. */
#define MOST_ROWS (IOV_MAX - 2)

/* As it is in memory: little-endian, as this machine. */
struct pyvmm_net_header {
    uint8_t flags;
    uint8_t kind;
    uint16_t header_length;
    uint16_t segment; /* bytes of each segment's payload */
    uint16_t start;   /* from the frame's first byte on */
    uint16_t offset;  /* from `start` on */
    uint16_t chains;
};

/* A chain that is leased, and where in the rows of `ring.writable` it ends. */
struct pyvmm_net_leased {
    struct pyvmm_chain chain;
    uint32_t end;
};

struct pyvmm_net_queue {
    struct pyvmm_split_queue ring;
    struct pyvmm_net_setup setup;
    /* Of frames that come: chains whose buffers are leased, `next` of them already given back. */
    struct pyvmm_net_leased chains[MOST_CHAINS];
    uint16_t count, next;
    uint64_t room; /* bytes of those that are left */
    int stopped;   /* why there are no more of them; GO_ON: more than there have to be */
    uint64_t held; /* bytes of a frame in `scratch` that waits for chains; 0: none does */
    int64_t lease;
    struct iovec vector[IOV_MAX];
    struct pyvmm_net_header header;
    uint8_t scratch[MOST]; /* for what chains have no room for */
};

extern const struct pyvmm_split_kind pyvmm_net_sends, pyvmm_net_receives;

/*
 * Appends rows to the vector, without the first `skipped` bytes of them, until it has `wanted` bytes. Returns
 * the bytes of it.
 */
uint64_t pyvmm_net_add_rows(struct pyvmm_net_queue *queue, const struct pyvmm_buffers *buffers,
                            uint32_t first, uint32_t end, uint64_t skipped, uint64_t wanted,
                            int *count);
/* Copies bytes to the rows that begin at `row`, or out of them, and leaves the first `skipped` out. */
void pyvmm_net_copy(const struct pyvmm_buffers *buffers, uint32_t row, uint64_t skipped, void *bytes,
                    uint64_t size, bool into);
/*
 * Makes `header`, which the driver has written before a frame of `size` bytes, one that says no more than is so.
 * `head` are the frame's first bytes, and zeroes behind its end. Returns whether there is one.
 */
bool pyvmm_net_check_outgoing(const struct pyvmm_net_queue *queue, struct pyvmm_net_header *header,
                              const uint8_t *head, uint64_t size);
/* Makes a tap's header one for the driver. Returns whether the driver does all that it asks for. */
bool pyvmm_net_check_incoming(const struct pyvmm_net_queue *queue, struct pyvmm_net_header *header);
