/* SPDX-License-Identifier: MIT */
/*
 * Serving a virtio block queue. See block_queue.h, and pyvmm/devices/virtio/{split_ring,block}.py, which say
 * the same in Python.
 *
 * Guest memory is leased, the ring for a batch and a chain's buffers for the chain, so that no conversion
 * takes it away meanwhile. The guest may write any of it at any time: descriptors and headers are copied, and
 * what is copied is looked at.
 */
#define _GNU_SOURCE
#include "block_queue.h"
#include "held.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

/* A lease has as many ranges (machine/leases.MOST_RANGES), and so has a chain. */
#define MOST_BUFFERS 1024
#define MOST_BYTES (1ULL << 32)
#define SECTOR 512
#define HEADER_SIZE 16

#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2
#define DESCRIPTOR_INDIRECT 4
#define NO_INTERRUPT 1
#define NO_NOTIFICATION 1

#define KIND_IN 0
#define KIND_OUT 1
#define KIND_FLUSH 4
#define STATUS_OK 0

/* How long the ring is leased: a conversion of it waits for the end of that. */
#define BATCH_CHAINS 64
#define BATCH_BYTES (1ULL << 20)

/* Beside the reasons of block_queue.h: none. */
#define GO_ON (-1)

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct buffers {
    uint64_t rows[2 * MOST_BUFFERS]; /* GPA and length of each */
    uint8_t *at[MOST_BUFFERS];
    uint32_t count;
};

struct chain {
    uint16_t head;
    uint64_t bytes;
};

struct pyvmm_block_queue {
    struct pyvmm_conversions *conversions;
    struct pyvmm_block_setup setup;
    int kick;
    int kicked;
    int durable;
    int flush_error;
    uint64_t requests, bytes;
    uint8_t *descriptors, *driver, *device;
    struct buffers readable, writable;
    struct iovec vector[MOST_BUFFERS];
    struct descriptor table[MOST_BUFFERS];
};

struct pyvmm_block_queue *pyvmm_block_new(struct pyvmm_conversions *conversions,
                                          const struct pyvmm_block_setup *setup)
{
    struct pyvmm_block_queue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL)
        return NULL;
    queue->conversions = conversions;
    queue->setup = *setup;
    queue->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->kick < 0) {
        free(queue);
        return NULL;
    }
    return queue;
}

void pyvmm_block_free(struct pyvmm_block_queue *queue)
{
    close(queue->kick);
    free(queue);
}

void pyvmm_block_kick(struct pyvmm_block_queue *queue)
{
    uint64_t one = 1;
    __atomic_store_n(&queue->kicked, 1, __ATOMIC_SEQ_CST);
    /* It fails where the counter is full, and then it is signalled. */
    ssize_t written = write(queue->kick, &one, sizeof(one));
    (void)written;
}

void pyvmm_block_set_durable(struct pyvmm_block_queue *queue, bool durable)
{
    __atomic_store_n(&queue->durable, durable, __ATOMIC_SEQ_CST);
}

uint16_t pyvmm_block_available(const struct pyvmm_block_queue *queue)
{
    return queue->setup.available;
}

uint16_t pyvmm_block_used(const struct pyvmm_block_queue *queue)
{
    return queue->setup.used;
}

int pyvmm_block_flush_error(const struct pyvmm_block_queue *queue)
{
    return queue->flush_error;
}

struct pyvmm_block_counts pyvmm_block_counted(const struct pyvmm_block_queue *queue)
{
    return (struct pyvmm_block_counts){__atomic_load_n(&queue->requests, __ATOMIC_RELAXED),
                                       __atomic_load_n(&queue->bytes, __ATOMIC_RELAXED)};
}

static bool is_kicked(struct pyvmm_block_queue *queue)
{
    return __atomic_load_n(&queue->kicked, __ATOMIC_SEQ_CST) != 0;
}

/* Both: an eventfd that is not drained would wake the next wait for nothing. */
static void drain(int fd)
{
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof(count));
    (void)got;
}

