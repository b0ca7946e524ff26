/* SPDX-License-Identifier: MIT */
/*
 * The plain requests of a virtio block queue. See block_queue.h, and pyvmm/devices/virtio/block.py, which says
 * the same in Python. The guest may write headers at any time: they are copied, and what is copied is looked
 * at.
 */
#define _GNU_SOURCE
#include "block_queue.h"
#include "split_queue_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 512
#define HEADER_SIZE 16

#define KIND_IN 0
#define KIND_OUT 1
#define KIND_FLUSH 4
#define STATUS_OK 0

struct pyvmm_block_queue {
    struct pyvmm_split_queue ring;
    struct pyvmm_block_setup setup;
    int durable;
    int flush_error;
    struct iovec vector[MOST_BUFFERS];
};

struct pyvmm_block_queue *pyvmm_block_new(struct pyvmm_conversions *conversions,
                                          const struct pyvmm_split_setup *ring,
                                          const struct pyvmm_block_setup *setup)
{
    struct pyvmm_block_queue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL)
        return NULL;
    queue->setup = *setup;
    if (pyvmm_split_init(&queue->ring, conversions, ring) < 0) {
        free(queue);
        return NULL;
    }
    return queue;
}

void pyvmm_block_free(struct pyvmm_block_queue *queue)
{
    pyvmm_split_destroy(&queue->ring);
    free(queue);
}

struct pyvmm_split_queue *pyvmm_block_ring(struct pyvmm_block_queue *queue)
{
    return &queue->ring;
}

void pyvmm_block_set_durable(struct pyvmm_block_queue *queue, bool durable)
{
    __atomic_store_n(&queue->durable, durable, __ATOMIC_SEQ_CST);
}

int pyvmm_block_flush_error(const struct pyvmm_block_queue *queue)
{
    return queue->flush_error;
}

/* Whether the buffers are cut as drivers cut them: a header, data, a status. */
static bool is_plainly_cut(const struct pyvmm_block_queue *queue)
{
    const struct pyvmm_buffers *readable = &queue->ring.readable, *writable = &queue->ring.writable;
    return readable->count != 0 && writable->count != 0 && readable->rows[1] == HEADER_SIZE &&
           writable->rows[2 * writable->count - 1] == 1;
}

static uint64_t data_of(struct pyvmm_block_queue *queue, const struct pyvmm_buffers *buffers,
                        uint32_t first, uint32_t end, uint32_t *count)
{
    uint64_t total = 0;
    *count = 0;
    for (uint32_t i = first; i < end; i++) {
        queue->vector[*count] = (struct iovec){buffers->at[i], buffers->rows[2 * i + 1]};
        total += buffers->rows[2 * i + 1];
        ++*count;
    }
    return total;
}

/* Moves all of it, or tells that it could not. */
static bool move(struct pyvmm_block_queue *queue, bool writes, uint64_t offset, uint32_t count)
{
    struct iovec *vector = queue->vector;
    bool durable = __atomic_load_n(&queue->durable, __ATOMIC_SEQ_CST);
    while (count != 0) {
        ssize_t done = writes ? pwritev2(queue->setup.file, vector, (int)count, (off_t)offset,
                                         durable ? RWF_DSYNC : 0)
                              : preadv(queue->setup.file, vector, (int)count, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        offset += (uint64_t)done;
        while (count != 0 && (size_t)done >= vector->iov_len) {
            done -= (ssize_t)vector->iov_len;
            vector++;
            count--;
        }
        if (count != 0) {
            vector->iov_base = (uint8_t *)vector->iov_base + done;
            vector->iov_len -= (size_t)done;
        }
    }
    return true;
}

/* The kernel tells of a failure once, and says that all is well to who tries again: so it is kept. */
static bool flush(struct pyvmm_block_queue *queue)
{
    while (queue->flush_error == 0 && fdatasync(queue->setup.file) != 0)
        if (errno != EINTR)
            queue->flush_error = errno;
    return queue->flush_error == 0;
}

/* Does a request whose buffers are leased. The bytes written, or a negative number: not plain. */
static int64_t perform(struct pyvmm_block_queue *queue)
{
    const struct pyvmm_block_setup *setup = &queue->setup;
    struct pyvmm_buffers *readable = &queue->ring.readable, *writable = &queue->ring.writable;
    struct {
        uint32_t kind, reserved;
        uint64_t sector;
    } header;
    uint32_t count;
    memcpy(&header, readable->at[0], sizeof(header));
    bool reads = header.kind == KIND_IN, writes = header.kind == KIND_OUT;
    if ((reads ? readable : writable)->count != 1)
        return -1;
    uint64_t size = reads ? data_of(queue, writable, 0, writable->count - 1, &count)
                          : data_of(queue, readable, 1, readable->count, &count);
    if (reads || writes) {
        uint64_t sectors = setup->capacity / SECTOR;
        if (size == 0 || size % SECTOR != 0 || header.sector > sectors ||
            size / SECTOR > sectors - header.sector || (writes && setup->read_only) ||
            !move(queue, writes, header.sector * SECTOR, count))
            return -1;
    } else if (header.kind != KIND_FLUSH || !setup->flushes || size != 0 || !flush(queue)) {
        return -1;
    }
    *writable->at[writable->count - 1] = STATUS_OK;
    return reads ? (int64_t)size + 1 : 1;
}

/* Does the request of a chain that has been read. GO_ON: it is done, `written` bytes of it. */
static int serve_chain(struct pyvmm_block_queue *queue, uint32_t *written)
{
    if (!is_plainly_cut(queue))
        return PYVMM_SPLIT_ODD_CHAIN;
    int64_t first = pyvmm_split_lease(&queue->ring, &queue->ring.readable, false);
    if (first <= 0)
        return pyvmm_split_refusal(first);
    int64_t second = pyvmm_split_lease(&queue->ring, &queue->ring.writable, true);
    int result = GO_ON;
    if (second <= 0) {
        result = pyvmm_split_refusal(second);
    } else {
        int64_t done = perform(queue);
        if (done < 0)
            result = PYVMM_SPLIT_ODD_CHAIN;
        else
            *written = (uint32_t)done;
    }
    pyvmm_split_give_back(&queue->ring, second);
    pyvmm_split_give_back(&queue->ring, first);
    return result;
}

/* Serves what waits, with the ring leased. GO_ON: there may be more. */
static int serve_waiting(struct pyvmm_split_queue *ring)
{
    struct pyvmm_block_queue *queue = (struct pyvmm_block_queue *)ring;
    uint64_t moved = 0;
    for (uint32_t i = 0; i < BATCH_CHAINS && moved < BATCH_BYTES; i++) {
        struct pyvmm_chain chain;
        uint32_t written = 0;
        if (pyvmm_split_is_kicked(ring))
            return PYVMM_SPLIT_KICKED;
        ring->readable.count = ring->writable.count = 0;
        int result = pyvmm_split_read(ring, 0, &chain);
        if (result == GO_ON)
            result = serve_chain(queue, &written);
        if (result != GO_ON)
            return result;
        pyvmm_split_put_used(ring, 0, &chain, written);
        pyvmm_split_publish(ring, 1, chain.bytes);
        moved += chain.bytes;
    }
    return GO_ON;
}

static const struct pyvmm_split_kind KIND = {serve_waiting, pyvmm_split_wait};

int pyvmm_block_run(struct pyvmm_block_queue *queue, bool waits)
{
    return pyvmm_split_run(&queue->ring, &KIND, waits);
}
