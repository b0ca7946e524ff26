/* SPDX-License-Identifier: MIT */
/*
 * A guest on /dev/kvm in plain C: what the baselines share. Every step is the system call that
 * pyvmm makes for the same step, and nothing else. A failure ends the process with a line on
 * standard error.
 */
#pragma once

#define _GNU_SOURCE
#include "../pyvmm/hosts/kvm/kvm_abi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define KVM_GET_API_VERSION 0xae00UL
#define KVM_CREATE_VM 0xae01UL
#define KVM_CHECK_EXTENSION 0xae03UL
#define KVM_GET_VCPU_MMAP_SIZE 0xae04UL
#define KVM_GET_SUPPORTED_CPUID 0xc008ae05UL
#define KVM_CREATE_VCPU 0xae41UL
#define KVM_CREATE_IRQCHIP 0xae60UL
#define KVM_SET_USER_MEMORY_REGION 0x4020ae46UL
#define KVM_SET_USER_MEMORY_REGION2 0x40a0ae49UL
#define KVM_CREATE_GUEST_MEMFD 0xc040aed4UL
#define KVM_RUN 0xae80UL
#define KVM_SET_REGS 0x4090ae82UL
#define KVM_GET_SREGS 0x8138ae83UL
#define KVM_SET_SREGS 0x4138ae84UL
#define KVM_SET_CPUID2 0x4008ae90UL

#define KVM_CAP_USER_MEMORY2 231
#define KVM_CAP_GUEST_MEMFD 234
#define KVM_CAP_GUEST_MEMFD_FLAGS 244
#define GUEST_MEMFD_MMAP_AND_INIT_SHARED 3UL
#define KVM_MEM_GUEST_MEMFD 4U

#define KVM_EXIT_IO 2

#define FLAT_ENTRY 0x7c00
#define CPUID_ROOM 128

struct guest {
    bool irqchip; /* set before open_guest: with interrupt controllers */
    int kvm;
    int vm;
    int vcpu;
    int memfd;
    uint8_t *ram;
    size_t ram_size;
    struct kvm_run *run;
    size_t run_size;
};

__attribute__((noreturn)) static inline void give_up(const char *attempt)
{
    fprintf(stderr, "%s: %s\n", attempt, strerror(errno));
    exit(1);
}

static inline int checked(int result, const char *attempt)
{
    if (result < 0)
        give_up(attempt);
    return result;
}

/* A positive number from the command line. */
static inline unsigned long long number(const char *text)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 0);
    if (*text == '\0' || *end != '\0' || value == 0) {
        fprintf(stderr, "not a positive number: %s\n", text);
        exit(2);
    }
    return value;
}

static inline double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

static inline bool offers(int kvm, unsigned long capability)
{
    return ioctl(kvm, KVM_CHECK_EXTENSION, capability) > 0;
}

/* Whether there is a guest_memfd that can be mapped. Asked once a process, as pyvmm does. */
static inline bool maps_guest_memfd(int kvm)
{
    static int answer = -1;
    if (answer < 0) {
        int flags = ioctl(kvm, KVM_CHECK_EXTENSION, (unsigned long)KVM_CAP_GUEST_MEMFD_FLAGS);
        answer = offers(kvm, KVM_CAP_USER_MEMORY2) && offers(kvm, KVM_CAP_GUEST_MEMFD) &&
                 (flags & (int)GUEST_MEMFD_MMAP_AND_INIT_SHARED) == 3;
    }
    return answer != 0;
}

/* Guest RAM as pyvmm chooses it: a mapped guest_memfd where there is one, a memfd elsewhere. */
static inline void give_ram(struct guest *guest)
{
    bool guest_memfd = maps_guest_memfd(guest->kvm);
    if (guest_memfd) {
        struct kvm_create_guest_memfd create = {
            .size = guest->ram_size,
            .flags = GUEST_MEMFD_MMAP_AND_INIT_SHARED,
        };
        guest->memfd =
            checked(ioctl(guest->vm, KVM_CREATE_GUEST_MEMFD, &create), "create a guest_memfd");
    } else {
        guest->memfd = checked(memfd_create("baseline", MFD_CLOEXEC), "create a memfd");
        checked(ftruncate(guest->memfd, (off_t)guest->ram_size), "size the memfd");
    }
    guest->ram = mmap(NULL, guest->ram_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                      guest->memfd, 0);
    if (guest->ram == MAP_FAILED)
        give_up("map guest RAM");
    if (guest_memfd) {
        struct kvm_userspace_memory_region2 region = {
            .flags = KVM_MEM_GUEST_MEMFD,
            .memory_size = guest->ram_size,
            .userspace_addr = (uintptr_t)guest->ram,
            .guest_memfd = (uint32_t)guest->memfd,
        };
        checked(ioctl(guest->vm, KVM_SET_USER_MEMORY_REGION2, &region), "set a memslot");
    } else {
        struct kvm_userspace_memory_region region = {
            .memory_size = guest->ram_size,
            .userspace_addr = (uintptr_t)guest->ram,
        };
        checked(ioctl(guest->vm, KVM_SET_USER_MEMORY_REGION, &region), "set a memslot");
    }
}

