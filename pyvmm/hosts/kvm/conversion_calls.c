/* SPDX-License-Identifier: MIT */
/* Calls of the kernel by which pages are converted. See conversions_inside.h. */
#define _GNU_SOURCE
#include "conversions_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define KVM_SET_MEMORY_ATTRIBUTES 0x4020aed2UL
/* An ioctl of a guest_memfd, as posted: _IOWR(0xae, 0xd2, struct kvm_memory_attributes2). */
#define KVM_SET_MEMORY_ATTRIBUTES2 0xc080aed2UL

/* A call that is still interrupted after this many times has failed. EAGAIN takes a while, for which
 * Python gives the lock away. */
#define ATTEMPTS 1000

/* As posted; no released header has it. All in bytes of the file. */
struct memory_attributes2 {
    uint64_t offset;
    uint64_t size;
    uint64_t attributes;
    uint64_t flags;
    uint64_t error_offset;
    uint64_t reserved[11];
};

static bool shall_try_again(int attempt)
{
    return errno == EINTR && attempt < ATTEMPTS;
}

static bool issue(int fd, unsigned long number, void *argument)
{
    for (int attempt = 1;; attempt++) {
        if (ioctl(fd, number, argument) == 0)
            return true;
        if (!shall_try_again(attempt))
            return false;
    }
}

bool pyvmm_conversion_of_vm(int vm_fd, const struct request *request)
{
    struct kvm_memory_attributes attributes = {
        .address = request->gpa,
        .size = request->size,
        .attributes = request->to_private ? PYVMM_ATTRIBUTE_PRIVATE : 0,
    };
    return issue(vm_fd, KVM_SET_MEMORY_ATTRIBUTES, &attributes);
}

bool pyvmm_conversion_in_file(const struct pyvmm_served_span *span, const struct request *request)
{
    struct memory_attributes2 attributes = {
        .offset = span->guest_memfd_offset + (request->gpa - span->gpa),
        .size = request->size,
        .attributes = request->to_private ? PYVMM_ATTRIBUTE_PRIVATE : 0,
    };
    return issue(span->guest_memfd, KVM_SET_MEMORY_ATTRIBUTES2, &attributes);
}

bool pyvmm_conversion_discard(const struct pyvmm_served_span *span, const struct request *request)
{
    uint64_t offset = request->gpa - span->gpa;
    for (int attempt = 1;; attempt++) {
        int result;
        if (request->to_private)
            result = madvise((void *)(uintptr_t)(span->hva + offset), request->size, MADV_REMOVE);
        else
            result = fallocate(span->guest_memfd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
                               (off_t)(span->guest_memfd_offset + offset), (off_t)request->size);
        if (result == 0)
            return true;
        if (!shall_try_again(attempt))
            return false;
    }
}
