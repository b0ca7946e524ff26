/* SPDX-License-Identifier: MIT */
/* What the ioctls of vCPUs take, statistics, and struct kvm_run. See kvm_abi.h. */
#ifndef PYVMM_CDEF
#pragma once
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#endif

/* The state of a vCPU. */

struct kvm_regs {
    uint64_t rax, rbx, rcx, rdx;
    uint64_t rsi, rdi, rsp, rbp;
    uint64_t r8, r9, r10, r11;
    uint64_t r12, r13, r14, r15;
    uint64_t rip, rflags;
};

struct kvm_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint8_t type;
    uint8_t present, dpl, db, s, l, g, avl;
    uint8_t unusable;
    uint8_t padding;
};

struct kvm_dtable {
    uint64_t base;
    uint16_t limit;
    uint16_t padding[3];
};

struct kvm_sregs {
    struct kvm_segment cs, ds, es, fs, gs, ss;
    struct kvm_segment tr, ldt;
    struct kvm_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t efer;
    uint64_t apic_base;
    uint64_t interrupt_bitmap[4];
};

struct kvm_sregs2 {
    struct kvm_segment cs, ds, es, fs, gs, ss;
    struct kvm_segment tr, ldt;
    struct kvm_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t efer;
    uint64_t apic_base;
    uint64_t flags;
    uint64_t pdptrs[4];
};

struct kvm_fpu {
    uint8_t fpr[8][16];
    uint16_t fcw;
    uint16_t fsw;
    uint8_t ftwx;
    uint8_t pad1;
    uint16_t last_opcode;
    uint64_t last_ip;
    uint64_t last_dp;
    uint8_t xmm[16][16];
    uint32_t mxcsr;
    uint32_t pad2;
};

struct kvm_xsave {
    uint32_t region[1024];
    uint32_t extra[];
};

struct kvm_xcr {
    uint32_t xcr;
    uint32_t reserved;
    uint64_t value;
};

struct kvm_xcrs {
    uint32_t nr_xcrs;
    uint32_t flags;
    struct kvm_xcr xcrs[16];
    uint64_t padding[16];
};

struct kvm_msr_entry {
    uint32_t index;
    uint32_t reserved;
    uint64_t data;
};

struct kvm_msrs {
    uint32_t nmsrs;
    uint32_t pad;
    struct kvm_msr_entry entries[];
};

struct kvm_msr_list {
    uint32_t nmsrs;
    uint32_t indices[];
};

struct kvm_msr_filter_range {
    uint32_t flags;
    uint32_t nmsrs;
    uint32_t base;
    uint64_t bitmap;
};

struct kvm_msr_filter {
    uint32_t flags;
    struct kvm_msr_filter_range ranges[16];
};

struct kvm_cpuid_entry2 {
    uint32_t function;
    uint32_t index;
    uint32_t flags;
    uint32_t eax;
    uint32_t ebx;
    uint32_t ecx;
    uint32_t edx;
    uint32_t padding[3];
};

struct kvm_cpuid2 {
    uint32_t nent;
    uint32_t padding;
    struct kvm_cpuid_entry2 entries[];
};

struct kvm_lapic_state {
    uint8_t regs[1024];
};

struct kvm_vcpu_events {
    struct {
        uint8_t injected;
        uint8_t nr;
        uint8_t has_error_code;
        uint8_t pending;
        uint32_t error_code;
    } exception;
    struct {
        uint8_t injected;
        uint8_t nr;
        uint8_t soft;
        uint8_t shadow;
    } interrupt;
    struct {
        uint8_t injected;
        uint8_t pending;
        uint8_t masked;
        uint8_t pad;
    } nmi;
    uint32_t sipi_vector;
    uint32_t flags;
    struct {
        uint8_t smm;
        uint8_t pending;
        uint8_t smm_inside_nmi;
        uint8_t latched_init;
    } smi;
    struct {
        uint8_t pending;
    } triple_fault;
    uint8_t reserved[26];
    uint8_t exception_has_payload;
    uint64_t exception_payload;
};

/* The header; the state follows where there is more: VMCS or VMCB of the guest's guest. */
struct kvm_nested_state {
    uint16_t flags;
    uint16_t format;
    uint32_t size;
    uint64_t hdr[15];
};

struct kvm_debugregs {
    uint64_t db[4];
    uint64_t dr6;
    uint64_t dr7;
    uint64_t flags;
    uint64_t reserved[9];
};

struct kvm_mp_state {
    uint32_t mp_state;
};

struct kvm_translation {
    uint64_t linear_address;
    uint64_t physical_address;
    uint8_t valid;
    uint8_t writeable;
    uint8_t usermode;
    uint8_t pad[5];
};

struct kvm_guest_debug {
    uint32_t control;
    uint32_t pad;
    uint64_t debugreg[8];
};

struct kvm_interrupt {
    uint32_t irq;
};

struct kvm_signal_mask {
    uint32_t len;
    uint8_t sigset[];
};