/* -- words of the ring: little-endian, as this machine -- */

static uint16_t load(const uint8_t *at)
{
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE);
}

static void store(uint8_t *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELEASE);
}

static uint8_t *available_entry(const struct pyvmm_block_queue *queue, uint16_t position)
{
    return queue->driver + 4 + 2 * (position % queue->setup.size);
}

static uint8_t *used_event(const struct pyvmm_block_queue *queue)
{
    return queue->driver + 4 + 2 * queue->setup.size;
}

static uint8_t *available_event(const struct pyvmm_block_queue *queue)
{
    return queue->device + 4 + 8 * queue->setup.size;
}

/* -- leases -- */

/* Returns whether a conversion waits for some lease, which is seen to at the end of a batch. */
static bool give_back(struct pyvmm_block_queue *queue, int64_t number)
{
    return number > 0 && pyvmm_held_release(queue->conversions, PYVMM_HELD_LEASE, number);
}

/* Refusals that are no fault of the driver's, and pass (queue_worker._LATER). */
static bool is_vacating(int64_t refusal)
{
    int reason = (int)(-refusal & 15);
    return reason == PYVMM_LEASE_CONVERTING || reason == PYVMM_LEASE_TOO_MANY ||
           reason == PYVMM_LEASE_MEMORY_SHORT;
}

static int64_t lease(struct pyvmm_block_queue *queue, struct buffers *buffers, bool writable)
{
    return pyvmm_held_lease_at(queue->conversions, buffers->rows, buffers->count, writable,
                               buffers->at);
}

static int64_t lease_ring(struct pyvmm_block_queue *queue)
{
    const struct pyvmm_block_setup *setup = &queue->setup;
    uint32_t event = setup->event_index ? 2 : 0;
    const uint64_t rows[] = {setup->descriptors, 16ULL * setup->size,
                             setup->driver, 4 + 2ULL * setup->size + event,
                             setup->device, 4 + 8ULL * setup->size + event};
    uint8_t *at[3];
    int64_t number = pyvmm_held_lease_at(queue->conversions, rows, 3, true, at);
    if (number > 0) {
        queue->descriptors = at[0];
        queue->driver = at[1];
        queue->device = at[2];
    }
    return number;
}

/* -- chains -- */

static int add_buffer(struct pyvmm_block_queue *queue, const struct descriptor *found,
                      struct chain *chain)
{
    bool writes = found->flags & DESCRIPTOR_WRITE;
    struct buffers *buffers = writes ? &queue->writable : &queue->readable;
    if (found->length == 0 || (!writes && queue->writable.count != 0) ||
        found->address > UINT64_MAX - found->length)
        return PYVMM_BLOCK_ODD_CHAIN;
    chain->bytes += found->length;
    if (chain->bytes > MOST_BYTES || buffers->count == MOST_BUFFERS)
        return PYVMM_BLOCK_ODD_CHAIN;
    buffers->rows[2 * buffers->count] = found->address;
    buffers->rows[2 * buffers->count + 1] = found->length;
    buffers->count++;
    return GO_ON;
}

/* Follows a table of `size` descriptors, which is a copy or may change meanwhile, from `number` on. */
static int follow(struct pyvmm_block_queue *queue, const uint8_t *table, uint32_t size,
                  uint32_t number, struct descriptor *indirect, struct chain *chain)
{
    for (uint32_t i = 0; i < size; i++) {
        struct descriptor found;
        memcpy(&found, table + 16ULL * number, sizeof(found));
        if (found.flags & DESCRIPTOR_INDIRECT) {
            /* Only one, in the ring, alone: all else is Python's to judge. */
            if (indirect == NULL || i != 0 || found.flags != DESCRIPTOR_INDIRECT)
                return PYVMM_BLOCK_ODD_CHAIN;
            *indirect = found;
            return GO_ON;
        }
        int result = add_buffer(queue, &found, chain);
        if (result != GO_ON || !(found.flags & DESCRIPTOR_NEXT))
            return result;
        number = found.next;
        if (number >= size)
            return PYVMM_BLOCK_ODD_CHAIN;
    }
    return PYVMM_BLOCK_ODD_CHAIN;
}

