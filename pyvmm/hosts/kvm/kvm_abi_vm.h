/* SPDX-License-Identifier: MIT */
/* What the ioctls of /dev/kvm, VMs and devices take, but for CPUID. See kvm_abi.h. */
#ifndef PYVMM_CDEF
#pragma once
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#endif

struct kvm_userspace_memory_region {
    uint32_t slot;
    uint32_t flags;
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
};

struct kvm_userspace_memory_region2 {
    uint32_t slot;
    uint32_t flags;
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
    uint64_t guest_memfd_offset;
    uint32_t guest_memfd;
    uint32_t pad1;
    uint64_t pad2[14];
};

struct kvm_create_guest_memfd {
    uint64_t size;
    uint64_t flags;
    uint64_t reserved[6];
};

struct kvm_memory_attributes {
    uint64_t address;
    uint64_t size;
    uint64_t attributes;
    uint64_t flags;
};

struct kvm_pre_fault_memory {
    uint64_t gpa;
    uint64_t size;
    uint64_t flags;
    uint64_t padding[5];
};

struct kvm_enable_cap {
    uint32_t cap;
    uint32_t flags;
    uint64_t args[4];
    uint8_t pad[64];
};

struct kvm_dirty_log {
    uint32_t slot;
    uint32_t padding1;
    uint64_t dirty_bitmap;
};

struct kvm_clear_dirty_log {
    uint32_t slot;
    uint32_t num_pages;
    uint64_t first_page;
    uint64_t dirty_bitmap;
};

struct kvm_dirty_gfn {
    uint32_t flags;
    uint32_t slot;
    uint64_t offset;
};

struct kvm_clock_data {
    uint64_t clock;
    uint32_t flags;
    uint32_t pad0;
    uint64_t realtime;
    uint64_t host_tsc;
    uint32_t pad[4];
};

struct kvm_create_device {
    uint32_t type;
    uint32_t fd;
    uint32_t flags;
};

struct kvm_device_attr {
    uint32_t flags;
    uint32_t group;
    uint64_t attr;
    uint64_t addr;
};

/* Interrupts. */

struct kvm_irq_level {
    uint32_t irq;
    uint32_t level;
};

struct kvm_pic_state {
    uint8_t last_irr;
    uint8_t irr;
    uint8_t imr;
    uint8_t isr;
    uint8_t priority_add;
    uint8_t irq_base;
    uint8_t read_reg_select;
    uint8_t poll;
    uint8_t special_mask;
    uint8_t init_state;
    uint8_t auto_eoi;
    uint8_t rotate_on_auto_eoi;
    uint8_t special_fully_nested_mode;
    uint8_t init4;
    uint8_t elcr;
    uint8_t elcr_mask;
};

struct kvm_ioapic_state {
    uint64_t base_address;
    uint32_t ioregsel;
    uint32_t id;
    uint32_t irr;
    uint32_t pad;
    uint64_t redirtbl[24];
};

struct kvm_irqchip {
    uint32_t chip_id;
    uint32_t pad;
    union {
        uint8_t dummy[512];
        struct kvm_pic_state pic;
        struct kvm_ioapic_state ioapic;
    } chip;
};

struct kvm_pit_config {
    uint32_t flags;
    uint32_t pad[15];
};

struct kvm_pit_channel_state {
    uint32_t count;
    uint16_t latched_count;
    uint8_t count_latched;
    uint8_t status_latched;
    uint8_t status;
    uint8_t read_state;
    uint8_t write_state;
    uint8_t write_latch;
    uint8_t rw_mode;
    uint8_t mode;
    uint8_t bcd;
    uint8_t gate;
    int64_t count_load_time;
};

struct kvm_pit_state2 {
    struct kvm_pit_channel_state channels[3];
    uint32_t flags;
    uint32_t reserved[9];
};

struct kvm_irqfd {
    uint32_t fd;
    uint32_t gsi;
    uint32_t flags;
    uint32_t resamplefd;
    uint8_t pad[16];
};

