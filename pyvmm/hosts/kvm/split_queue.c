/* SPDX-License-Identifier: MIT */
/*
 * A split virtqueue, served. See split_queue.h, and pyvmm/devices/virtio/split_ring.py, which says the same in
 * Python.
 *
 * Guest memory is leased, the ring for a batch and a chain's buffers for the chain, so that no conversion
 * takes it away meanwhile. The guest may write any of it at any time: descriptors are copied, and what is
 * copied is looked at.
 */
#define _GNU_SOURCE
#include "split_queue_inside.h"
#include "held.h"

#include <poll.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2
#define DESCRIPTOR_INDIRECT 4
#define NO_INTERRUPT 1
#define NO_NOTIFICATION 1

int pyvmm_split_init(struct pyvmm_split_queue *queue, struct pyvmm_conversions *conversions,
                     const struct pyvmm_split_setup *setup)
{
    queue->conversions = conversions;
    queue->setup = *setup;
    queue->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return queue->kick < 0 ? -errno : 0;
}

void pyvmm_split_destroy(struct pyvmm_split_queue *queue)
{
    close(queue->kick);
}

void pyvmm_split_kick(struct pyvmm_split_queue *queue)
{
    uint64_t one = 1;
    __atomic_store_n(&queue->kicked, 1, __ATOMIC_SEQ_CST);
    /* It fails where the counter is full, and then it is signalled. */
    ssize_t written = write(queue->kick, &one, sizeof(one));
    (void)written;
}

uint16_t pyvmm_split_available(const struct pyvmm_split_queue *queue)
{
    return queue->setup.available;
}

uint16_t pyvmm_split_used(const struct pyvmm_split_queue *queue)
{
    return queue->setup.used;
}

struct pyvmm_split_counts pyvmm_split_counted(const struct pyvmm_split_queue *queue)
{
    return (struct pyvmm_split_counts){__atomic_load_n(&queue->requests, __ATOMIC_RELAXED),
                                       __atomic_load_n(&queue->bytes, __ATOMIC_RELAXED)};
}

bool pyvmm_split_is_kicked(struct pyvmm_split_queue *queue)
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

static uint8_t *available_entry(const struct pyvmm_split_queue *queue, uint16_t position)
{
    return queue->driver + 4 + 2 * (position % queue->setup.size);
}

static uint8_t *used_event(const struct pyvmm_split_queue *queue)
{
    return queue->driver + 4 + 2 * queue->setup.size;
}

static uint8_t *available_event(const struct pyvmm_split_queue *queue)
{
    return queue->device + 4 + 8 * queue->setup.size;
}

/* -- leases -- */

bool pyvmm_split_give_back(struct pyvmm_split_queue *queue, int64_t number)
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

int pyvmm_split_refusal(int64_t number)
{
    return is_vacating(number) ? PYVMM_SPLIT_VACATING : PYVMM_SPLIT_ODD_CHAIN;
}

int64_t pyvmm_split_lease(struct pyvmm_split_queue *queue, struct pyvmm_buffers *buffers,
                          bool writable)
{
    return pyvmm_held_lease_at(queue->conversions, buffers->rows, buffers->count, writable,
                               buffers->at);
}