/* Statistics. */

struct kvm_stats_header {
    uint32_t flags;
    uint32_t name_size;
    uint32_t num_desc;
    uint32_t id_offset;
    uint32_t desc_offset;
    uint32_t data_offset;
};

struct kvm_stats_desc {
    uint32_t flags;
    int16_t exponent;
    uint16_t size;
    uint32_t offset;
    uint32_t bucket_size;
    char name[];
};

/* The page that KVM_RUN communicates through. */

struct kvm_sync_regs {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_vcpu_events events;
};

struct kvm_run {
    uint8_t request_interrupt_window;
    uint8_t immediate_exit;
    uint8_t padding1[6];
    uint32_t exit_reason;
    uint8_t ready_for_interrupt_injection;
    uint8_t if_flag;
    uint16_t flags;
    uint64_t cr8;
    uint64_t apic_base;
    union {
        struct {
            uint64_t hardware_exit_reason;
        } hw;
        struct {
            uint64_t hardware_entry_failure_reason;
            uint32_t cpu;
        } fail_entry;
        struct {
            uint8_t direction;
            uint8_t size;
            uint16_t port;
            uint32_t count;
            uint64_t data_offset;
        } io;
        struct {
            uint32_t exception;
            uint32_t pad;
            uint64_t pc;
            uint64_t dr6;
            uint64_t dr7;
        } debug;
        struct {
            uint64_t phys_addr;
            uint8_t data[8];
            uint32_t len;
            uint8_t is_write;
        } mmio;
        struct {
            uint64_t nr;
            uint64_t args[6];
            uint64_t ret;
            uint64_t flags;
        } hypercall;
        struct {
            uint32_t suberror;
            uint32_t ndata;
            uint64_t data[16];
        } internal;
        struct {
            uint32_t type;
            uint32_t ndata;
            uint64_t data[16];
        } system_event;
        struct {
            uint8_t vector;
        } eoi;
        struct {
            uint8_t error;
            uint8_t pad[7];
            uint32_t reason;
            uint32_t index;
            uint64_t data;
        } msr;
        struct {
            uint64_t flags;
            uint64_t gpa;
            uint64_t size;
        } memory_fault;
        uint8_t padding[256];
    } u;
    uint64_t kvm_valid_regs;
    uint64_t kvm_dirty_regs;
    union {
        struct kvm_sync_regs regs;
        uint8_t padding[2048];
    } s;
};

#ifndef PYVMM_CDEF
static_assert(sizeof(struct kvm_regs) == 144, "ABI");
static_assert(sizeof(struct kvm_segment) == 24, "ABI");
static_assert(sizeof(struct kvm_dtable) == 16, "ABI");
static_assert(sizeof(struct kvm_sregs) == 312, "ABI");
static_assert(sizeof(struct kvm_sregs2) == 320, "ABI");
static_assert(sizeof(struct kvm_fpu) == 416, "ABI");
static_assert(sizeof(struct kvm_xsave) == 4096, "ABI");
static_assert(sizeof(struct kvm_xcrs) == 392, "ABI");
static_assert(sizeof(struct kvm_msr_entry) == 16, "ABI");
static_assert(sizeof(struct kvm_msrs) == 8, "ABI");
static_assert(sizeof(struct kvm_msr_list) == 4, "ABI");
static_assert(sizeof(struct kvm_msr_filter) == 392, "ABI");
static_assert(sizeof(struct kvm_cpuid_entry2) == 40, "ABI");
static_assert(sizeof(struct kvm_cpuid2) == 8, "ABI");
static_assert(sizeof(struct kvm_lapic_state) == 1024, "ABI");
static_assert(sizeof(struct kvm_vcpu_events) == 64, "ABI");
static_assert(sizeof(struct kvm_nested_state) == 128, "ABI");
static_assert(sizeof(struct kvm_debugregs) == 128, "ABI");
static_assert(sizeof(struct kvm_mp_state) == 4, "ABI");
static_assert(sizeof(struct kvm_translation) == 24, "ABI");
static_assert(sizeof(struct kvm_guest_debug) == 72, "ABI");
static_assert(sizeof(struct kvm_interrupt) == 4, "ABI");
static_assert(sizeof(struct kvm_signal_mask) == 4, "ABI");
static_assert(sizeof(struct kvm_stats_header) == 24, "ABI");
static_assert(sizeof(struct kvm_stats_desc) == 16, "ABI");
static_assert(offsetof(struct kvm_run, exit_reason) == 8, "ABI");
static_assert(offsetof(struct kvm_run, cr8) == 16, "ABI");
static_assert(offsetof(struct kvm_run, u) == 32, "ABI");
static_assert(offsetof(struct kvm_run, kvm_valid_regs) == 288, "ABI");
static_assert(offsetof(struct kvm_run, s) == 304, "ABI");
static_assert(sizeof(struct kvm_run) == 2352, "ABI");
#endif
