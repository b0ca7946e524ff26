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

#include <linux/if_tun.h>

#define HEADER_SIZE 12
/* Bytes of the header in which the number of chains is. */
#define COUNT_OFFSET 10
#define LEAST_FRAME 14
#define MOST_FRAME (14 + 65536)
#define LEAST (HEADER_SIZE + LEAST_FRAME)
#define MOST (HEADER_SIZE + MOST_FRAME)

/* Flags and kinds of a header (virtio 1.2, 5.1.6). */
#define NEEDS_CHECKSUM 1
#define DATA_VALID 2
#define SEGMENTS_NONE 0
#define SEGMENTS_TCP4 1
#define SEGMENTS_TCP6 4
#define SEGMENTS_UDP 5
#define SEGMENTS_ECN 0x80
/* Bytes of what begins a segment, and where in it its checksum is. */
#define TCP_SIZE 20
#define TCP_CHECKSUM 16
#define UDP_SIZE 8
#define UDP_CHECKSUM 6
/* Ethernet types, as bytes in their order. */
#define IP4 0x0800
#define IP6 0x86dd
#define TAGGED 0x8100
#define TAGGED_TWICE 0x88a8
#define TAG_SIZE 4
/* Bytes of a frame that are looked at: up to its type behind two tags. */
#define HEAD_SIZE (LEAST_FRAME + 2 * TAG_SIZE)

/* As many chains are leased at once, or as many as the longest frame takes. */
#define FEW_CHAINS 16
#define MOST_CHAINS 256
/* How long a frame waits for chains that are enough for it. */
#define PATIENCE_MS 50
/* A header of our own before buffers, and memory of our own behind them. */
#define MOST_ROWS (IOV_MAX - 2)

/* As it is in memory: little-endian, as this machine. */
struct header {
    uint8_t flags;
    uint8_t kind;
    uint16_t header_length;
    uint16_t segment; /* bytes of each segment's payload */
    uint16_t start;   /* from the frame's first byte on */
    uint16_t offset;  /* from `start` on */
    uint16_t chains;
};

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
    int stopped;   /* why there are no more of them; GO_ON: more than there have to be */
    uint64_t held; /* bytes of a frame in `scratch` that waits for chains; 0: none does */
    int64_t lease;
    struct iovec vector[IOV_MAX];
    struct header header;
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

/* Copies bytes to the rows that begin at `row`, or out of them, and leaves the first `skipped` out. */
static void copy(const struct pyvmm_buffers *buffers, uint32_t row, uint64_t skipped, void *bytes,
                 uint64_t size, bool into)
{
    uint8_t *at = bytes;
    for (; size != 0; row++) {
        uint64_t length = buffers->rows[2 * row + 1];
        uint64_t left_out = skipped < length ? skipped : length;
        uint64_t piece = length - left_out < size ? length - left_out : size;
        uint8_t *there = buffers->at[row] + left_out;
        if (into)
            memcpy(there, at, piece);
        else
            memcpy(at, there, piece);
        skipped -= left_out;
        at += piece;
        size -= piece;
    }
}

/* -- headers; see pyvmm/devices/virtio/net_header.py -- */

static bool is_offloaded(const struct pyvmm_net_queue *queue, uint8_t kind)
{
    uint32_t needed = kind & SEGMENTS_ECN ? TUN_F_TSO_ECN : 0;
    switch (kind) {
    case SEGMENTS_TCP4:
    case SEGMENTS_TCP4 | SEGMENTS_ECN:
        needed |= TUN_F_TSO4;
        break;
    case SEGMENTS_TCP6:
    case SEGMENTS_TCP6 | SEGMENTS_ECN:
        needed |= TUN_F_TSO6;
        break;
    case SEGMENTS_UDP:
        needed |= PYVMM_NET_USO;
        break;
    default:
        return false;
    }
    return (queue->setup.offloads & needed) == needed;
}

/* The Ethernet type of a frame, behind up to two tags; `head` has zeroes behind its end. */
static uint16_t type_of(const uint8_t *head)
{
    const uint8_t *at = head + LEAST_FRAME - 2;
    uint16_t type = (uint16_t)(at[0] << 8 | at[1]);
    for (int i = 0; i < 2 && (type == TAGGED || type == TAGGED_TWICE); i++) {
        at += TAG_SIZE;
        type = (uint16_t)(at[0] << 8 | at[1]);
    }
    return type;
}

/* Whether a frame is one that can be cut as its header says. */
static bool is_of_kind(const struct header *header, const uint8_t *head, uint64_t size)
{
    uint16_t type = type_of(head);
    uint8_t kind = header->kind & (uint8_t)~SEGMENTS_ECN;
    bool is_udp = kind == SEGMENTS_UDP;
    if (header->offset != (is_udp ? UDP_CHECKSUM : TCP_CHECKSUM) ||
        header->start + (is_udp ? UDP_SIZE : TCP_SIZE) > (int64_t)size)
        return false;
    return (type == IP4 && kind != SEGMENTS_TCP6) || (type == IP6 && kind != SEGMENTS_TCP4);
}

