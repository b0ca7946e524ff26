/* SPDX-License-Identifier: MIT */
/* What KVM_RUN left behind, as the code that pyvmm_vcpu_run returns. See run.h. */
#include "run.h"

#include <errno.h>

static bool io_is_sound(const struct kvm_run *run, uint64_t run_size)
{
    uint64_t size = run->u.io.size;
    uint64_t offset = run->u.io.data_offset;
    return (size == 1 || size == 2 || size == 4) && offset >= sizeof(struct kvm_run) &&
           offset <= run_size && size * run->u.io.count <= run_size - offset;
}

/* With an error the reason is what an earlier run left behind, except for a fault on memory. */
static int64_t error_code(uint32_t reason, int run_errno)
{
    if (run_errno == EFAULT && reason == KVM_EXIT_MEMORY_FAULT)
        return PYVMM_FAULT_EFAULT;
    if (run_errno == EHWPOISON && reason == KVM_EXIT_MEMORY_FAULT)
        return PYVMM_FAULT_EHWPOISON;
    if (run_errno == EINTR || run_errno == EAGAIN)
        return PYVMM_INTERRUPTED;
    return -run_errno;
}

int64_t pyvmm_exit_code(const struct kvm_run *run, uint64_t run_size, int run_errno)
{
    uint32_t reason = run->exit_reason;
    if (run_errno != 0)
        return error_code(reason, run_errno);
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
        code |= 1LL << 24 | (int64_t)(pyvmm_little_endian(data, run->u.io.size) << 25);
    }
    return code;
}
