/* SPDX-License-Identifier: MIT */
/*
 * The system calls of conversions, answered by a test: `answered` gets the name's first letter, a
 * GPA (an address, a file offset) and a size, and gives an errno.
 */
#include "conversions.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/types.h>

#define KVM_SET_MEMORY_ATTRIBUTES 0x4020aed2UL
#define KVM_SET_MEMORY_ATTRIBUTES2 0xc080aed2UL

typedef int (*answer_function)(int what, uint64_t at, uint64_t size);

static answer_function answer;

void answer_with(answer_function function)
{
    answer = function;
}

static int answered(int what, uint64_t at, uint64_t size)
{
    errno = answer(what, at, size);
    return errno == 0 ? 0 : -1;
}

int fake_ioctl(int fd, unsigned long request, ...)
{
    (void)fd;
    va_list arguments;
    va_start(arguments, request);
    const void *argument = va_arg(arguments, const void *);
    va_end(arguments);
    if (request == KVM_SET_MEMORY_ATTRIBUTES2) {
        const uint64_t *in_file = argument; /* offset, size, attributes, flags */
        return answered(in_file[2] ? 'P' : 'S', in_file[0], in_file[1]);
    }
    if (request != KVM_SET_MEMORY_ATTRIBUTES) {
        const struct kvm_userspace_memory_region2 *region = argument;
        return answered('m', region->guest_phys_addr, region->memory_size);
    }
    const struct kvm_memory_attributes *attributes = argument;
    return answered(attributes->attributes ? 'p' : 's', attributes->address, attributes->size);
}

int fake_madvise(void *address, size_t size, int advice)
{
    (void)advice;
    return answered('r', (uintptr_t)address, size);
}

int fake_fallocate(int fd, int mode, off_t offset, off_t size)
{
    (void)fd, (void)mode;
    return answered('h', (uint64_t)offset, (uint64_t)size);
}
