/* SPDX-License-Identifier: MIT */
/* Copies, and checksums. */
#include "net.h"

void copy(volatile void *to, const volatile void *from, uint32_t size)
{
	uint64_t count = size;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

bool is_same(const volatile void *one, const volatile void *two, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++)
		if (((const volatile uint8_t *)one)[i] != ((const volatile uint8_t *)two)[i])
			return false;
	return true;
}

/* A walk over the pieces of [start, start + size) of a frame. */
struct walk {
	const struct frame *frame;
	unsigned int piece;
	uint32_t skipped, left;
	const volatile uint8_t *bytes;
	uint32_t length;
};

static struct walk walk_over(const struct frame *frame, uint32_t start, uint32_t size)
{
	assert(start <= frame->length && size <= frame->length - start);
	return (struct walk){.frame = frame, .skipped = start, .left = size};
}

static bool walk_next(struct walk *walk)
{
	const struct frame *frame = walk->frame;

	if (!walk->left)
		return false;
	while (walk->skipped >= frame->piece[walk->piece].length)
		walk->skipped -= frame->piece[walk->piece++].length;
	walk->bytes = frame->piece[walk->piece].bytes + walk->skipped;
	walk->length = frame->piece[walk->piece].length - walk->skipped;
	if (walk->length > walk->left)
		walk->length = walk->left;
	walk->left -= walk->length;
	walk->skipped = 0;
	walk->piece++;
	return true;
}

void frame_copy(volatile void *to, const struct frame *frame, uint32_t start, uint32_t size)
{
	struct walk walk = walk_over(frame, start, size);
	volatile uint8_t *at = to;

	while (walk_next(&walk)) {
		copy(at, walk.bytes, walk.length);
		at += walk.length;
	}
}

uint64_t sum_bytes(const volatile void *bytes, uint32_t size)
{
	const volatile uint8_t *at = bytes;
	uint64_t sum = 0;

	for (; size >= 4; size -= 4, at += 4)
		sum += *(const volatile uint32_t *)at;
	if (size & 2) {
		sum += *(const volatile uint16_t *)at;
		at += 2;
	}
	if (size & 1)
		sum += *at;
	return sum;
}

static uint16_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

uint64_t sum_frame(const struct frame *frame, uint32_t start, uint32_t size)
{
	struct walk walk = walk_over(frame, start, size);
	uint64_t sum = 0;
	bool odd = false;

	while (walk_next(&walk)) {
		uint16_t part = fold(sum_bytes(walk.bytes, walk.length));

		sum += odd ? swap16(part) : part;
		odd ^= walk.length & 1;
	}
	return sum;
}

uint64_t sum_addresses(n32 from, n32 to, uint8_t protocol, uint32_t length)
{
	return (uint64_t)from + to + swap16(protocol) + swap32(length);
}

uint16_t sum_end(uint64_t sum)
{
	return (uint16_t)~fold(sum);
}
