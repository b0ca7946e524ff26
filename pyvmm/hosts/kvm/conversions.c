/* SPDX-License-Identifier: MIT */
/* Conversions that a vCPU's thread makes by itself. See conversions.h. */
#define _GNU_SOURCE
#include "conversions_inside.h"
#include "held_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define KVM_SET_USER_MEMORY_REGION2 0x40a0ae49UL

/* The hypercall, KVM_HC_MAP_GPA_RANGE: GPA, number of pages, attributes. */
#define PAGE_SIZE_HINT 0xfULL
#define LARGEST_HINT 2 /* 4 KiB, 2 MiB, 1 GiB: of no consequence, the number is of 4 KiB pages */
#define TO_PRIVATE 0x10ULL
/* What takes longer than this shall end with the run, which Python looks at. */
#define LARGEST_REQUEST (1UL << 30)

/* What is longer takes longer than waking up does: others have a turn before this thread's next one. */
#define SHORT_REQUEST (64UL << 10)

struct pyvmm_conversions *pyvmm_conversions_new(int vm_fd)
{
    struct pyvmm_conversions *conversions = calloc(1, sizeof(*conversions));
    if (conversions == NULL)
        return NULL;
    conversions->held = pyvmm_held_new();
    if (conversions->held == NULL) {
        free(conversions);
        return NULL;
    }
    conversions->vm_fd = vm_fd;
    if (pyvmm_conversions_lock_init(conversions) != 0) {
        pyvmm_held_free(conversions->held);
        free(conversions);
        return NULL;
    }
    return conversions;
}

void pyvmm_conversions_free(struct pyvmm_conversions *conversions)
{
    pyvmm_conversions_lock_destroy(conversions);
    pyvmm_held_free(conversions->held);
    free(conversions);
}

/* Locks, and tells whether the caller is to unlock: not what it held before. */
static bool hold(struct pyvmm_conversions *conversions)
{
    /* Without a call of ours while nobody has it. */
    return pthread_mutex_trylock(&conversions->lock) == 0 ||
           pyvmm_conversions_lock(conversions) == 0;
}

static void let_go(struct pyvmm_conversions *conversions, bool held_here)
{
    if (held_here)
        pthread_mutex_unlock(&conversions->lock);
}

int pyvmm_conversions_serve(struct pyvmm_conversions *conversions,
                            const struct pyvmm_served_span *spans, uint32_t count)
{
    if (count > PYVMM_SERVED_SPANS)
        return -EINVAL;
    int result = 0;
    bool held_here = hold(conversions);
    if (conversions->vm_fd < 0) {
        result = count == 0 ? 0 : -EBADF;
    } else {
        memcpy(conversions->spans, spans, count * sizeof(*spans));
        __atomic_store_n(&conversions->served, count, __ATOMIC_RELAXED);
    }
    let_go(conversions, held_here);
    return result;
}

void pyvmm_conversions_close(struct pyvmm_conversions *conversions)
{
    bool held_here = hold(conversions);
    __atomic_store_n(&conversions->served, 0, __ATOMIC_RELAXED);
    conversions->vm_fd = -1;
    pyvmm_held_close(conversions->held);
    let_go(conversions, held_here);
}

uint32_t pyvmm_conversions_drain(struct pyvmm_conversions *conversions,
                                 struct pyvmm_converted *out)
{
    bool held_here = hold(conversions);
    uint32_t count = conversions->journalled;
    memcpy(out, conversions->journal, count * sizeof(*out));
    conversions->journalled = 0;
    let_go(conversions, held_here);
    return count;
}

/* Python refuses what this refuses, and says why. */
static bool read_request(const struct kvm_run *run, struct request *request)
{
    const uint64_t *args = run->u.hypercall.args;
    if (run->u.hypercall.nr != KVM_HC_MAP_GPA_RANGE)
        return false;
    uint64_t gpa = args[0], pages = args[1], attributes = args[2];
    if (gpa % PAGE_SIZE != 0 || pages == 0 || pages > LARGEST_REQUEST / PAGE_SIZE ||
        (attributes & ~(PAGE_SIZE_HINT | TO_PRIVATE)) != 0 ||
        (attributes & PAGE_SIZE_HINT) > LARGEST_HINT)
        return false;
    *request = (struct request){gpa, pages * PAGE_SIZE, (attributes & TO_PRIVATE) != 0};
    return request->size <= UINT64_MAX - gpa;
}

