/* The exit path. See run.h. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define KVM_RUN 0xae80UL
#define KVM_EXIT_IO 2
#define KVM_EXIT_MMIO 6
#define KVM_EXIT_HYPERCALL 3
#define KVM_EXIT_MEMORY_FAULT 39
#define KVM_EXIT_X86_RDMSR 29
#define KVM_EXIT_X86_WRMSR 30
#define KVM_EXIT_IO_OUT 1

/* Posted port accesses. */

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

/* False when the ring is full: nothing was taken. */
static bool posted_push(struct pyvmm_posted *posted, uint16_t port, uint8_t value)
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
    /* What did not fit in `out` keeps the fd readable: no further write would announce it. */
    if (count == used && posted->eventfd >= 0 && eventfd_read(posted->eventfd, &ignored) != 0)
        errno = 0;
    pthread_mutex_unlock(&posted->lock);
    return count;
}

/* vCPUs. */

struct pyvmm_vcpu {
    int fd;
    struct kvm_run *run; /* NULL once closed; changes under `lock` */
    uint64_t run_size;
    struct pyvmm_posted *posted;
    int kicked; /* set under `lock`, consumed by the run loop */
    /* kvm_run holds an exit that nobody has seen yet: KVM_RUN must not be called, because it would
     * complete an access that was not performed. */
    bool undelivered;
    bool delivered; /* kvm_run holds an exit that was returned and not answered yet */
    pthread_mutex_t lock;
    bool running; /* under `lock`: `thread` is inside pyvmm_vcpu_run */
    bool unblocked; /* the kick signal is not blocked in `thread` */
    pthread_t thread;
    uint32_t record_next;
    uint32_t record_count;
    struct pyvmm_record records[PYVMM_RECORDS];
    uint64_t counts[PYVMM_REASONS + 1];
    uint64_t interrupted;
    uint64_t posted_writes;
    uint64_t posted_reads;
};

static void ignore_signal(int number)
{
    (void)number;
}

int pyvmm_kick_signal(void)
{
    return SIGRTMIN + 1;
}

static void install_handler(void)
{
    struct sigaction action = {.sa_handler = ignore_signal};
    /* Without SA_RESTART: the point of the signal is that KVM_RUN returns. */
    sigaction(pyvmm_kick_signal(), &action, NULL);
}

struct pyvmm_vcpu *pyvmm_vcpu_new(int fd, struct kvm_run *run, uint64_t run_size,
                                  struct pyvmm_posted *posted)
{
    static pthread_once_t handler_installed = PTHREAD_ONCE_INIT;
    pthread_once(&handler_installed, install_handler);
    if (run_size < sizeof(struct kvm_run)) {
        errno = EINVAL;
        return NULL;
    }
    struct pyvmm_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (vcpu == NULL)
        return NULL;
    vcpu->fd = fd;
    vcpu->run = run;
    vcpu->run_size = run_size;
    vcpu->posted = posted;
    pthread_mutex_init(&vcpu->lock, NULL);
    return vcpu;
}

int pyvmm_vcpu_close(struct pyvmm_vcpu *vcpu)
{
    int result = 0;
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->running) {
        result = -EBUSY;
    } else if (vcpu->run != NULL) {
        munmap(vcpu->run, vcpu->run_size);
        vcpu->run = NULL;
        vcpu->fd = -1;
    }
    pthread_mutex_unlock(&vcpu->lock);
    return result;
}

void pyvmm_vcpu_free(struct pyvmm_vcpu *vcpu)
{
    pyvmm_vcpu_close(vcpu);
    pthread_mutex_destroy(&vcpu->lock);
    free(vcpu);
}

void pyvmm_vcpu_kick(struct pyvmm_vcpu *vcpu)
{
    /* All of it under the lock, which pyvmm_vcpu_run takes before it returns: so the signal reaches
     * the run that consumes `kicked` and never a later one, and never a thread that has ended. */
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->run != NULL) {
        __atomic_store_n(&vcpu->kicked, 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        if (vcpu->running)
            pthread_kill(vcpu->thread, pyvmm_kick_signal());
    }
    pthread_mutex_unlock(&vcpu->lock);
}

