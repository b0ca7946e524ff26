/* SPDX-License-Identifier: MIT */
/* Frames of a tap's, for the driver: read into chains that are leased, several where they are merged. */
#define _GNU_SOURCE
#include "net_queue_inside.h"

#include <errno.h>
#include <poll.h>

/* As many chains are leased at once, or as many as the longest frame takes. */
#define FEW_CHAINS 16
/* How long a frame waits for chains that are enough for it. */
#define PATIENCE_MS 50

static uint32_t first_row(const struct pyvmm_net_queue *queue)
{
    return queue->next == 0 ? 0 : queue->chains[queue->next - 1].end;
}

static void let_go(struct pyvmm_net_queue *queue)
{
    pyvmm_split_give_back(&queue->ring, queue->lease);
    queue->lease = 0;
    queue->count = queue->next = 0;
    queue->room = 0;
}

/* Whether what is leased has room for a frame as they are to be expected. */
static bool is_enough(const struct pyvmm_net_queue *queue)
{
    uint64_t wanted = queue->held;
    if (!queue->setup.merges)
        return queue->next < queue->count;
    if (wanted == 0)
        wanted = HEADER_SIZE + (uint64_t)queue->setup.most;
    return queue->room >= wanted;
}

/* Adds the chain behind those that there are. */
static int add_chain(struct pyvmm_net_queue *queue)
{
    struct pyvmm_split_queue *ring = &queue->ring;
    struct pyvmm_net_leased *one = &queue->chains[queue->count];
    uint32_t before = ring->writable.count;
    int result = pyvmm_split_read(ring, queue->count, &one->chain);
    if (result != GO_ON)
        return result;
    one->end = ring->writable.count;
    if (ring->readable.count != 0 || one->end - before > MOST_ROWS) {
        ring->readable.count = 0;
        ring->writable.count = before;
        return PYVMM_SPLIT_ODD_CHAIN;
    }
    queue->room += one->chain.bytes;
    queue->count++;
    return GO_ON;
}

/* Leaves the chains out from the one on that has this row. */
static void cut(struct pyvmm_net_queue *queue, uint32_t row)
{
    while (queue->count != 0 && queue->chains[queue->count - 1].end > row) {
        queue->room -= queue->chains[queue->count - 1].chain.bytes;
        queue->count--;
    }
    queue->ring.writable.count = queue->count == 0 ? 0 : queue->chains[queue->count - 1].end;
}

/* Leases chains for frames to come. GO_ON: there is one at least. */
static int gather(struct pyvmm_net_queue *queue)
{
    struct pyvmm_split_queue *ring = &queue->ring;
    int result = GO_ON;
    ring->readable.count = ring->writable.count = 0;
    queue->stopped = GO_ON;
    while (result == GO_ON && queue->count < MOST_CHAINS &&
           (queue->count < FEW_CHAINS || !is_enough(queue)))
        result = add_chain(queue);
    queue->stopped = result;
    while (queue->count != 0) {
        int64_t number = pyvmm_split_lease(ring, &ring->writable, true);
        if (number > 0) {
            queue->lease = number;
            return GO_ON;
        }
        result = queue->stopped = pyvmm_split_refusal(number);
        cut(queue, result == PYVMM_SPLIT_VACATING ? 0 : (uint32_t)(-number / 16));
    }
    return result;
}

/* Gives the driver a frame that lies in the chains from `next` on, behind a header that is still to be written. */
static void give(struct pyvmm_net_queue *queue, uint64_t size)
{
    struct pyvmm_split_queue *ring = &queue->ring;
    uint16_t used = 0;
    uint32_t row = first_row(queue);
    for (uint64_t left = size; left != 0; used++) {
        const struct pyvmm_chain *chain = &queue->chains[queue->next + used].chain;
        uint32_t written = (uint32_t)(left < chain->bytes ? left : chain->bytes);
        pyvmm_split_put_used(ring, used, chain, written);
        left -= written;
        queue->room -= chain->bytes;
    }
    queue->header.chains = used;
    pyvmm_net_copy(&ring->writable, row, 0, &queue->header, HEADER_SIZE, true);
    queue->next += used;
    pyvmm_split_publish(ring, used, size);
}

