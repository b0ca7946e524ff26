/* SPDX-License-Identifier: MIT */
/* Copying by string instructions: one instruction, however slow each one is to emulate. */
#ifndef FIRMWARE_COPY_H
#define FIRMWARE_COPY_H

#include <stddef.h>

/* They do not overlap. */
static inline void copy(void *to, const void *from, size_t size)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static inline void clear(void *to, size_t size)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(0) : "memory");
}

/* The same with `size` a multiple of 8. */
static inline void copy_words(void *to, const void *from, size_t size)
{
	size_t count = size / 8;

	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static inline void clear_words(void *to, size_t size)
{
	size_t count = size / 8;

	__asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(0L) : "memory");
}

#endif
