/* SPDX-License-Identifier: MIT */
/* The rings of one VM that take guest writes without an exit to Python. See posted.h. */
#include "posted.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct pyvmm_posted {
    uint16_t rules[65536]; /* by port; accessed atomically, as vCPUs read it while it changes */
    pthread_mutex_t lock;  /* guards what follows */
    uint32_t head;         /* free-running; head - tail entries are in the ring */
    uint32_t tail;
    uint32_t mask;
    int eventfd;
    struct pyvmm_posted_write ring[];
};

struct pyvmm_posted *pyvmm_posted_new(uint32_t capacity)
{
    if (capacity == 0 || capacity > PYVMM_POSTED_CAPACITY || (capacity & (capacity - 1)) != 0) {
        errno = EINVAL;
        return NULL;
    }
    struct pyvmm_posted *posted =
        calloc(1, sizeof(*posted) + capacity * sizeof(struct pyvmm_posted_write));
    if (posted == NULL)
        return NULL;
    posted->mask = capacity - 1;
    posted->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (posted->eventfd < 0) {
        int error = errno;
        free(posted);
        errno = error;
        return NULL;
    }
    pthread_mutex_init(&posted->lock, NULL);
    return posted;
}

void pyvmm_posted_close(struct pyvmm_posted *posted)
{
    pthread_mutex_lock(&posted->lock);
    if (posted->eventfd >= 0)
        close(posted->eventfd);
    posted->eventfd = -1;
    pthread_mutex_unlock(&posted->lock);
}

void pyvmm_posted_free(struct pyvmm_posted *posted)
{
    pyvmm_posted_close(posted);
    pthread_mutex_destroy(&posted->lock);
    free(posted);
}

int pyvmm_posted_eventfd(struct pyvmm_posted *posted)
{
    pthread_mutex_lock(&posted->lock);
    int fd = posted->eventfd;
    pthread_mutex_unlock(&posted->lock);
    return fd;
}

void pyvmm_posted_set_rule(struct pyvmm_posted *posted, uint16_t port, uint16_t rule)
{
    __atomic_store_n(&posted->rules[port], rule, __ATOMIC_RELEASE);
}

bool pyvmm_posted_push(struct pyvmm_posted *posted, uint16_t port, uint8_t value)
{
    pthread_mutex_lock(&posted->lock);
    uint32_t used = posted->head - posted->tail;
    bool room = used <= posted->mask;
    if (room) {
        posted->ring[posted->head & posted->mask] =
            (struct pyvmm_posted_write){.port = port, .value = value};
        posted->head++;
        /* Under the lock, so that the fd cannot be closed, and its number used again, meanwhile.
         * It never blocks; a counter at its limit is readable all the same. */
        if (used == 0 && posted->eventfd >= 0 && eventfd_write(posted->eventfd, 1) != 0)
            errno = 0;
    }
    pthread_mutex_unlock(&posted->lock);
    return room;
}

uint32_t pyvmm_posted_drain(struct pyvmm_posted *posted, struct pyvmm_posted_write *out,
                            uint32_t room)
{
    pthread_mutex_lock(&posted->lock);
    uint32_t used = posted->head - posted->tail;
    uint32_t count = used < room ? used : room;
    for (uint32_t i = 0; i < count; i++)
        out[i] = posted->ring[(posted->tail + i) & posted->mask];
    posted->tail += count;
    eventfd_t ignored;
    /* What did not fit in `out` keeps the fd readable: no further write would announce it. Where
     * nothing was there, nothing has been announced. */
    if (used > 0 && count == used && posted->eventfd >= 0 &&
        eventfd_read(posted->eventfd, &ignored) != 0)
        errno = 0;
    pthread_mutex_unlock(&posted->lock);
    return count;
}

uint16_t pyvmm_posted_rule(struct pyvmm_posted *posted, uint16_t port)
{
    return __atomic_load_n(&posted->rules[port], __ATOMIC_ACQUIRE);
}

uint32_t pyvmm_posted_take_coalesced(struct pyvmm_posted *posted,
                                     struct kvm_coalesced_mmio_ring *ring, uint32_t entries,
                                     struct kvm_coalesced_mmio *out)
{
    uint32_t count = 0;
    pthread_mutex_lock(&posted->lock);
    uint32_t first = __atomic_load_n(&ring->first, __ATOMIC_RELAXED);
    /* Acquire: the entries before `last` are written before it is. */
    uint32_t last = __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE);
    if (first < entries && last < entries) {
        for (; first != last; first = (first + 1) % entries)
            out[count++] = ring->coalesced_mmio[first];
        __atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&posted->lock);
    return count;
}
