/* SPDX-License-Identifier: MIT */
/*
 * The plain frames of a virtio network queue: headers, and what both ways have in common. See net_queue.h,
 * and pyvmm/machine/virtio/net.py, which says the same in Python.
 */
#define _GNU_SOURCE
#include "net_queue_inside.h"

#include <stdlib.h>
#include <string.h>

#include <linux/if_tun.h>

/* Flags and kinds of a header (virtio 1.2, 5.1.6). */
#define NEEDS_CHECKSUM 1
#define DATA_VALID 2
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

uint64_t pyvmm_net_add_rows(struct pyvmm_net_queue *queue, const struct pyvmm_buffers *buffers,
                            uint32_t first, uint32_t end, uint64_t skipped, uint64_t wanted,
                            int *count)
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

void pyvmm_net_copy(const struct pyvmm_buffers *buffers, uint32_t row, uint64_t skipped, void *bytes,
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
static bool is_of_kind(const struct pyvmm_net_header *header, const uint8_t *head, uint64_t size)
{
    uint16_t type = type_of(head);
    uint8_t kind = header->kind & (uint8_t)~SEGMENTS_ECN;
    bool is_udp = kind == SEGMENTS_UDP;
    if (header->offset != (is_udp ? UDP_CHECKSUM : TCP_CHECKSUM) ||
        header->start + (is_udp ? UDP_SIZE : TCP_SIZE) > (int64_t)size)
        return false;
    return (type == IP4 && kind != SEGMENTS_TCP6) || (type == IP6 && kind != SEGMENTS_TCP4);
}

bool pyvmm_net_check_outgoing(const struct pyvmm_net_queue *queue, struct pyvmm_net_header *header,
                              const uint8_t *head, uint64_t size)
{
    const struct pyvmm_net_header claimed = *header;
    *header = (struct pyvmm_net_header){.chains = 1};
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

bool pyvmm_net_check_incoming(const struct pyvmm_net_queue *queue, struct pyvmm_net_header *header)
{
    bool does_checksums = queue->setup.offloads & TUN_F_CSUM;
    if (header->kind != SEGMENTS_NONE && !is_offloaded(queue, header->kind))
        return false;
    if ((header->flags & NEEDS_CHECKSUM) && !does_checksums)
        return false;
    header->flags &= does_checksums ? NEEDS_CHECKSUM | DATA_VALID : 0;
    return true;
}

int pyvmm_net_run(struct pyvmm_net_queue *queue, bool waits)
{
    return pyvmm_split_run(&queue->ring, queue->setup.receives ? &pyvmm_net_receives : &pyvmm_net_sends, waits);
}