static int64_t lease_ring(struct pyvmm_split_queue *queue)
{
    const struct pyvmm_split_setup *setup = &queue->setup;
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

/* Where a chain's buffers begin, and what of it was found. */
struct found {
    uint32_t readable, writable;
    uint64_t bytes;
};

static int add_buffer(struct pyvmm_split_queue *queue, const struct pyvmm_descriptor *one,
                      struct found *found)
{
    bool writes = one->flags & DESCRIPTOR_WRITE;
    struct pyvmm_buffers *buffers = writes ? &queue->writable : &queue->readable;
    if (one->length == 0 || (!writes && queue->writable.count != found->writable) ||
        one->address > UINT64_MAX - one->length)
        return PYVMM_SPLIT_ODD_CHAIN;
    found->bytes += one->length;
    if (found->bytes > MOST_BYTES || buffers->count == MOST_BUFFERS)
        return PYVMM_SPLIT_ODD_CHAIN;
    buffers->rows[2 * buffers->count] = one->address;
    buffers->rows[2 * buffers->count + 1] = one->length;
    buffers->count++;
    return GO_ON;
}

/* Follows a table of `size` descriptors, which is a copy or may change meanwhile, from `number` on. */
static int follow(struct pyvmm_split_queue *queue, const uint8_t *table, uint32_t size,
                  uint32_t number, struct pyvmm_descriptor *indirect, struct found *found)
{
    for (uint32_t i = 0; i < size; i++) {
        struct pyvmm_descriptor one;
        memcpy(&one, table + 16ULL * number, sizeof(one));
        if (one.flags & DESCRIPTOR_INDIRECT) {
            /* Only one, in the ring, alone: all else is Python's to judge. */
            if (indirect == NULL || i != 0 || one.flags != DESCRIPTOR_INDIRECT)
                return PYVMM_SPLIT_ODD_CHAIN;
            *indirect = one;
            return GO_ON;
        }
        int result = add_buffer(queue, &one, found);
        if (result != GO_ON || !(one.flags & DESCRIPTOR_NEXT))
            return result;
        number = one.next;
        if (number >= size)
            return PYVMM_SPLIT_ODD_CHAIN;
    }
    return PYVMM_SPLIT_ODD_CHAIN;
}

/* Copies a table of descriptors, under a lease of its own. */
static int copy_table(struct pyvmm_split_queue *queue, const struct pyvmm_descriptor *indirect)
{
    const uint64_t row[] = {indirect->address, indirect->length};
    uint8_t *at;
    if (indirect->length == 0 || indirect->length % 16 != 0 ||
        indirect->length > sizeof(queue->table))
        return PYVMM_SPLIT_ODD_CHAIN;
    int64_t number = pyvmm_held_lease_at(queue->conversions, row, 1, false, &at);
    if (number <= 0)
        return pyvmm_split_refusal(number);
    memcpy(queue->table, at, indirect->length);
    pyvmm_split_give_back(queue, number);
    return GO_ON;
}

static int read_chain(struct pyvmm_split_queue *queue, uint16_t head, struct found *found)
{
    struct pyvmm_descriptor indirect = {0};
    struct pyvmm_descriptor *allowed = queue->setup.indirect ? &indirect : NULL;
    int result = follow(queue, queue->descriptors, queue->setup.size, head, allowed, found);
    if (result != GO_ON || !indirect.flags)
        return result;
    result = copy_table(queue, &indirect);
    if (result != GO_ON)
        return result;
    return follow(queue, (const uint8_t *)queue->table, indirect.length / 16, 0, NULL, found);
}

/* The number of chains that wait, or a reason. */
static int64_t waiting(const struct pyvmm_split_queue *queue)
{
    uint16_t count = (uint16_t)(load(queue->driver + 2) - queue->setup.available);
    return count > queue->setup.size ? -1 : count;
}

int pyvmm_split_read(struct pyvmm_split_queue *queue, uint16_t ahead, struct pyvmm_chain *chain)
{
    struct found found = {queue->readable.count, queue->writable.count, 0};
    int64_t left = waiting(queue);
    if (left < 0)
        return PYVMM_SPLIT_BROKEN;
    if (left <= ahead)
        return PYVMM_SPLIT_IDLE;
    uint16_t head = load(available_entry(queue, (uint16_t)(queue->setup.available + ahead)));
    if (head >= queue->setup.size)
        return PYVMM_SPLIT_BROKEN;
    int result = read_chain(queue, head, &found);
    if (result != GO_ON) {
        queue->readable.count = found.readable;
        queue->writable.count = found.writable;
    }
    *chain = (struct pyvmm_chain){head, found.bytes};
    return result;
}

void pyvmm_split_put_used(struct pyvmm_split_queue *queue, uint16_t ahead,
                          const struct pyvmm_chain *chain, uint32_t written)
{
    const uint32_t entry[] = {chain->head, written};
    uint16_t position = (uint16_t)(queue->setup.used + ahead);
    memcpy(queue->device + 4 + 8 * (position % queue->setup.size), entry, sizeof(entry));
}

void pyvmm_split_publish(struct pyvmm_split_queue *queue, uint16_t chains, uint64_t bytes)
{
    queue->setup.used += chains;
    queue->setup.available += chains;
    store(queue->device + 2, queue->setup.used);
    __atomic_add_fetch(&queue->requests, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&queue->bytes, bytes, __ATOMIC_RELAXED);
}

/* -- telling each other -- */

/* Interrupts if the driver wants to be told of what was given back since `before` (2.7.7). */
static void tell(struct pyvmm_split_queue *queue, uint16_t before)
{
    const struct pyvmm_split_setup *setup = &queue->setup;
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
static void ask(struct pyvmm_split_queue *queue, bool wanted)
{
    if (queue->setup.event_index) {
        if (wanted)
            store(available_event(queue), (uint16_t)(queue->setup.available + queue->left));
    } else {
        store(queue->device, wanted ? 0 : NO_NOTIFICATION);
    }
    if (wanted)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static int serve_batch(struct pyvmm_split_queue *queue, const struct pyvmm_split_kind *kind)
{
    int64_t number = lease_ring(queue);
    if (number <= 0)
        return is_vacating(number) ? PYVMM_SPLIT_VACATING : PYVMM_SPLIT_BROKEN;
    uint16_t before = queue->setup.used;
    queue->left = 0;
    ask(queue, false);
    int result = kind->serve(queue);
    if (result == PYVMM_SPLIT_IDLE) {
        /* What has come before it was asked for may have been notified of to nobody. */
        ask(queue, true);
        if (waiting(queue) != queue->left)
            result = GO_ON;
    }
    tell(queue, before);
    bool is_waited_for = pyvmm_split_give_back(queue, number);
    if (is_waited_for && (result < 0 || result == PYVMM_SPLIT_IDLE))
        return PYVMM_SPLIT_VACATING;
    return result;
}

bool pyvmm_split_wait_for(struct pyvmm_split_queue *queue, int fd, short events, int milliseconds)
{
    struct pollfd wanted[] = {{fd, events, 0}, {queue->kick, POLLIN, 0}};
    int ready = poll(wanted, 2, milliseconds);
    if (ready > 0 && wanted[0].revents != 0 && fd == queue->setup.doorbell)
        drain(fd);
    return ready == 0;
}

void pyvmm_split_wait(struct pyvmm_split_queue *queue, int result)
{
    (void)result;
    pyvmm_split_wait_for(queue, queue->setup.doorbell, POLLIN, -1);
}

int pyvmm_split_run(struct pyvmm_split_queue *queue, const struct pyvmm_split_kind *kind, bool waits)
{
    int result = GO_ON;
    while (result == GO_ON) {
        if (pyvmm_split_is_kicked(queue)) {
            result = PYVMM_SPLIT_KICKED;
            break;
        }
        result = serve_batch(queue, kind);
        if (result == PYVMM_SPLIT_IDLE || result == NOT_NOW) {
            if (!waits)
                return PYVMM_SPLIT_IDLE;
            kind->wait(queue, result);
            result = GO_ON;
        }
    }
    if (result == PYVMM_SPLIT_KICKED) {
        /* In this order: who kicks sets the flag first, and no kick is lost between the two. */
        __atomic_store_n(&queue->kicked, 0, __ATOMIC_SEQ_CST);
        drain(queue->kick);
    }
    return result;
}