static struct pyvmm_served_span *span_of(struct pyvmm_conversions *conversions,
                                         const struct request *request)
{
    for (uint32_t i = 0; i < conversions->served; i++) {
        struct pyvmm_served_span *span = &conversions->spans[i];
        if (request->gpa >= span->gpa && request->size <= span->size &&
            request->gpa - span->gpa <= span->size - request->size)
            return span;
    }
    return NULL;
}

/* What the new one converts again need not be told: a page that goes back and forth stays one entry. */
static void forget_covered(struct pyvmm_conversions *conversions, const struct request *request)
{
    while (conversions->journalled > 0) {
        const struct pyvmm_converted *last = &conversions->journal[conversions->journalled - 1];
        if (last->plugged != 0 || last->gpa < request->gpa ||
            last->gpa + last->size > request->gpa + request->size)
            return;
        conversions->journalled--;
    }
}

/* A conversion that touches the one before it makes one with it, as a guest goes page by page. */
static bool join_last(struct pyvmm_conversions *conversions, const struct request *request)
{
    if (conversions->journalled == 0)
        return false;
    struct pyvmm_converted *last = &conversions->journal[conversions->journalled - 1];
    if (last->plugged != 0 || (last->is_private != 0) != request->to_private)
        return false;
    uint64_t end = request->gpa + request->size;
    if (request->gpa > last->gpa + last->size || end < last->gpa)
        return false;
    uint64_t first = request->gpa < last->gpa ? request->gpa : last->gpa;
    uint64_t last_end = last->gpa + last->size;
    last->size = (end > last_end ? end : last_end) - first;
    last->gpa = first;
    return true;
}

static void note(struct pyvmm_conversions *conversions, const struct request *request)
{
    pyvmm_held_converted(conversions->held, request->gpa, request->size, !request->to_private);
    forget_covered(conversions, request);
    if (!join_last(conversions, request))
        conversions->journal[conversions->journalled++] = (struct pyvmm_converted){
            .gpa = request->gpa, .size = request->size, .is_private = request->to_private};
}

/* One step, of a request that is worked on in steps or has just the one. Nobody holds any of it. */
typedef bool step_function(struct pyvmm_conversions *conversions, const struct request *step);

static bool convert(struct pyvmm_conversions *conversions, const struct request *step)
{
    const struct pyvmm_served_span *span = span_of(conversions, step);
    /* Before anything changes: what cannot be noted must not be done. */
    if (span == NULL || span->guest_memfd < 0 || span->slot != PYVMM_PLUGGED ||
        conversions->journalled == PYVMM_JOURNAL_ENTRIES)
        return false;
    if (span->in_place) {
        if (!pyvmm_conversion_in_file(span, step))
            return false;
        note(conversions, step);
        return true;
    }
    if (!pyvmm_conversion_of_vm(conversions->vm_fd, step))
        return false;
    /* From here on the pages are converted, whatever becomes of the other side's memory. */
    note(conversions, step);
    return pyvmm_conversion_discard(span, step);
}

/* Steps end at multiples of PYVMM_STEP: no large page is in two of them. */
static struct request step_at(const struct request *request, uint64_t gpa)
{
    uint64_t last = gpa | (PYVMM_STEP - 1ULL), request_last = request->gpa + (request->size - 1);
    if (last > request_last)
        last = request_last;
    return (struct request){gpa, last - gpa + 1, request->to_private};
}

/* Between two steps everybody else has the lock: each step looks at everything again. */
static bool in_steps(struct pyvmm_conversions *conversions, const struct request *request,
                     step_function *take_step)
{
    uint32_t kind = request->to_private ? PYVMM_HELD_CONVERTING : PYVMM_HELD_WORKING;
    int64_t number = pyvmm_held_begin(conversions->held, kind, request->gpa, request->size);
    if (number <= 0)
        return false;
    struct request step = step_at(request, request->gpa);
    bool done = take_step(conversions, &step);
    while (done && step.gpa + step.size < request->gpa + request->size) {
        pyvmm_conversions_give_way(conversions);
        step = step_at(request, step.gpa + step.size);
        done = !pyvmm_held_stops(conversions->held, step.gpa, step.size) &&
               take_step(conversions, &step);
    }
    pyvmm_held_end(conversions->held, kind, number);
    pyvmm_conversions_note_end(conversions);
    return done;
}

/* All of it is in one span. */
static bool in_as_many_steps_as_it_takes(struct pyvmm_conversions *conversions,
                                         const struct request *request, step_function *take_step)
{
    /* Of what Python may refuse, nothing is begun. */
    if (!pyvmm_held_is_free(conversions->held, request->gpa, request->size))
        return false;
    bool done = request->size <= PYVMM_STEP ? take_step(conversions, request)
                                            : in_steps(conversions, request, take_step);
    if (request->size > SHORT_REQUEST)
        pyvmm_conversions_give_way(conversions);
    return done;
}

