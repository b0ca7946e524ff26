/* System calls, and reading of memory shared with the kernel. See calls.h. */
#define _GNU_SOURCE
#include "calls.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

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

int pyvmm_unmap(uint64_t hva, uint64_t size)
{
    return munmap((void *)(uintptr_t)hva, size) == 0 ? 0 : -errno;
}

int pyvmm_fallocate(int fd, int mode, uint64_t offset, uint64_t size)
{
    return fallocate(fd, mode, (off_t)offset, (off_t)size) == 0 ? 0 : -errno;
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