/*
 * Makes `header`, which the driver has written before a frame of `size` bytes, one that says no more than is so.
 * Returns whether there is one.
 */
static bool check_outgoing(const struct pyvmm_net_queue *queue, struct header *header,
                           const uint8_t *head, uint64_t size)
{
    const struct header claimed = *header;
    *header = (struct header){.chains = 1};
    if (size < LEAST_FRAME ||
        size > (claimed.kind == SEGMENTS_NONE ? queue->setup.most : MOST_FRAME))
        return false;
    if (!(claimed.flags & NEEDS_CHECKSUM))
        return claimed.kind == SEGMENTS_NONE;
    if (!(queue->setup.offloads & TUN_F_CSUM) || claimed.start < LEAST_FRAME ||
        claimed.start + claimed.offset + 2 > (int64_t)size)
        return false;
    header->flags = NEEDS_CHECKSUM;
    header->start = claimed.start;
    header->offset = claimed.offset;
    if (claimed.kind == SEGMENTS_NONE)
        return true;
    header->kind = claimed.kind;
    header->segment = claimed.segment;
    header->header_length = claimed.header_length < size ? claimed.header_length : (uint16_t)size;
    return is_offloaded(queue, claimed.kind) && claimed.segment != 0 &&
           is_of_kind(&claimed, head, size);
}

/* Makes a tap's header one for the driver. Returns whether the driver does all that it asks for. */
static bool check_incoming(const struct pyvmm_net_queue *queue, struct header *header)
{
    bool does_checksums = queue->setup.offloads & TUN_F_CSUM;
    if (header->kind != SEGMENTS_NONE && !is_offloaded(queue, header->kind))
        return false;
    if ((header->flags & NEEDS_CHECKSUM) && !does_checksums)
        return false;
    header->flags &= does_checksums ? NEEDS_CHECKSUM | DATA_VALID : 0;
    return true;
}

/* -- frames of the driver's -- */

/* Sends a frame of `size` bytes that is leased. GO_ON: it was sent, or cannot be. */
static int send_leased(struct pyvmm_net_queue *queue, uint64_t size)
{
    struct pyvmm_buffers *readable = &queue->ring.readable;
    uint8_t head[HEAD_SIZE] = {0};
    int count = 0;
    copy(readable, 0, 0, &queue->header, HEADER_SIZE, false);
    if (queue->header.kind != SEGMENTS_NONE)
        copy(readable, 0, HEADER_SIZE, head, size < HEAD_SIZE ? size : HEAD_SIZE, false);
    if (!check_outgoing(queue, &queue->header, head, size))
        return GO_ON;
    queue->vector[count++] = (struct iovec){&queue->header, HEADER_SIZE};
    add_rows(queue, readable, 0, readable->count, HEADER_SIZE, size, &count);
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
    struct leased *one = &queue->chains[queue->count];
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
    copy(&ring->writable, row, 0, &queue->header, HEADER_SIZE, true);
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
    copy(&queue->ring.writable, first_row(queue), HEADER_SIZE, queue->scratch + HEADER_SIZE,
         size - HEADER_SIZE, true);
    give(queue, size);
    return GO_ON;
}

/* Has a frame of which `room` bytes lie in chains, and the others where they belong in `scratch`, wait there. */
static void hold(struct pyvmm_net_queue *queue, uint64_t size, uint64_t room)
{
    copy(&queue->ring.writable, first_row(queue), HEADER_SIZE, queue->scratch + HEADER_SIZE,
         room - HEADER_SIZE, false);
    queue->held = size;
}

/* Takes a frame from the tap, for the driver or to be dropped. */
static int receive_next(struct pyvmm_net_queue *queue)
{
    uint32_t first = first_row(queue);
    uint32_t end = queue->chains[queue->setup.merges ? queue->count - 1 : queue->next].end;
    int count = 0;
    queue->vector[count++] = (struct iovec){&queue->header, HEADER_SIZE};
    uint64_t room = HEADER_SIZE + add_rows(queue, &queue->ring.writable, first, end, HEADER_SIZE,
                                           MOST_FRAME, &count);
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
    if (size < LEAST || !check_incoming(queue, &queue->header))
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

static const struct pyvmm_split_kind SENDS = {send_batch, wait_to_send};
static const struct pyvmm_split_kind RECEIVES = {receive_batch, wait_to_receive};

int pyvmm_net_run(struct pyvmm_net_queue *queue, bool waits)
{
    return pyvmm_split_run(&queue->ring, queue->setup.receives ? &RECEIVES : &SENDS, waits);
}
