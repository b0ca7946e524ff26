/* SPDX-License-Identifier: MIT */
/* System calls, and reading of memory shared with the kernel. See calls.h. */
#define _GNU_SOURCE
#include "calls.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

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

int64_t pyvmm_map(int fd, uint64_t size, int flags, uint64_t offset)
{
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, (off_t)offset);
    return address != MAP_FAILED ? (int64_t)(intptr_t)address : -errno;
}

int pyvmm_map_zeroes_over(uint64_t hva, uint64_t size)
{
    void *address = mmap((void *)(uintptr_t)hva, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return address != MAP_FAILED ? 0 : -errno;
}

int pyvmm_leave_out_of_core(uint64_t hva, uint64_t size)
{
    return madvise((void *)(uintptr_t)hva, size, MADV_DONTDUMP) == 0 ? 0 : -errno;
}

int pyvmm_unmap(uint64_t hva, uint64_t size)
{
    return munmap((void *)(uintptr_t)hva, size) == 0 ? 0 : -errno;
}

int pyvmm_fallocate(int fd, int mode, uint64_t offset, uint64_t size)
{
    return fallocate(fd, mode, (off_t)offset, (off_t)size) == 0 ? 0 : -errno;
}

int pyvmm_discard(uint64_t hva, uint64_t size)
{
    return madvise((void *)(uintptr_t)hva, size, MADV_REMOVE) == 0 ? 0 : -errno;
}

int64_t pyvmm_resident_pages(uint64_t hva, uint64_t size)
{
    unsigned char pages[4096]; /* one byte each, whose lowest bit says "in memory" */
    int64_t count = 0;
    while (size != 0) {
        uint64_t part = size < sizeof(pages) * PAGE_SIZE ? size : sizeof(pages) * PAGE_SIZE;
        if (mincore((void *)(uintptr_t)hva, part, pages) != 0) {
            if (errno == EAGAIN)
                continue;
            return -errno;
        }
        for (uint64_t i = 0; i < part / PAGE_SIZE; i++)
            count += pages[i] & 1;
        hva += part;
        size -= part;
    }
    return count;
}

/* cachestat(2), since Linux 6.5; unknown to the C library and the headers of Debian 12. */
#define CACHESTAT 451

struct cachestat_range {
    uint64_t offset;
    uint64_t size; /* 0: up to the end of the file */
};

struct cachestat_result {
    uint64_t in_memory;
    uint64_t dirty;
    uint64_t under_writeback;
    uint64_t evicted;
    uint64_t recently_evicted;
};

int64_t pyvmm_cached_pages(int fd, uint64_t offset, uint64_t size)
{
    struct cachestat_range range = {offset, size};
    struct cachestat_result result = {0};
    if (size == 0)
        return 0;
    if (syscall(CACHESTAT, fd, &range, &result, 0U) != 0)
        return -errno;
    return (int64_t)result.in_memory;
}

/* Flags of struct kvm_dirty_gfn (api.rst 8.29). */
#define DIRTY 1U
#define RESET 2U

uint32_t pyvmm_take_dirty(struct kvm_dirty_gfn *ring, uint32_t entries, uint32_t first,
                          struct kvm_dirty_gfn *out, uint32_t room)
{
    uint32_t count = 0;
    while (count < room && count < entries) {
        struct kvm_dirty_gfn *entry = &ring[(first + count) % entries];
        /* Acquire, then release: the rest of the entry is the kernel's until it sets DIRTY, and is
         * the kernel's again once RESET is set. */
        if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) != DIRTY)
            break;
        out[count] = *entry;
        __atomic_store_n(&entry->flags, RESET, __ATOMIC_RELEASE);
        count++;
    }
    return count;
}