struct kvm_ioeventfd {
    uint64_t datamatch;
    uint64_t addr;
    uint32_t len;
    int32_t fd;
    uint32_t flags;
    uint8_t pad[36];
};

struct kvm_irq_routing_irqchip {
    uint32_t irqchip;
    uint32_t pin;
};

struct kvm_irq_routing_msi {
    uint32_t address_lo;
    uint32_t address_hi;
    uint32_t data;
    uint32_t devid;
};

struct kvm_irq_routing_entry {
    uint32_t gsi;
    uint32_t type;
    uint32_t flags;
    uint32_t pad;
    union {
        struct kvm_irq_routing_irqchip irqchip;
        struct kvm_irq_routing_msi msi;
        uint32_t pad[8];
    } u;
};

struct kvm_irq_routing {
    uint32_t nr;
    uint32_t flags;
    struct kvm_irq_routing_entry entries[];
};

struct kvm_msi {
    uint32_t address_lo;
    uint32_t address_hi;
    uint32_t data;
    uint32_t flags;
    uint32_t devid;
    uint8_t pad[12];
};

struct kvm_coalesced_mmio_zone {
    uint64_t addr;
    uint32_t size;
    uint32_t pio;
};

struct kvm_coalesced_mmio {
    uint64_t phys_addr;
    uint32_t len;
    uint32_t pio;
    uint8_t data[8];
};

struct kvm_coalesced_mmio_ring {
    uint32_t first;
    uint32_t last;
    struct kvm_coalesced_mmio coalesced_mmio[];
};

#ifndef PYVMM_CDEF
static_assert(sizeof(struct kvm_userspace_memory_region) == 32, "ABI");
static_assert(sizeof(struct kvm_userspace_memory_region2) == 160, "ABI");
static_assert(sizeof(struct kvm_create_guest_memfd) == 64, "ABI");
static_assert(sizeof(struct kvm_memory_attributes) == 32, "ABI");
static_assert(sizeof(struct kvm_pre_fault_memory) == 64, "ABI");
static_assert(sizeof(struct kvm_enable_cap) == 104, "ABI");
static_assert(sizeof(struct kvm_dirty_log) == 16, "ABI");
static_assert(sizeof(struct kvm_clear_dirty_log) == 24, "ABI");
static_assert(sizeof(struct kvm_dirty_gfn) == 16, "ABI");
static_assert(sizeof(struct kvm_clock_data) == 48, "ABI");
static_assert(sizeof(struct kvm_create_device) == 12, "ABI");
static_assert(sizeof(struct kvm_device_attr) == 24, "ABI");
static_assert(sizeof(struct kvm_irq_level) == 8, "ABI");
static_assert(sizeof(struct kvm_pic_state) == 16, "ABI");
static_assert(sizeof(struct kvm_ioapic_state) == 216, "ABI");
static_assert(sizeof(struct kvm_irqchip) == 520, "ABI");
static_assert(sizeof(struct kvm_pit_config) == 64, "ABI");
static_assert(sizeof(struct kvm_pit_channel_state) == 24, "ABI");
static_assert(sizeof(struct kvm_pit_state2) == 112, "ABI");
static_assert(sizeof(struct kvm_irqfd) == 32, "ABI");
static_assert(sizeof(struct kvm_ioeventfd) == 64, "ABI");
static_assert(sizeof(struct kvm_irq_routing_entry) == 48, "ABI");
static_assert(sizeof(struct kvm_irq_routing) == 8, "ABI");
static_assert(sizeof(struct kvm_msi) == 32, "ABI");
static_assert(sizeof(struct kvm_coalesced_mmio_zone) == 16, "ABI");
static_assert(sizeof(struct kvm_coalesced_mmio) == 24, "ABI");
static_assert(offsetof(struct kvm_coalesced_mmio_ring, coalesced_mmio) == 8, "ABI");
#endif