/* Only a blocked signal could keep a kick from working, so a thread that is new here unblocks it. */
static void unblock_kicks(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, pyvmm_kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static int begin_run(struct pyvmm_vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    int result = vcpu->run == NULL ? -EBADF : vcpu->running ? -EBUSY : 0;
    if (result == 0) {
        pthread_t self = pthread_self();
        if (!vcpu->unblocked || !pthread_equal(vcpu->thread, self)) {
            unblock_kicks();
            vcpu->unblocked = true;
            vcpu->thread = self;
        }
        vcpu->running = true;
    }
    pthread_mutex_unlock(&vcpu->lock);
    return result;
}

static void end_run(struct pyvmm_vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    vcpu->running = false;
    pthread_mutex_unlock(&vcpu->lock);
}

static bool io_is_sound(const struct kvm_run *run, uint64_t run_size)
{
    uint64_t size = run->u.io.size;
    uint64_t offset = run->u.io.data_offset;
    return (size == 1 || size == 2 || size == 4) && offset >= sizeof(struct kvm_run) &&
           offset <= run_size && size * run->u.io.count <= run_size - offset;
}

static uint64_t little_endian(const uint8_t *bytes, uint32_t size)
{
    uint64_t value = 0;
    memcpy(&value, bytes, size <= sizeof(value) ? size : sizeof(value));
    return value;
}

int64_t pyvmm_exit_code(const struct kvm_run *run, uint64_t run_size, int run_errno)
{
    uint32_t reason = run->exit_reason;
    /* With an error the reason is what an earlier run left behind, except for this one pair. */
    if (run_errno == EFAULT || run_errno == EHWPOISON) {
        if (reason != KVM_EXIT_MEMORY_FAULT)
            return -run_errno;
        return run_errno == EFAULT ? PYVMM_FAULT_EFAULT : PYVMM_FAULT_EHWPOISON;
    }
    if (run_errno == EINTR || run_errno == EAGAIN)
        return PYVMM_INTERRUPTED;
    if (run_errno != 0)
        return -run_errno;
    if (reason == KVM_EXIT_MMIO && run->u.mmio.len > sizeof(run->u.mmio.data))
        return PYVMM_BROKEN_RUN;
    if (reason != KVM_EXIT_IO)
        return reason;
    if (!io_is_sound(run, run_size))
        return PYVMM_BROKEN_RUN;
    if (run->u.io.count != 1)
        return reason;
    int64_t code = PYVMM_PORT | run->u.io.port | (int64_t)run->u.io.size << 16;
    if (run->u.io.direction == KVM_EXIT_IO_OUT) {
        const uint8_t *data = (const uint8_t *)run + run->u.io.data_offset;
        code |= 1LL << 24 | (int64_t)(little_endian(data, run->u.io.size) << 25);
    }
    return code;
}

static void describe(const struct kvm_run *run, int64_t code, struct pyvmm_record *record)
{
    *record = (struct pyvmm_record){.reason = run->exit_reason, .count = 1};
    if (code == PYVMM_BROKEN_RUN)
        return;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        record->address = run->u.io.port;
        record->size = run->u.io.size;
        record->is_write = run->u.io.direction == KVM_EXIT_IO_OUT;
        if (record->is_write && run->u.io.count != 0)
            record->value =
                little_endian((const uint8_t *)run + run->u.io.data_offset, record->size);
        break;
    case KVM_EXIT_MMIO:
        record->address = run->u.mmio.phys_addr;
        record->size = run->u.mmio.len;
        record->is_write = run->u.mmio.is_write != 0;
        if (record->is_write)
            record->value = little_endian(run->u.mmio.data, record->size);
        break;
    case KVM_EXIT_HYPERCALL:
        record->address = run->u.hypercall.nr;
        break;
    case KVM_EXIT_MEMORY_FAULT:
        record->address = run->u.memory_fault.gpa;
        record->size = (uint32_t)run->u.memory_fault.size;
        break;
    default:
        break;
    }
}

static void record_exit(struct pyvmm_vcpu *vcpu, int64_t code)
{
    struct pyvmm_record record;
    describe(vcpu->run, code, &record);
    struct pyvmm_record *last =
        &vcpu->records[(vcpu->record_next + PYVMM_RECORDS - 1) % PYVMM_RECORDS];
    if (vcpu->record_count != 0 && last->reason == record.reason &&
        last->address == record.address && last->size == record.size &&
        last->is_write == record.is_write) {
        last->count++;
        return;
    }
    vcpu->records[vcpu->record_next] = record;
    vcpu->record_next = (vcpu->record_next + 1) % PYVMM_RECORDS;
    if (vcpu->record_count < PYVMM_RECORDS)
        vcpu->record_count++;
}