/* In place a held page refuses all of a request: what takes several steps is undone by Python. */
static bool can_take_steps(const struct pyvmm_served_span *span, const struct request *request)
{
    return span != NULL && !(span->in_place && request->to_private);
}

/* Of several steps, none is taken where one cannot be; a single one looks for itself. */
static bool can_take(struct pyvmm_conversions *conversions, const struct request *request)
{
    return request->size <= PYVMM_STEP || can_take_steps(span_of(conversions, request), request);
}

bool pyvmm_conversions_take(struct pyvmm_conversions *conversions, struct kvm_run *run)
{
    struct request request;
    if (__atomic_load_n(&conversions->served, __ATOMIC_RELAXED) == 0 ||
        !read_request(run, &request) || !hold(conversions))
        return false;
    bool done = can_take(conversions, &request) &&
                in_as_many_steps_as_it_takes(conversions, &request, convert);
    let_go(conversions, true);
    if (done)
        run->u.hypercall.ret = 0;
    return done;
}

/* The block around what was touched, as far as it is in the span. */
static struct request block_around(const struct pyvmm_served_span *span, uint64_t gpa)
{
    uint64_t start = gpa & ~(span->touch_block - 1);
    uint64_t end = start + span->touch_block;
    if (start < span->gpa)
        start = span->gpa;
    if (end > span->gpa + span->size)
        end = span->gpa + span->size;
    return (struct request){start, end - start, false};
}

static bool make_shared(struct pyvmm_conversions *conversions, const struct request *step)
{
    const struct pyvmm_served_span *span = span_of(conversions, step);
    if (span == NULL || span->guest_memfd >= 0 ||
        conversions->journalled == PYVMM_JOURNAL_ENTRIES ||
        !pyvmm_conversion_of_vm(conversions->vm_fd, step))
        return false;
    note(conversions, step);
    return true;
}

/* The span is as any other from here on. */
static bool plug(struct pyvmm_conversions *conversions, struct pyvmm_served_span *span)
{
    struct kvm_userspace_memory_region2 region = {
        .slot = span->slot,
        .flags = span->slot_flags,
        .guest_phys_addr = span->gpa,
        .memory_size = span->size,
        .userspace_addr = span->hva,
        .guest_memfd_offset = span->guest_memfd_offset,
        .guest_memfd = (uint32_t)span->guest_memfd,
    };
    if (ioctl(conversions->vm_fd, KVM_SET_USER_MEMORY_REGION2, &region) != 0)
        return false;
    conversions->journal[conversions->journalled++] = (struct pyvmm_converted){
        .gpa = span->gpa, .size = span->size, .is_private = true, .plugged = true};
    span->slot = PYVMM_PLUGGED;
    return true;
}

/* The span, once nobody gives back the pages of one without a memslot: they would be the guest's. */
static struct pyvmm_served_span *unless_being_unplugged(struct pyvmm_conversions *conversions,
                                                        const struct request *touched)
{
    for (;;) {
        struct pyvmm_served_span *span = span_of(conversions, touched);
        if (span == NULL || span->slot == PYVMM_PLUGGED ||
            !pyvmm_held_is_worked_on(conversions->held, span->gpa, span->size))
            return span;
        pyvmm_conversions_await_end(conversions);
    }
}

static bool satisfy_touch(struct pyvmm_conversions *conversions, const struct kvm_run *run)
{
    struct request touched = {run->u.memory_fault.gpa, run->u.memory_fault.size, false};
    struct pyvmm_served_span *span = unless_being_unplugged(conversions, &touched);
    if (span == NULL || conversions->journalled == PYVMM_JOURNAL_ENTRIES)
        return false;
    if (span->guest_memfd < 0) {
        struct request block = block_around(span, touched.gpa);
        return in_as_many_steps_as_it_takes(conversions, &block, make_shared);
    }
    return span->slot != PYVMM_PLUGGED && plug(conversions, span);
}

bool pyvmm_conversions_take_touch(struct pyvmm_conversions *conversions, const struct kvm_run *run)
{
    if (__atomic_load_n(&conversions->served, __ATOMIC_RELAXED) == 0 ||
        run->u.memory_fault.flags != PYVMM_ATTRIBUTE_PRIVATE ||
        pyvmm_conversions_lock(conversions) != 0)
        return false;
    bool done = satisfy_touch(conversions, run);
    pyvmm_conversions_unlock(conversions);
    return done;
}
