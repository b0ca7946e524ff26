/* SPDX-License-Identifier: MIT */
/* A split virtqueue as those have it who serve one kind of device: block_queue.c, net_queue.c. */
#pragma once
#include "split_queue.h"

#include <stddef.h>

/* A lease has as many ranges (machine/leases.MOST_RANGES), and so has a chain. */
#define MOST_BUFFERS 1024
#define MOST_BYTES (1ULL << 32)

/* How long the ring is leased: a conversion of it waits for the end of that. */
#define BATCH_CHAINS 64
#define BATCH_BYTES (1ULL << 20)

/* Beside the reasons of split_queue.h: none. */
#define GO_ON (-1)
/* Nor this: what is waited for is not the driver's next chain. */
#define NOT_NOW (-2)

struct pyvmm_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct pyvmm_buffers {
    uint64_t rows[2 * MOST_BUFFERS]; /* GPA and length of each */
    uint8_t *at[MOST_BUFFERS];
    uint32_t count;
};

struct pyvmm_chain {
    uint16_t head;
    uint64_t bytes;
};

/* The first member of whatever serves a kind of device. */
struct pyvmm_split_queue {
    struct pyvmm_conversions *conversions;
    struct pyvmm_split_setup setup;
    int kick;
    int kicked;
    uint16_t left; /* chains that were looked at and left, where they are not enough */
    uint64_t requests, bytes;
    uint8_t *descriptors, *driver, *device;
    struct pyvmm_buffers readable, writable;
    struct pyvmm_descriptor table[MOST_BUFFERS];
};

/* A kind of device. Both are given what pyvmm_split_run was. */
struct pyvmm_split_kind {
    /*
     * Serves what waits, with the ring leased, for a batch at the most. GO_ON: there may be more. IDLE: there
     * is nothing behind the `left` chains from the position on.
     */
    int (*serve)(struct pyvmm_split_queue *queue);
    /* Waits for work, or a kick, with nothing leased; `result` is IDLE or NOT_NOW. */
    void (*wait)(struct pyvmm_split_queue *queue, int result);
};

/* A negative errno. The conversions outlive it. */
int pyvmm_split_init(struct pyvmm_split_queue *queue, struct pyvmm_conversions *conversions,
                     const struct pyvmm_split_setup *setup);
/* No run is under way. */
void pyvmm_split_destroy(struct pyvmm_split_queue *queue);
/* Serves the queue until one of the reasons above; `waits` for more chains. One thread at a time. */
int pyvmm_split_run(struct pyvmm_split_queue *queue, const struct pyvmm_split_kind *kind, bool waits);
bool pyvmm_split_is_kicked(struct pyvmm_split_queue *queue);
/* Waits for the guest's notification or a kick. */
void pyvmm_split_wait(struct pyvmm_split_queue *queue, int result);
/*
 * Waits until `fd` is ready for `events` of poll(2), for a kick, or that many milliseconds (-1: no end).
 * Returns whether it was long enough.
 */
bool pyvmm_split_wait_for(struct pyvmm_split_queue *queue, int fd, short events, int milliseconds);

/*
 * With the ring leased: appends the buffers of the chain that is `ahead` of the position to `readable` and
 * `writable`, or none of them. GO_ON, or a reason to stop: IDLE where there is no such chain.
 */
int pyvmm_split_read(struct pyvmm_split_queue *queue, uint16_t ahead, struct pyvmm_chain *chain);
/* Writes the entry of the used ring that is `ahead` of the position: nobody looks at it yet. */
void pyvmm_split_put_used(struct pyvmm_split_queue *queue, uint16_t ahead,
                          const struct pyvmm_chain *chain, uint32_t written);
/* Gives the driver that many chains, whose entries are there, at once. */
void pyvmm_split_publish(struct pyvmm_split_queue *queue, uint16_t chains, uint64_t bytes);

/* Leases all of them; the number of the lease, or what pyvmm_held_lease says. */
int64_t pyvmm_split_lease(struct pyvmm_split_queue *queue, struct pyvmm_buffers *buffers,
                          bool writable);
/* Returns whether a conversion waits for some lease, which is seen to at the end of a batch. */
bool pyvmm_split_give_back(struct pyvmm_split_queue *queue, int64_t number);
/* The reason to stop that a refused lease of a chain's buffers is. */
int pyvmm_split_refusal(int64_t number);
