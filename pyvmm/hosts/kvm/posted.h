/* SPDX-License-Identifier: MIT */
/*
 * Guest writes that are taken without an exit to Python: posted port accesses (ours), and the
 * draining of coalesced ones (the kernel's). cffi reads this file as well (see kvm_abi.h).
 */
#ifndef PYVMM_CDEF
#pragma once
#include "kvm_abi.h"
#include <stdbool.h>
#endif

struct pyvmm_posted;

#define PYVMM_POST_WRITE 0x100
#define PYVMM_POST_READ 0x200

#define PYVMM_POSTED_CAPACITY 65536

/* (4096 - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio) */
#define PYVMM_COALESCED_ENTRIES 170

struct pyvmm_posted_write {
    uint16_t port;
    uint8_t value;
    uint8_t pad;
};

/* One per VM. The capacity in entries is a power of two, at most PYVMM_POSTED_CAPACITY. */
struct pyvmm_posted *pyvmm_posted_new(uint32_t capacity);
void pyvmm_posted_free(struct pyvmm_posted *posted);
/* Closes the eventfd; further writes are still taken, but nobody is woken. */
void pyvmm_posted_close(struct pyvmm_posted *posted);
int pyvmm_posted_eventfd(struct pyvmm_posted *posted);
/* `rule`: PYVMM_POST_WRITE | PYVMM_POST_READ | the byte that a read gives. */
void pyvmm_posted_set_rule(struct pyvmm_posted *posted, uint16_t port, uint16_t rule);
/* Takes up to `room` entries; returns how many. Makes the eventfd unreadable. */
uint32_t pyvmm_posted_drain(struct pyvmm_posted *posted, struct pyvmm_posted_write *out,
                            uint32_t room);
uint16_t pyvmm_posted_rule(struct pyvmm_posted *posted, uint16_t port);
/* False when the ring is full: nothing was taken. */
bool pyvmm_posted_push(struct pyvmm_posted *posted, uint16_t port, uint8_t value);
/* Empties a kernel ring of `entries` entries, one caller of the VM's at a time. */
uint32_t pyvmm_posted_take_coalesced(struct pyvmm_posted *posted,
                                     struct kvm_coalesced_mmio_ring *ring, uint32_t entries,
                                     struct kvm_coalesced_mmio *out);
