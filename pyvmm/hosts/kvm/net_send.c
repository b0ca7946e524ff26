/* SPDX-License-Identifier: MIT */
/*
 * Frames of the driver's, to a tap. A header is copied, and what is copied is looked at and sent. The guest may
 * change a frame at any time: nothing outside of it is computed from it.
 */
#define _GNU_SOURCE
#include "net_queue_inside.h"

#include <errno.h>
#include <poll.h>

/* Sends a frame of `size` bytes that is leased. GO_ON: it was sent, or cannot be. */
static int send_leased(struct pyvmm_net_queue *queue, uint64_t size)
{
    struct pyvmm_buffers *readable = &queue->ring.readable;
    uint8_t head[HEAD_SIZE] = {0};
    int count = 0;
    pyvmm_net_copy(readable, 0, 0, &queue->header, HEADER_SIZE, false);
    if (queue->header.kind != SEGMENTS_NONE)
        pyvmm_net_copy(readable, 0, HEADER_SIZE, head, size < HEAD_SIZE ? size : HEAD_SIZE, false);
    if (!pyvmm_net_check_outgoing(queue, &queue->header, head, size))
        return GO_ON;
    queue->vector[count++] = (struct iovec){&queue->header, HEADER_SIZE};
    pyvmm_net_add_rows(queue, readable, 0, readable->count, HEADER_SIZE, size, &count);
    for (;;) {
        if (writev(queue->setup.tap, queue->vector, count) >= 0)
            return GO_ON;
        switch (errno) {
        case EINTR:
            continue;
        case EAGAIN:
            return NOT_NOW;
        case EINVAL: /* not a frame after all, as the kernel sees it */
        case EIO:    /* the tap is down */
        case ENOBUFS:
        case ENOMEM:
            return GO_ON;
        default:
            return PYVMM_SPLIT_ODD_CHAIN;
        }
    }
}

static int send_next(struct pyvmm_net_queue *queue)
{
    struct pyvmm_split_queue *ring = &queue->ring;
    struct pyvmm_chain chain;
    ring->readable.count = ring->writable.count = 0;
    int result = pyvmm_split_read(ring, 0, &chain);
    if (result != GO_ON)
        return result;
    if (ring->writable.count != 0 || ring->readable.count > MOST_ROWS || chain.bytes < HEADER_SIZE)
        return PYVMM_SPLIT_ODD_CHAIN;
    int64_t number = pyvmm_split_lease(ring, &ring->readable, false);
    if (number <= 0)
        return pyvmm_split_refusal(number);
    result = send_leased(queue, chain.bytes - HEADER_SIZE);
    pyvmm_split_give_back(ring, number);
    if (result != GO_ON)
        return result;
    pyvmm_split_put_used(ring, 0, &chain, 0);
    pyvmm_split_publish(ring, 1, chain.bytes);
    return GO_ON;
}

static int send_batch(struct pyvmm_split_queue *ring)
{
    struct pyvmm_net_queue *queue = (struct pyvmm_net_queue *)ring;
    uint64_t before = ring->bytes;
    for (uint32_t i = 0; i < BATCH_CHAINS && ring->bytes - before < BATCH_BYTES; i++) {
        int result = pyvmm_split_is_kicked(ring) ? PYVMM_SPLIT_KICKED : send_next(queue);
        if (result != GO_ON)
            return result;
    }
    return GO_ON;
}

static void wait_to_send(struct pyvmm_split_queue *ring, int result)
{
    if (result == NOT_NOW)
        pyvmm_split_wait_for(ring, ((struct pyvmm_net_queue *)ring)->setup.tap, POLLOUT, -1);
    else
        pyvmm_split_wait(ring, result);
}

const struct pyvmm_split_kind pyvmm_net_sends = {send_batch, wait_to_send};
