/* SPDX-License-Identifier: MIT */
/*
 * Everything that host and guest agree on, as plain `#define NAME value` lines: tests/guest parses
 * this file and compares it with the host side. The assembler includes it too: no C here.
 */
#ifndef PYVMM_PROTOCOL_H
#define PYVMM_PROTOCOL_H

/* Bytes of a page, of both page tables and conversions. */
#define PAGE_SIZE 4096

/* ELF notes. The PVH entry point, as Xen defines it (xen/include/public/elfnote.h). */
#define NOTE_XEN_PHYS32_ENTRY 18
/* Our own, name "pyvmm": one little-endian u32 of NEED bits. */
#define NOTE_PYVMM_NEEDS 1
/* The same name: one u64, where the firmware enters the image after a private launch. */
#define NOTE_PYVMM_PRIVATE_ENTRY 2

/* An interrupt controller and a timer: the two 8259A and the 8254. */
#define NEED_INTERRUPTS 0x1

/* struct hvm_start_info (xen/include/public/arch-x86/hvm/start_info.h). */
#define PVH_START_MAGIC 0x336ec578

/* Types of the memory map: those of E820. */
#define MEMORY_RAM 1
#define MEMORY_RESERVED 2

/* The console is a 16550 UART, the debug console a port that takes bytes without any protocol. */
#define PORT_SERIAL 0x3f8
#define PORT_DEBUG_CONSOLE 0xe9

/* A write of v to this port ends the run with status v; QEMU's isa-debug-exit: (v << 1) | 1. */
#define PORT_EXIT 0xf4
#define EXIT_SUCCESS 0
#define EXIT_FAILURE 1
/* Written by a guest that panics where no pvpanic device has ended the run. */
#define EXIT_PANIC 63
#define EXIT_STATUS_MAX 63

/* pvpanic: reading gives the supported events, 0xff where there is no device; writing reports. */
#define PORT_PVPANIC 0x505
#define PVPANIC_PANICKED 0x1

/* An entry of the section .pyvmm.cases: offsets, in bytes. Name, file and body are u64 virtual addresses, */
/* those of zero-terminated texts and of code; the line is u32, reserved a u32 that is 0. */
#define CASE_BYTES 32
#define CASE_NAME 0
#define CASE_FILE 8
#define CASE_BODY 16
#define CASE_LINE 24

/* KVM's hypercalls: one that does nothing and returns 0, and the one that converts memory. */
#define HYPERCALL_VAPIC_POLL_IRQ 1
#define HYPERCALL_MAP_GPA_RANGE 12
/* MAP_GPA_RANGE's third argument: set, the range is to be private. */
#define MAP_GPA_RANGE_PRIVATE 0x10

/* 8259A pair and 8254. */
#define PORT_PIC_MASTER 0x20
#define PORT_PIC_SLAVE 0xa0
#define PORT_PIT_CHANNEL0 0x40
#define PORT_PIT_COMMAND 0x43
#define PIT_HZ 1193182

/* A console's end of file: the modem status register's DCD bit is low, or this byte (^D). */
#define CONSOLE_END_OF_FILE 0x04

/*
 * A private launch (firmware/README.md). Where things are, as GPAs: the window that stays shared, the
 * staging area that the monitor fills, the firmware with the reset vector at its end.
 */
#define WINDOW_GPA 0xc0000000
#define WINDOW_MAX 0x10000000
#define STAGING_GPA 0xd0000000
#define STAGING_MAX 0x20000000
#define FIRMWARE_GPA 0xfffe0000
#define FIRMWARE_SIZE 0x20000

/* What the firmware leaves in RAM, within what the memory map calls reserved. */
#define LAUNCH_TABLES 0xe0000
#define LAUNCH_INFO 0xe8000
#define LAUNCH_CODE 0xe9000
#define LAUNCH_MAILBOX 0xea000
#define LAUNCH_START 0xe0000
#define LAUNCH_END 0xeb000

/* A byte written when the launch is complete: staging area and firmware may go. */
#define PORT_LAUNCH 0x5f0

/* How a launch that fails ends the run. */
#define LAUNCH_MISMATCH 60
#define LAUNCH_BROKEN 61
#define LAUNCH_REFUSED 62

/*
 * The boot block, at STAGING_GPA: offsets in bytes, little endian. Size, cpus and the two counts are
 * u32, expected is a digest, reserved two u64 that are 0, the rest are u64; tables follow.
 */
#define BOOT_BLOCK_MAGIC 0x314b4c424d565950
#define BOOT_BLOCK_MAX 0x10000
#define BOOT_BLOCK_SIZE 8
#define BOOT_BLOCK_CPUS 12
#define BOOT_BLOCK_FLAGS 16
#define BOOT_BLOCK_ENTRY 24
#define BOOT_BLOCK_START_INFO 32
#define BOOT_BLOCK_REGION_COUNT 40
#define BOOT_BLOCK_RUN_COUNT 44
#define BOOT_BLOCK_WINDOW_GPA 48
#define BOOT_BLOCK_WINDOW_SIZE 56
#define BOOT_BLOCK_EXPECTED 64
#define BOOT_BLOCK_RESERVED 112
#define BOOT_BLOCK_TABLES 128
/* Regions {gpa, size}, then runs {gpa, offset from STAGING_GPA, size}. */
#define BOOT_REGION_BYTES 16
#define BOOT_RUN_BYTES 24
#define BOOT_REGIONS_MAX 4
#define BOOT_RUNS_MAX 2048
#define BOOT_CPUS_MAX 255
/* Flags: make memory private by hypercalls; `expected` counts. */
#define BOOT_CONVERT 0x1
#define BOOT_EXPECT 0x2

/* SHA-384. */
#define DIGEST_BYTES 48

/* The launch report, at FIRMWARE_GPA: status and pages are u32, detail is u64. */
#define LAUNCH_REPORT_MAGIC 0x3152524d56594c50
#define LAUNCH_REPORT_STATUS 8
#define LAUNCH_REPORT_PAGES 12
#define LAUNCH_REPORT_DIGEST 16
#define LAUNCH_REPORT_DETAIL 64
#define LAUNCH_REPORT_BYTES 72

/* The launch info, at LAUNCH_INFO, for the guest: window is two u64, the other numbers are u32. */
#define LAUNCH_INFO_MAGIC 0x314f464e49565950
#define LAUNCH_INFO_CPUS 8
#define LAUNCH_INFO_HYPERCALL 12
#define LAUNCH_INFO_PAGE_LEVEL 16
#define LAUNCH_INFO_FLAGS 20
#define LAUNCH_INFO_WINDOW_GPA 24
#define LAUNCH_INFO_WINDOW_SIZE 32
#define LAUNCH_INFO_DIGEST 40
#define LAUNCH_INFO_PARKED 88
/* How to make a hypercall. */
#define LAUNCH_HYPERCALL_VMCALL 1
#define LAUNCH_HYPERCALL_VMMCALL 2
/* The largest page that page tables may have: 2 MiB or 1 GiB. */
#define LAUNCH_PAGE_LEVEL_2M 2
#define LAUNCH_PAGE_LEVEL_1G 3
/* Flags: memory is private. */
#define LAUNCH_INFO_PRIVATE 0x1

/* The mailbox of parked processor i, LAUNCH_MAILBOX + i * MAILBOX_BYTES: {entry, argument}. */
#define MAILBOX_BYTES 16
#define MAILBOX_ARGUMENT 8

#endif