/* What became of an exit that the posted rules may take. */
enum posting { NOT_POSTED, POSTED, NO_ROOM };

static enum posting post(struct pyvmm_vcpu *vcpu, int64_t code)
{
    struct kvm_run *run = vcpu->run;
    if ((code & PYVMM_PORT) == 0 || code < 0 || run->u.io.size != 1)
        return NOT_POSTED;
    uint16_t rule = __atomic_load_n(&vcpu->posted->rules[run->u.io.port], __ATOMIC_ACQUIRE);
    uint8_t *data = (uint8_t *)run + run->u.io.data_offset;
    if (run->u.io.direction == KVM_EXIT_IO_OUT) {
        if ((rule & PYVMM_POST_WRITE) == 0)
            return NOT_POSTED;
        if (!posted_push(vcpu->posted, run->u.io.port, *data))
            return NO_ROOM;
        vcpu->posted_writes++;
        return POSTED;
    }
    if ((rule & PYVMM_POST_READ) == 0)
        return NOT_POSTED;
    *data = (uint8_t)rule;
    vcpu->posted_reads++;
    return POSTED;
}

static int enter(struct pyvmm_vcpu *vcpu)
{
    vcpu->delivered = false;
    return ioctl(vcpu->fd, KVM_RUN, 0UL) == 0 ? 0 : errno;
}

static int64_t interrupted(struct pyvmm_vcpu *vcpu)
{
    vcpu->interrupted++;
    return PYVMM_INTERRUPTED;
}

static int64_t run_loop(struct pyvmm_vcpu *vcpu)
{
    for (;;) {
        /* This order: a kick after the first line sets immediate_exit again, a kick before it is
         * seen by the second; so none is lost and none counts twice. */
        __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (__atomic_exchange_n(&vcpu->kicked, 0, __ATOMIC_SEQ_CST) != 0)
            return interrupted(vcpu);
        int error = vcpu->undelivered ? 0 : enter(vcpu);
        int64_t code = pyvmm_exit_code(vcpu->run, vcpu->run_size, error);
        if (code == PYVMM_INTERRUPTED) {
            /* The kick, if it was one, has been answered with this. */
            __atomic_store_n(&vcpu->kicked, 0, __ATOMIC_SEQ_CST);
            return interrupted(vcpu);
        }
        if (code < 0)
            return code;
        enum posting posting = post(vcpu, code);
        if (posting == NO_ROOM) {
            vcpu->undelivered = true;
            return PYVMM_POSTED_FULL;
        }
        vcpu->undelivered = false;
        record_exit(vcpu, code);
        if (posting == POSTED)
            continue;
        uint32_t reason = vcpu->run->exit_reason;
        vcpu->counts[reason < PYVMM_REASONS ? reason : PYVMM_REASONS]++;
        vcpu->delivered = code != PYVMM_BROKEN_RUN;
        return code;
    }
}

int64_t pyvmm_vcpu_run(struct pyvmm_vcpu *vcpu)
{
    int64_t code = begin_run(vcpu);
    if (code != 0)
        return code;
    code = run_loop(vcpu);
    end_run(vcpu);
    return code;
}

int64_t pyvmm_vcpu_run_many(struct pyvmm_vcpu *vcpu, uint64_t exits)
{
    for (uint64_t i = 0; i < exits; i++) {
        int64_t code = pyvmm_vcpu_run(vcpu);
        if (code < 0)
            return code;
    }
    return 0;
}

/*
 * KVM completes the access that an exit reported when KVM_RUN is called next, before it looks at
 * immediate_exit. The completion may itself exit again (the next part of a long access): that exit
 * is kept for pyvmm_vcpu_run.
 */
int pyvmm_vcpu_complete(struct pyvmm_vcpu *vcpu)
{
    int result = begin_run(vcpu);
    if (result != 0)
        return result;
    if (!vcpu->undelivered) {
        __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        int error = enter(vcpu);
        if (error == 0)
            vcpu->undelivered = true;
        else if (error != EINTR && error != EAGAIN)
            result = -error;
    }
    end_run(vcpu);
    return result;
}