/* Copies a table of descriptors, under a lease of its own. */
static int copy_table(struct pyvmm_block_queue *queue, const struct descriptor *indirect)
{
    const uint64_t row[] = {indirect->address, indirect->length};
    uint8_t *at;
    if (indirect->length == 0 || indirect->length % 16 != 0 ||
        indirect->length > sizeof(queue->table))
        return PYVMM_BLOCK_ODD_CHAIN;
    int64_t number = pyvmm_held_lease_at(queue->conversions, row, 1, false, &at);
    if (number <= 0)
        return is_vacating(number) ? PYVMM_BLOCK_VACATING : PYVMM_BLOCK_ODD_CHAIN;
    memcpy(queue->table, at, indirect->length);
    give_back(queue, number);
    return GO_ON;
}

static int read_chain(struct pyvmm_block_queue *queue, uint16_t head, struct chain *chain)
{
    struct descriptor indirect = {0};
    struct descriptor *allowed = queue->setup.indirect ? &indirect : NULL;
    *chain = (struct chain){head, 0};
    queue->readable.count = queue->writable.count = 0;
    int result = follow(queue, queue->descriptors, queue->setup.size, head, allowed, chain);
    if (result != GO_ON || !indirect.flags)
        return result;
    result = copy_table(queue, &indirect);
    if (result != GO_ON)
        return result;
    return follow(queue, (const uint8_t *)queue->table, indirect.length / 16, 0, NULL, chain);
}

/* -- requests -- */

/* Whether the buffers are cut as drivers cut them: a header, data, a status. */
static bool is_plainly_cut(const struct pyvmm_block_queue *queue)
{
    const struct buffers *readable = &queue->readable, *writable = &queue->writable;
    return readable->count != 0 && writable->count != 0 && readable->rows[1] == HEADER_SIZE &&
           writable->rows[2 * writable->count - 1] == 1;
}

static uint64_t data_of(struct pyvmm_block_queue *queue, const struct buffers *buffers,
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
    struct buffers *readable = &queue->readable, *writable = &queue->writable;
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
        return PYVMM_BLOCK_ODD_CHAIN;
    int64_t first = lease(queue, &queue->readable, false);
    if (first <= 0)
        return is_vacating(first) ? PYVMM_BLOCK_VACATING : PYVMM_BLOCK_ODD_CHAIN;
    int64_t second = lease(queue, &queue->writable, true);
    int result = GO_ON;
    if (second <= 0) {
        result = is_vacating(second) ? PYVMM_BLOCK_VACATING : PYVMM_BLOCK_ODD_CHAIN;
    } else {
        int64_t done = perform(queue);
        if (done < 0)
            result = PYVMM_BLOCK_ODD_CHAIN;
        else
            *written = (uint32_t)done;
    }
    give_back(queue, second);
    give_back(queue, first);
    return result;
}

static void put_used(struct pyvmm_block_queue *queue, const struct chain *chain, uint32_t written)
{
    struct pyvmm_block_setup *setup = &queue->setup;
    const uint32_t entry[] = {chain->head, written};
    memcpy(queue->device + 4 + 8 * (setup->used % setup->size), entry, sizeof(entry));
    setup->used++;
    setup->available++;
    store(queue->device + 2, setup->used);
}

/* Interrupts if the driver wants to be told of what was given back since `before` (2.7.7). */
static void tell(struct pyvmm_block_queue *queue, uint16_t before)
{
    const struct pyvmm_block_setup *setup = &queue->setup;
    uint64_t one = 1;
    if (setup->used == before)
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    bool wanted = !(load(queue->driver) & NO_INTERRUPT);
    if (setup->event_index) {
        uint16_t event = load(used_event(queue));
        wanted = (uint16_t)(setup->used - event - 1) < (uint16_t)(setup->used - before);
    }
    if (wanted) {
        ssize_t sent = write(setup->interrupt, &one, sizeof(one));
        (void)sent;
    }
}

