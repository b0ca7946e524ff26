/* SPDX-License-Identifier: MIT */
/*
 * The plain frames of a virtio network queue. See net_queue.h, and pyvmm/machine/virtio/net.py, which says the
 * same in Python. A header that the guest has written is copied, and what is copied is looked at and sent. The
 * guest may change a frame at any time: nothing outside of it is computed from it.
 */
#define _GNU_SOURCE
#include "net_queue.h"
#include "split_queue_inside.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#define HEADER_SIZE 12
/* Bytes of the header in which the number of chains is. */
#define COUNT_OFFSET 10
#define LEAST_FRAME 14
#define MOST_FRAME (14 + 65536)
#define LEAST (HEADER_SIZE + LEAST_FRAME)
#define MOST (HEADER_SIZE + MOST_FRAME)

/* As many chains are leased at once, or as many as the longest frame takes. */
#define FEW_CHAINS 16
#define MOST_CHAINS 256
/* A header of our own before buffers, and memory of our own behind them. */
#define MOST_ROWS (IOV_MAX - 2)

/* A chain that is leased, and where in the rows of `ring.writable` it ends. */
struct leased {
    struct pyvmm_chain chain;
    uint32_t end;
};

struct pyvmm_net_queue {
    struct pyvmm_split_queue ring;
    struct pyvmm_net_setup setup;
    /* Of frames that come: chains whose buffers are leased, `next` of them already given back. */
    struct leased chains[MOST_CHAINS];
    uint16_t count, next;
    uint64_t room; /* bytes of those that are left */
    int64_t lease;
    struct iovec vector[IOV_MAX];
    uint8_t header[HEADER_SIZE];
    uint8_t scratch[MOST]; /* for what chains have no room for */
};

struct pyvmm_net_queue *pyvmm_net_new(struct pyvmm_conversions *conversions,
                                      const struct pyvmm_split_setup *ring,
                                      const struct pyvmm_net_setup *setup)
{
    struct pyvmm_net_queue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL)
        return NULL;
    queue->setup = *setup;
    if (pyvmm_split_init(&queue->ring, conversions, ring) < 0) {
        free(queue);
        return NULL;
    }
    return queue;
}

void pyvmm_net_free(struct pyvmm_net_queue *queue)
{
    pyvmm_split_destroy(&queue->ring);
    free(queue);
}

struct pyvmm_split_queue *pyvmm_net_ring(struct pyvmm_net_queue *queue)
{
    return &queue->ring;
}

/*
 * Appends rows to the vector, without the first `skipped` bytes of them, until it has `wanted` bytes. Returns
 * the bytes of it.
 */
static uint64_t add_rows(struct pyvmm_net_queue *queue, const struct pyvmm_buffers *buffers,
                         uint32_t first, uint32_t end, uint64_t skipped, uint64_t wanted, int *count)
{
    uint64_t total = 0;
    for (uint32_t i = first; i < end && total < wanted && i - first < MOST_ROWS; i++) {
        uint64_t length = buffers->rows[2 * i + 1];
        uint64_t left_out = skipped < length ? skipped : length;
        skipped -= left_out;
        if (left_out == length)
            continue;
        queue->vector[(*count)++] =
            (struct iovec){buffers->at[i] + left_out, length - left_out};
        total += length - left_out;
    }
    return total;
}

/* Writes a header to the beginning of the rows. */
static void put_header(const struct pyvmm_buffers *buffers, uint32_t row, const uint8_t *header)
{
    for (uint64_t left = HEADER_SIZE; left != 0; row++) {
        uint64_t length = buffers->rows[2 * row + 1];
        uint64_t piece = length < left ? length : left;
        memcpy(buffers->at[row], header, piece);
        header += piece;
        left -= piece;
    }
}

/* -- frames of the driver's -- */

