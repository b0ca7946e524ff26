/* SPDX-License-Identifier: MIT */
/* Checks with a line each, and what test guests for QEMU's machine use. */
#ifndef SUITE_H
#define SUITE_H

#include "guest.h"
#include "interrupts.h"

/* "ok" or "FAIL", and the name: the same on every machine that has what is checked. */
void check(const char *name, bool holds);
/* What guest_main returns: how many checks failed, at most EXIT_PANIC - 1. */
int suite_end(void);

/* fw_cfg (QEMU docs/specs/fw_cfg.rst). */
#define PORT_FW_CFG 0x510
#define PORT_FW_CFG_DMA 0x514
#define FW_CFG_SIGNATURE 0x00
#define FW_CFG_ID 0x01
#define FW_CFG_RAM_SIZE 0x03
#define FW_CFG_CPUS 0x05
#define FW_CFG_FILES 0x19

/* The item's first `bytes` bytes as a little endian number. */
uint64_t fw_cfg_number(uint16_t key, unsigned int bytes);

/* pc-testdev: four bytes, a page to flush, a port for each interrupt line, a window of memory. */
#define PORT_TEST_BANK 0xe0
#define PORT_TEST_FLUSH 0xe4
#define PORT_TEST_LINES 0x2000
#define TEST_WINDOW ((volatile uint8_t *)0xff000000)

static inline void set_line(unsigned int line, bool level)
{
	outb((uint16_t)(PORT_TEST_LINES + line), level);
}

/* Wait so long by the 8254's third counter, through port 0x61: at most 54 ms. */
void wait_microseconds(unsigned int microseconds);

/*
 * Interrupts on until `count` has come to `wanted`, and a moment longer: what comes too often is seen.
 * Gives up after a second.
 */
void take_interrupts(const volatile unsigned int *count, unsigned int wanted);

/*
 * Catching exceptions: ATTEMPT executes one instruction and is the vector of the exception that it
 * raises, or NO_EXCEPTION; caught_error is that one's error code. R11 is lost.
 */
#define NO_EXCEPTION 0xff
extern volatile uint64_t caught_vector, caught_error;
extern uint64_t resume_at;
void catch_exceptions(void);

#define ATTEMPT(instruction, ...)                                                                  \
	({                                                                                         \
		caught_vector = NO_EXCEPTION;                                                      \
		__asm__ volatile("leaq 1f(%%rip), %%r11; movq %%r11, resume_at(%%rip);" instruction \
				 "; 1:"                                                            \
				 :                                                                 \
				 : __VA_ARGS__                                                     \
				 : "r11", "memory");                                               \
		caught_vector;                                                                     \
	})

#define DIVIDE_ERROR 0
#define INVALID_OPCODE 6
#define GENERAL_PROTECTION 13
#define PAGE_FAULT 14

#endif
