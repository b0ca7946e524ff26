/* SPDX-License-Identifier: MIT */
/* The exit path. See run.h. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define KVM_RUN 0xae80UL
#define KVM_GET_REGS 0x8090ae81UL
#define KVM_SET_REGS 0x4090ae82UL
/* KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES */
#define EMULATION_HAS_BYTES 1
/* arch/x86/include/uapi/asm/svm.h. VMX, which always knows the next instruction, has none so high. */
#define SVM_EXIT_VMMCALL 0x81
/*
 * EAGAIN is KVM's answer for a vCPU that waits for its INIT and was woken, and such comes one by one.
 * It is also that of a KVM which cannot start its worker thread (the limit of processes), on every
 * call: that many in a row are a failure.
 */
#define REFUSALS 1000
/* The most exits that completing one may give: an access of 8 bytes a part, and then some. */
#define MOST_PARTS 256

/* vCPUs. */

struct pyvmm_vcpu {
    int fd;
    struct kvm_run *run; /* NULL once closed; changes under `lock` */
    uint64_t run_size;
    struct pyvmm_posted *posted;
    struct pyvmm_conversions *conversions;
    int kicked; /* set under `lock`, consumed by the run loop */
    /* kvm_run holds an exit that nobody has seen yet: KVM_RUN must not be called, because it would
     * complete an access that was not performed. */
    bool undelivered;
    /* The exit that is kept is to be answered, and the guest not to be entered: who has completed
     * the one before may have used up a kick. */
    bool completed;
    bool delivered; /* kvm_run holds an exit that was returned and not answered yet */
    bool finishes_hypercalls; /* see pyvmm_vcpu_finish_hypercalls */
    unsigned int refused; /* how often in a row KVM_RUN has answered EAGAIN */
    bool polls; /* the last exit was a read that was answered here, with what is known already */
    pthread_mutex_t lock;
    bool running; /* under `lock`: `thread` is inside pyvmm_vcpu_run */
    bool unblocked; /* the kick signal is not blocked in `thread` */
    pthread_t thread;
    struct pyvmm_history history;
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
                                  struct pyvmm_posted *posted,
                                  struct pyvmm_conversions *conversions)
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
    vcpu->conversions = conversions;
    pthread_mutex_init(&vcpu->lock, NULL);
    return vcpu;
}

void pyvmm_vcpu_finish_hypercalls(struct pyvmm_vcpu *vcpu)
{
    vcpu->finishes_hypercalls = true;
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
    /* One that is not consumed yet stands for this one as well; and who kicks in a tight loop does
     * not keep the vCPU's thread from the lock. */
    if (__atomic_load_n(&vcpu->kicked, __ATOMIC_SEQ_CST) != 0)
        return;
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

/* What became of an exit that need not go to Python. */
enum taking { LEFT, TAKEN, NO_ROOM };

static enum taking post(struct pyvmm_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    if (run->u.io.size != 1)
        return LEFT;
    uint16_t rule = pyvmm_posted_rule(vcpu->posted, run->u.io.port);
    uint8_t *data = (uint8_t *)run + run->u.io.data_offset;
    if (run->u.io.direction == KVM_EXIT_IO_OUT) {
        vcpu->polls = false;
        if ((rule & PYVMM_POST_WRITE) == 0)
            return LEFT;
        if (!pyvmm_posted_push(vcpu->posted, run->u.io.port, *data))
            return NO_ROOM;
        vcpu->history.posted_writes++;
        return TAKEN;
    }
    if ((rule & PYVMM_POST_READ) == 0)
        return LEFT;
    *data = (uint8_t)rule;
    vcpu->history.posted_reads++;
    /* The guest waits for what somebody has to do, perhaps on this processor, which it would keep
     * until its time slice is over. */
    if (vcpu->polls)
        sched_yield();
    vcpu->polls = true;
    return TAKEN;
}

static enum taking take_hypercall(struct pyvmm_vcpu *vcpu)
{
    if (!pyvmm_conversions_take(vcpu->conversions, vcpu->run))
        return LEFT;
    vcpu->history.conversions++;
    return TAKEN;
}

static enum taking take_touch(struct pyvmm_vcpu *vcpu)
{
    if (!pyvmm_conversions_take_touch(vcpu->conversions, vcpu->run))
        return LEFT;
    vcpu->history.conversions++;
    return TAKEN;
}

static enum taking take(struct pyvmm_vcpu *vcpu, int64_t code)
{
    if (code >= PYVMM_PORT)
        return post(vcpu);
    if (code == KVM_EXIT_HYPERCALL)
        return take_hypercall(vcpu);
    return code == PYVMM_FAULT_EFAULT ? take_touch(vcpu) : LEFT;
}

/*
 * KVM failed to emulate something after a VMMCALL. The processor's own reason follows the flags, and
 * the instruction's bytes if there are any (prepare_emulation_failure_exit).
 */
static bool is_stuck_at_hypercall(const struct kvm_run *run)
{
    if (run->exit_reason != KVM_EXIT_INTERNAL_ERROR ||
        run->u.internal.suberror != KVM_INTERNAL_ERROR_EMULATION)
        return false;
    uint32_t reason = run->u.internal.data[0] & EMULATION_HAS_BYTES ? 3 : 1;
    return run->u.internal.ndata > reason && run->u.internal.data[reason] == SVM_EXIT_VMMCALL;
}

/*
 * Where the processor does not tell KVM the next instruction's address, KVM decodes the hypercall
 * to get past it (svm_skip_emulated_instruction), and it cannot decode code that is private: the
 * hypercall is done, RAX written, but RIP stays. VMMCALL has three bytes.
 */
static bool go_past_hypercall(struct pyvmm_vcpu *vcpu)
{
    struct kvm_regs regs;
    if (!vcpu->finishes_hypercalls || !is_stuck_at_hypercall(vcpu->run) ||
        ioctl(vcpu->fd, KVM_GET_REGS, &regs) != 0)
        return false;
    regs.rip += 3;
    if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) != 0)
        return false;
    vcpu->history.hypercalls_completed++;
    return true;
}