/* Every CPUID feature of the host, with the APIC id of vCPU 0. Asked once a process, as pyvmm does. */
static inline void give_cpuid(const struct guest *guest)
{
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 room[CPUID_ROOM];
    } table;
    if (table.head.nent == 0) {
        table.head.nent = CPUID_ROOM;
        checked(ioctl(guest->kvm, KVM_GET_SUPPORTED_CPUID, &table), "ask for CPUID");
    }
    for (uint32_t i = 0; i < table.head.nent; i++) {
        struct kvm_cpuid_entry2 *entry = &table.room[i];
        if (entry->function == 1)
            entry->ebx &= 0x00ffffffU;
        else if (entry->function == 0xb || entry->function == 0x1f)
            entry->edx = 0;
    }
    checked(ioctl(guest->vcpu, KVM_SET_CPUID2, &table), "set CPUID");
}

/* Real mode at 0:0x7c00, as pyvmm enters a flat image. */
static inline void give_entry(const struct guest *guest)
{
    struct kvm_sregs sregs;
    checked(ioctl(guest->vcpu, KVM_GET_SREGS, &sregs), "get special registers");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    checked(ioctl(guest->vcpu, KVM_SET_SREGS, &sregs), "set special registers");
    struct kvm_regs regs = {
        .rip = FLAT_ENTRY, .rsp = FLAT_ENTRY, .rdx = 0x80, .rflags = 2};
    checked(ioctl(guest->vcpu, KVM_SET_REGS, &regs), "set registers");
}

/* From nothing to a vCPU that is ready to execute `code`. */
static inline void open_guest(struct guest *guest, size_t ram_size, const void *code, size_t size)
{
    guest->ram_size = ram_size;
    guest->kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
    if (ioctl(guest->kvm, KVM_GET_API_VERSION, 0UL) != 12)
        give_up("use an API of version 12");
    guest->run_size =
        (size_t)checked(ioctl(guest->kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL), "ask for kvm_run's size");
    guest->vm = checked(ioctl(guest->kvm, KVM_CREATE_VM, 0UL), "create a VM");
    give_ram(guest);
    if (guest->irqchip)
        checked(ioctl(guest->vm, KVM_CREATE_IRQCHIP, 0UL), "create interrupt controllers");
    memcpy(guest->ram + FLAT_ENTRY, code, size);
    guest->vcpu = checked(ioctl(guest->vm, KVM_CREATE_VCPU, 0UL), "create a vCPU");
    guest->run = mmap(NULL, guest->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->vcpu, 0);
    if (guest->run == MAP_FAILED)
        give_up("map kvm_run");
    give_cpuid(guest);
    give_entry(guest);
}

static inline void close_guest(struct guest *guest)
{
    munmap(guest->run, guest->run_size);
    close(guest->vcpu);
    munmap(guest->ram, guest->ram_size);
    close(guest->memfd);
    close(guest->vm);
    close(guest->kvm);
}

/* Runs to the next exit, which must be a one-byte write to `port`; the byte. */
static inline uint8_t run_to_out(const struct guest *guest, uint16_t port)
{
    struct kvm_run *run = guest->run;
    if (ioctl(guest->vcpu, KVM_RUN, 0UL) != 0)
        give_up("run the guest");
    if (run->exit_reason != KVM_EXIT_IO || run->u.io.direction != 1 || run->u.io.port != port ||
        run->u.io.size != 1 || run->u.io.count != 1) {
        fprintf(stderr, "the guest stopped for reason %u\n", run->exit_reason);
        exit(1);
    }
    return *((uint8_t *)run + run->u.io.data_offset);
}