/* True once per delivered exit, if it `matches` the answer at hand. */
static bool take_delivered(struct pyvmm_vcpu *vcpu, bool matches)
{
    if (vcpu->run == NULL || !vcpu->delivered || !matches)
        return false;
    vcpu->delivered = false;
    return true;
}

int pyvmm_vcpu_answer(struct pyvmm_vcpu *vcpu, const char *data, uint64_t size)
{
    struct kvm_run *run = vcpu->run;
    if (run == NULL || !vcpu->delivered)
        return -ENOENT;
    uint8_t *place;
    uint64_t expected;
    if (run->exit_reason == KVM_EXIT_IO && run->u.io.direction != KVM_EXIT_IO_OUT) {
        place = (uint8_t *)run + run->u.io.data_offset;
        expected = (uint64_t)run->u.io.size * run->u.io.count;
    } else if (run->exit_reason == KVM_EXIT_MMIO && !run->u.mmio.is_write) {
        place = run->u.mmio.data;
        expected = run->u.mmio.len;
    } else {
        return -ENOENT;
    }
    if (size != expected)
        return -EINVAL;
    memcpy(place, data, size);
    vcpu->delivered = false;
    return 0;
}

int pyvmm_vcpu_answer_hypercall(struct pyvmm_vcpu *vcpu, uint64_t value)
{
    struct kvm_run *run = vcpu->run;
    if (!take_delivered(vcpu, run != NULL && run->exit_reason == KVM_EXIT_HYPERCALL))
        return -ENOENT;
    run->u.hypercall.ret = value;
    return 0;
}

int pyvmm_vcpu_answer_msr(struct pyvmm_vcpu *vcpu, uint64_t value, int fault)
{
    struct kvm_run *run = vcpu->run;
    bool is_msr = run != NULL && (run->exit_reason == KVM_EXIT_X86_RDMSR ||
                                  run->exit_reason == KVM_EXIT_X86_WRMSR);
    if (!take_delivered(vcpu, is_msr))
        return -ENOENT;
    run->u.msr.error = fault != 0;
    if (run->exit_reason == KVM_EXIT_X86_RDMSR)
        run->u.msr.data = value;
    return 0;
}

uint32_t pyvmm_vcpu_records(const struct pyvmm_vcpu *vcpu, struct pyvmm_record *out)
{
    uint32_t first = (vcpu->record_next + PYVMM_RECORDS - vcpu->record_count) % PYVMM_RECORDS;
    for (uint32_t i = 0; i < vcpu->record_count; i++)
        out[i] = vcpu->records[(first + i) % PYVMM_RECORDS];
    return vcpu->record_count;
}

uint64_t pyvmm_vcpu_count(const struct pyvmm_vcpu *vcpu, uint32_t reason)
{
    return vcpu->counts[reason < PYVMM_REASONS ? reason : PYVMM_REASONS];
}

uint64_t pyvmm_vcpu_interrupted(const struct pyvmm_vcpu *vcpu)
{
    return vcpu->interrupted;
}

uint64_t pyvmm_vcpu_posted_writes(const struct pyvmm_vcpu *vcpu)
{
    return vcpu->posted_writes;
}

uint64_t pyvmm_vcpu_posted_reads(const struct pyvmm_vcpu *vcpu)
{
    return vcpu->posted_reads;
}

/* System calls. */

int64_t pyvmm_ioctl_value(int fd, uint64_t request, uint64_t argument)
{
    int result = ioctl(fd, request, argument);
    return result >= 0 ? result : -errno;
}

int64_t pyvmm_ioctl_pointer(int fd, uint64_t request, void *argument)
{
    int result = ioctl(fd, request, argument);
    return result >= 0 ? result : -errno;
}

int64_t pyvmm_map(int fd, uint64_t size, int flags)
{
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    return address != MAP_FAILED ? (int64_t)(intptr_t)address : -errno;
}

int pyvmm_map_zeroes_over(uint64_t hva, uint64_t size)
{
    void *address = mmap((void *)(uintptr_t)hva, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return address != MAP_FAILED ? 0 : -errno;
}

int pyvmm_unmap(uint64_t hva, uint64_t size)
{
    return munmap((void *)(uintptr_t)hva, size) == 0 ? 0 : -errno;
}

int pyvmm_fallocate(int fd, int mode, uint64_t offset, uint64_t size)
{
    return fallocate(fd, mode, (off_t)offset, (off_t)size) == 0 ? 0 : -errno;
}