static int enter(struct pyvmm_vcpu *vcpu)
{
    vcpu->delivered = false;
    for (;;) {
        int error = ioctl(vcpu->fd, KVM_RUN, 0UL) == 0 ? 0 : errno;
        if (error != 0 || !go_past_hypercall(vcpu))
            return error;
    }
}

static int64_t interrupted(struct pyvmm_vcpu *vcpu)
{
    vcpu->history.interrupted++;
    return PYVMM_INTERRUPTED;
}

/* `once`: what need not go to Python ends it, too. */
static int64_t run_loop(struct pyvmm_vcpu *vcpu, bool once)
{
    for (;;) {
        /* This order: a kick after the first line sets immediate_exit again, a kick before it is
         * seen by the second; so none is lost and none counts twice. */
        __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (__atomic_exchange_n(&vcpu->kicked, 0, __ATOMIC_SEQ_CST) != 0)
            return interrupted(vcpu);
        bool no_further = vcpu->undelivered && vcpu->completed;
        vcpu->completed = false;
        int error = vcpu->undelivered ? 0 : enter(vcpu);
        vcpu->refused = error == EAGAIN ? vcpu->refused + 1 : 0;
        if (vcpu->refused >= REFUSALS)
            return -EAGAIN;
        int64_t code = pyvmm_exit_code(vcpu->run, vcpu->run_size, error);
        if (code == PYVMM_INTERRUPTED) {
            /* The kick, if it was one, has been answered with this. */
            __atomic_store_n(&vcpu->kicked, 0, __ATOMIC_SEQ_CST);
            return interrupted(vcpu);
        }
        if (code < 0)
            return code;
        enum taking taking = take(vcpu, code);
        if (taking == NO_ROOM) {
            vcpu->undelivered = true;
            return PYVMM_POSTED_FULL;
        }
        vcpu->undelivered = false;
        pyvmm_history_add(&vcpu->history, vcpu->run, code != PYVMM_BROKEN_RUN);
        if (taking == TAKEN) {
            if (no_further || once)
                return PYVMM_INTERRUPTED;
            continue;
        }
        pyvmm_history_count(&vcpu->history, vcpu->run->exit_reason);
        vcpu->polls = false;
        vcpu->delivered = code != PYVMM_BROKEN_RUN;
        return code;
    }
}

static int64_t run(struct pyvmm_vcpu *vcpu, bool once)
{
    int64_t code = begin_run(vcpu);
    if (code != 0)
        return code;
    code = run_loop(vcpu, once);
    end_run(vcpu);
    return code;
}

int64_t pyvmm_vcpu_run(struct pyvmm_vcpu *vcpu)
{
    return run(vcpu, false);
}

int64_t pyvmm_vcpu_run_once(struct pyvmm_vcpu *vcpu)
{
    return run(vcpu, true);
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
    vcpu->completed = vcpu->undelivered;
    end_run(vcpu);
    return result;
}

int pyvmm_vcpu_keeps_exit(const struct pyvmm_vcpu *vcpu)
{
    return vcpu->undelivered;
}

/* A completion may exit again, once for each part of an access: an instruction has few. */
int pyvmm_vcpu_drop_exit(struct pyvmm_vcpu *vcpu)
{
    for (int i = 0; i < MOST_PARTS; i++) {
        vcpu->undelivered = false;
        int result = pyvmm_vcpu_complete(vcpu);
        if (result != 0 || !vcpu->undelivered)
            return result;
    }
    return -EBUSY;
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

int64_t pyvmm_vcpu_take_coalesced(struct pyvmm_vcpu *vcpu, uint64_t offset,
                                  struct kvm_coalesced_mmio *out)
{
    const uint64_t entries = PYVMM_COALESCED_ENTRIES;
    const uint64_t size = sizeof(struct kvm_coalesced_mmio_ring) +
                          entries * sizeof(struct kvm_coalesced_mmio);
    int64_t result = -EBADF;
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->run != NULL && offset <= vcpu->run_size && size <= vcpu->run_size - offset) {
        void *ring = (uint8_t *)vcpu->run + offset;
        result = pyvmm_posted_take_coalesced(vcpu->posted, ring, (uint32_t)entries, out);
    }
    pthread_mutex_unlock(&vcpu->lock);
    return result;
}

const struct pyvmm_history *pyvmm_vcpu_history(const struct pyvmm_vcpu *vcpu)
{
    return &vcpu->history;
}