/* Asks for notifications, or for none: the driver may send some all the same. */
static void ask(struct pyvmm_block_queue *queue, bool wanted)
{
    if (queue->setup.event_index) {
        if (wanted)
            store(available_event(queue), queue->setup.available);
    } else {
        store(queue->device, wanted ? 0 : NO_NOTIFICATION);
    }
    if (wanted)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The number of chains that wait, or a reason. */
static int64_t waiting(const struct pyvmm_block_queue *queue)
{
    uint16_t count = (uint16_t)(load(queue->driver + 2) - queue->setup.available);
    return count > queue->setup.size ? -1 : count;
}

/* Serves what waits, with the ring leased. GO_ON: there may be more. */
static int serve_waiting(struct pyvmm_block_queue *queue)
{
    uint64_t moved = 0;
    for (uint32_t i = 0; i < BATCH_CHAINS && moved < BATCH_BYTES; i++) {
        struct chain chain;
        uint32_t written = 0;
        if (is_kicked(queue))
            return PYVMM_BLOCK_KICKED;
        int64_t left = waiting(queue);
        if (left < 0)
            return PYVMM_BLOCK_BROKEN;
        if (left == 0)
            return PYVMM_BLOCK_IDLE;
        uint16_t head = load(available_entry(queue, queue->setup.available));
        if (head >= queue->setup.size)
            return PYVMM_BLOCK_BROKEN;
        int result = read_chain(queue, head, &chain);
        if (result == GO_ON)
            result = serve_chain(queue, &written);
        if (result != GO_ON)
            return result;
        put_used(queue, &chain, written);
        __atomic_add_fetch(&queue->requests, 1, __ATOMIC_RELAXED);
        __atomic_add_fetch(&queue->bytes, chain.bytes, __ATOMIC_RELAXED);
        moved += chain.bytes;
    }
    return GO_ON;
}

static int serve_batch(struct pyvmm_block_queue *queue)
{
    int64_t number = lease_ring(queue);
    if (number <= 0)
        return is_vacating(number) ? PYVMM_BLOCK_VACATING : PYVMM_BLOCK_BROKEN;
    uint16_t before = queue->setup.used;
    ask(queue, false);
    int result = serve_waiting(queue);
    ask(queue, true);
    /* What has come before it was asked for may have been notified of to nobody. */
    if (result == PYVMM_BLOCK_IDLE && waiting(queue) != 0)
        result = GO_ON;
    tell(queue, before);
    bool is_waited_for = give_back(queue, number);
    if (is_waited_for && (result == GO_ON || result == PYVMM_BLOCK_IDLE))
        return PYVMM_BLOCK_VACATING;
    return result;
}

/* Waits for the guest's notification or a kick. */
static void wait_for_work(struct pyvmm_block_queue *queue)
{
    struct pollfd wanted[] = {{queue->setup.doorbell, POLLIN, 0}, {queue->kick, POLLIN, 0}};
    if (poll(wanted, 2, -1) > 0 && wanted[0].revents != 0)
        drain(queue->setup.doorbell);
}

int pyvmm_block_run(struct pyvmm_block_queue *queue, bool waits)
{
    int result = GO_ON;
    while (result == GO_ON) {
        if (is_kicked(queue)) {
            result = PYVMM_BLOCK_KICKED;
            break;
        }
        result = serve_batch(queue);
        if (result == PYVMM_BLOCK_IDLE && waits) {
            wait_for_work(queue);
            result = GO_ON;
        }
    }
    if (result == PYVMM_BLOCK_KICKED) {
        /* In this order: who kicks sets the flag first, and no kick is lost between the two. */
        __atomic_store_n(&queue->kicked, 0, __ATOMIC_SEQ_CST);
        drain(queue->kick);
    }
    return result;
}