/*
 * Gives the driver the frame that waits, or waits on: for a driver that has given all of its ring there is
 * nothing to wait for.
 */
static int give_held(struct pyvmm_net_queue *queue)
{
    uint64_t size = queue->held;
    if (queue->room < size) {
        if (queue->stopped == PYVMM_SPLIT_IDLE && queue->count < queue->ring.setup.size) {
            queue->ring.left = queue->count;
            return PYVMM_SPLIT_IDLE;
        }
        queue->held = 0;
        return GO_ON;
    }
    queue->held = 0;
    pyvmm_net_copy(&queue->ring.writable, first_row(queue), HEADER_SIZE,
                   queue->scratch + HEADER_SIZE, size - HEADER_SIZE, true);
    give(queue, size);
    return GO_ON;
}

/* Has a frame of which `room` bytes lie in chains, and the others where they belong in `scratch`, wait there. */
static void hold(struct pyvmm_net_queue *queue, uint64_t size, uint64_t room)
{
    pyvmm_net_copy(&queue->ring.writable, first_row(queue), HEADER_SIZE,
                   queue->scratch + HEADER_SIZE, room - HEADER_SIZE, false);
    queue->held = size;
}

/* Takes a frame from the tap, for the driver or to be dropped. */
static int receive_next(struct pyvmm_net_queue *queue)
{
    uint32_t first = first_row(queue);
    uint32_t end = queue->chains[queue->setup.merges ? queue->count - 1 : queue->next].end;
    int count = 0;
    queue->vector[count++] = (struct iovec){&queue->header, HEADER_SIZE};
    uint64_t room = HEADER_SIZE + pyvmm_net_add_rows(queue, &queue->ring.writable, first, end,
                                                     HEADER_SIZE, MOST_FRAME, &count);
    if (room < MOST)
        queue->vector[count++] = (struct iovec){queue->scratch + room, MOST - room};
    ssize_t size;
    do
        size = readv(queue->setup.tap, queue->vector, count);
    while (size < 0 && errno == EINTR);
    if (size < 0 && errno == EAGAIN)
        return NOT_NOW;
    if (size <= 0)
        return PYVMM_SPLIT_ODD_CHAIN;
    if (size < LEAST || !pyvmm_net_check_incoming(queue, &queue->header))
        return GO_ON;
    if ((uint64_t)size <= room)
        give(queue, (uint64_t)size);
    else if (queue->setup.merges)
        hold(queue, (uint64_t)size, room);
    return GO_ON;
}

/* Gives or takes one frame, with chains leased. */
static int move_next(struct pyvmm_net_queue *queue)
{
    if (queue->held != 0)
        return give_held(queue);
    if (queue->chains[queue->next].chain.bytes + queue->setup.merges <= HEADER_SIZE)
        return PYVMM_SPLIT_ODD_CHAIN;
    return receive_next(queue);
}

static int receive_batch(struct pyvmm_split_queue *ring)
{
    struct pyvmm_net_queue *queue = (struct pyvmm_net_queue *)ring;
    uint64_t before = ring->bytes;
    int result = GO_ON;
    for (uint32_t i = 0; i < BATCH_CHAINS && ring->bytes - before < BATCH_BYTES; i++) {
        if (pyvmm_split_is_kicked(ring))
            result = PYVMM_SPLIT_KICKED;
        else if (!is_enough(queue)) {
            let_go(queue);
            result = gather(queue);
        }
        if (result == GO_ON)
            result = move_next(queue);
        if (result != GO_ON)
            break;
    }
    let_go(queue);
    return result;
}

static void wait_to_receive(struct pyvmm_split_queue *ring, int result)
{
    struct pyvmm_net_queue *queue = (struct pyvmm_net_queue *)ring;
    if (result == NOT_NOW)
        pyvmm_split_wait_for(ring, queue->setup.tap, POLLIN, -1);
    else if (queue->held == 0)
        pyvmm_split_wait(ring, result);
    else if (pyvmm_split_wait_for(ring, ring->setup.doorbell, POLLIN, PATIENCE_MS))
        queue->held = 0;
}

const struct pyvmm_split_kind pyvmm_net_receives = {receive_batch, wait_to_receive};
