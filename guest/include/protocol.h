/*
 * Everything that host and guest agree on, as plain `#define NAME value` lines: tests/guest parses
 * this file and compares it with the host side. The assembler includes it too: no C here.
 */
#ifndef PYVMM_PROTOCOL_H
#define PYVMM_PROTOCOL_H

/* ELF notes. The PVH entry point, as Xen defines it (xen/include/public/elfnote.h). */
#define NOTE_XEN_PHYS32_ENTRY 18
/* Our own, name "pyvmm": one little-endian u32 of NEED bits. */
#define NOTE_PYVMM_NEEDS 1

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

/* KVM's hypercalls: one that does nothing and returns 0, and the one that converts memory. */
#define HYPERCALL_VAPIC_POLL_IRQ 1
#define HYPERCALL_MAP_GPA_RANGE 12

/* 8259A pair and 8254. */
#define PORT_PIC_MASTER 0x20
#define PORT_PIC_SLAVE 0xa0
#define PORT_PIT_CHANNEL0 0x40
#define PORT_PIT_COMMAND 0x43
#define PIT_HZ 1193182

/* A console's end of file: the modem status register's DCD bit is low, or this byte (^D). */
#define CONSOLE_END_OF_FILE 0x04

#endif