/* Sends what is leased. GO_ON: it was sent, or cannot be. */
static int send_leased(struct pyvmm_net_queue *queue)
{
    const struct pyvmm_buffers *readable = &queue->ring.readable;
    int count = 0;
    memset(queue->header, 0, HEADER_SIZE);
    queue->header[COUNT_OFFSET] = 1;
    queue->vector[count++] = (struct iovec){queue->header, HEADER_SIZE};
    add_rows(queue, readable, 0, readable->count, HEADER_SIZE, MOST, &count);
    for (;;) {
        if (writev(queue->setup.tap, queue->vector, count) >= 0)
            return GO_ON;
        switch (errno) {
        case EINTR:
            continue;
        case EAGAIN:
            return NOT_NOW;
        case EINVAL:   /* not a frame after all, as the kernel sees it */
        case EIO:      /* the tap is down */
        case ENOBUFS:  /* as a wire that drops */
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
    if (ring->writable.count != 0 || ring->readable.count > MOST_ROWS || chain.bytes < LEAST ||
        chain.bytes > MOST)
        return PYVMM_SPLIT_ODD_CHAIN;
    int64_t number = pyvmm_split_lease(ring, &ring->readable, false);
    if (number <= 0)
        return pyvmm_split_refusal(number);
    result = send_leased(queue);
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
        pyvmm_split_wait_for(ring, ((struct pyvmm_net_queue *)ring)->setup.tap, POLLOUT);
    else
        pyvmm_split_wait(ring, result);
}

/* -- frames for the driver -- */

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
    if (!queue->setup.merges)
        return queue->next < queue->count;
    return queue->room >= HEADER_SIZE + (uint64_t)queue->setup.most;
}

/* Adds the chain behind those that there are. */
static int add_chain(struct pyvmm_net_queue *queue)
{
    struct pyvmm_split_queue *ring = &queue->ring;
    struct leased *one = &queue->chains[queue->count];
    uint32_t before = ring->writable.count;
    int result = pyvmm_split_read(ring, queue->count, &one->chain);
    if (result != GO_ON)
        return result;
    one->end = ring->writable.count;
    if (ring->readable.count != 0 || one->chain.bytes <= HEADER_SIZE ||
        one->end - before > MOST_ROWS) {
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
    while (result == GO_ON && queue->count < MOST_CHAINS &&
           (queue->count < FEW_CHAINS || !is_enough(queue)))
        result = add_chain(queue);
    while (queue->count != 0) {
        int64_t number = pyvmm_split_lease(ring, &ring->writable, true);
        if (number > 0) {
            queue->lease = number;
            return GO_ON;
        }
        result = pyvmm_split_refusal(number);
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
    if (queue->setup.offloads == 0)
        memset(queue->header, 0, COUNT_OFFSET);
    memcpy(queue->header + COUNT_OFFSET, &used, sizeof(used));
    put_header(&ring->writable, row, queue->header);
    queue->next += used;
    pyvmm_split_publish(ring, used, size);
}

/* Takes a frame from the tap, for the driver or to be dropped. */
static int receive_next(struct pyvmm_net_queue *queue)
{
    uint32_t first = first_row(queue);
    uint32_t end = queue->chains[queue->setup.merges ? queue->count - 1 : queue->next].end;
    int count = 0;
    queue->vector[count++] = (struct iovec){queue->header, HEADER_SIZE};
    uint64_t room = HEADER_SIZE + add_rows(queue, &queue->ring.writable, first, end, HEADER_SIZE,
                                           MOST_FRAME, &count);
    queue->vector[count++] = (struct iovec){queue->scratch, sizeof(queue->scratch)};
    ssize_t size;
    do
        size = readv(queue->setup.tap, queue->vector, count);
    while (size < 0 && errno == EINTR);
    if (size < 0 && errno == EAGAIN)
        return NOT_NOW;
    if (size <= 0)
        return PYVMM_SPLIT_ODD_CHAIN;
    if (size >= LEAST && (uint64_t)size <= room)
        give(queue, (uint64_t)size);
    return GO_ON;
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
            result = receive_next(queue);
        if (result != GO_ON)
            break;
    }
    let_go(queue);
    return result;
}

static void wait_to_receive(struct pyvmm_split_queue *ring, int result)
{
    if (result == NOT_NOW)
        pyvmm_split_wait_for(ring, ((struct pyvmm_net_queue *)ring)->setup.tap, POLLIN);
    else
        pyvmm_split_wait(ring, result);
}

static const struct pyvmm_split_kind SENDS = {send_batch, wait_to_send};
static const struct pyvmm_split_kind RECEIVES = {receive_batch, wait_to_receive};

int pyvmm_net_run(struct pyvmm_net_queue *queue, bool waits)
{
    return pyvmm_split_run(&queue->ring, queue->setup.receives ? &RECEIVES : &SENDS, waits);
}
