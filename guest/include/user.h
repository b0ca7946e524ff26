/* SPDX-License-Identifier: MIT */
/*
 * Ring 3. User code sees what USER_CODE and USER_DATA mark, at the address it is linked at plus
 * USER_BASE, and what the kernel shows it with user_map. It may call and use nothing else: no
 * string literals, no library.
 */
#ifndef GUEST_USER_H
#define GUEST_USER_H

#include <stddef.h>
#include <stdint.h>

#include "memory.h"

/* Physical address p is at USER_BASE + p in ring 3, if it is mapped there at all. */
#define USER_BASE 0x8000000000UL

#define USER_CODE __attribute__((section(".user.text"), noinline))
#define USER_DATA __attribute__((section(".user.data")))

/*
 * Calls from ring 3 to the kernel: INT3 with RAX = number, RDI, RSI = arguments. Neither INT 0x80
 * nor SYSCALL: on a KVM without hardware virtualization below it (Linux 6.18), the first is an
 * invalid opcode in ring 3, and the second goes to the kernel's entry without leaving ring 3.
 */
enum user_call {
	USER_CALL_RETURN = 0, /* RDI: what user_run returns */
	USER_CALL_PRINT = 1,  /* RDI: text, RSI: its size in bytes */
};

typedef uint64_t (*user_function)(uint64_t first, uint64_t second);

/* Makes ring 3 ready; sets aside `extra_pages` for the page tables of user_map. */
void user_init(size_t extra_pages);
/* Shows [span->start, span->end) to user code, at USER_BASE + span->start, writable. */
void user_map(const struct span *span);
/* Calls `function` in ring 3 and gives back what it returns. */
uint64_t user_run(user_function function, uint64_t first, uint64_t second);

/* For user code: */
static inline __attribute__((always_inline)) void user_print(const char *text, size_t size)
{
	uint64_t number = USER_CALL_PRINT;

	__asm__ volatile("int3" : : "a"(number), "D"(text), "S"(size) : "memory");
}

#endif
