/* SPDX-License-Identifier: MIT */
/* What the compiler may call even in freestanding code. */
#include <stddef.h>

void *memset(void *destination, int byte, size_t size);
void *memcpy(void *restrict destination, const void *restrict source, size_t size);

void *memset(void *destination, int byte, size_t size)
{
	void *cursor = destination;

	__asm__ volatile("rep stosb" : "+D"(cursor), "+c"(size) : "a"(byte) : "memory");
	return destination;
}

void *memcpy(void *restrict destination, const void *restrict source, size_t size)
{
	void *cursor = destination;

	__asm__ volatile("rep movsb" : "+D"(cursor), "+S"(source), "+c"(size) : : "memory");
	return destination;
}
