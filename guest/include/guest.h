/* SPDX-License-Identifier: MIT */
/* What a program can use: include this one. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu.h"
#include "protocol.h"

/* A program: every image has exactly one, and the run ends with what it returns. */
int guest_main(void);

/* Once per program, at file level: the NEED bits (0: none) for the image's "pyvmm" note. */
#define GUEST_NEEDS(bits)                                                                          \
	const struct guest_note guest_note                                                         \
		__attribute__((section(".note.pyvmm"), used, aligned(4))) = {                      \
			sizeof("pyvmm"), sizeof(uint32_t), NOTE_PYVMM_NEEDS, "pyvmm", (bits)}

struct guest_note {
	uint32_t name_size, description_size, type;
	char name[8];
	uint32_t needs;
};

/* The image in memory, from link.ld; page-aligned, end exclusive. */
extern char image_start[], image_end[];

/* The end of a run. */
_Noreturn void guest_exit(uint8_t status);
/* The end of a guest that has said why. */
_Noreturn void guest_crash(void);
_Noreturn void panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Where an assertion stands, and its text. */
struct assertion {
	const char *file;
	unsigned int line;
	const char *text;
};

_Noreturn void assertion_failed(const struct assertion *assertion);

#define ASSERTION(text) (&(const struct assertion){__FILE__, __LINE__, text})
/* Ends the test case that it fails in; outside of one, panics. assertions.h has more of its kind. */
#define assert(condition) ((condition) ? (void)0 : assertion_failed(ASSERTION(#condition)))

/* The console. A program that reads must read before it first writes, or what waits is lost. */
void console_write(const char *bytes, size_t size);
/* Ends the line that was begun, if one was. */
void console_begin_line(void);
/* A byte, or -1 when none has arrived. */
int console_read(void);
/* Nothing more will arrive: the other side hung up. */
bool console_hung_up(void);
/* Until the last byte has left the UART. */
void console_drain(void);

/* %s %c %d %u %x %p %%, with l, a width and a leading 0; every other conversion ends the run. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_arguments(const char *format, __builtin_va_list arguments);
/* The debug console, port 0xe9. */
void debug_print(const char *text);

/* What the boot loader told us: the PVH start info, laid out as Xen defines it. */
struct hvm_start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t module_count;
	uint64_t modules;
	uint64_t command_line;
	uint64_t rsdp;
	uint64_t memory_map;
	uint32_t memory_map_entries;
	uint32_t reserved;
};

struct hvm_module {
	uint64_t start;
	uint64_t size;
	uint64_t command_line;
	uint64_t reserved;
};

struct memory_range {
	uint64_t start;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};

void boot_init(const struct hvm_start_info *info);
const struct hvm_start_info *boot_info(void);
const struct memory_range *memory_map(size_t *count);
const struct hvm_module *boot_modules(size_t *count);
/* Never NULL. */
const char *command_line(void);
/* The number behind "key=" on the command line, in decimal; `otherwise` where there is none. */
uint64_t guest_option(const char *key, uint64_t otherwise);
/* What is behind "key=", up to the next space; NULL where there is none. */
const char *guest_text_option(const char *key, size_t *size);
/* The first word of the command line that is a number; `otherwise` where there is none. */
uint64_t guest_number(uint64_t otherwise);

#endif
