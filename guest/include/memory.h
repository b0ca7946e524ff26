/* SPDX-License-Identifier: MIT */
/* Free memory, and page tables. */
#ifndef GUEST_MEMORY_H
#define GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

/* Physical addresses in bytes, end exclusive, page-aligned. */
struct span {
	uint64_t start, end;
};

/*
 * Walks the usable memory that holds neither the image, nor boot data, nor reserved pages:
 *
 *	struct free_walk walk = {0};
 *	struct span span;
 *	while (free_walk_next(&walk, &span)) ...
 */
struct free_walk {
	size_t entry;
	uint64_t reached;
};

bool free_walk_next(struct free_walk *walk, struct span *span);

/*
 * Takes `size` bytes of free memory for good, below 4 GiB and behind the image, `alignment` a power of
 * two of at least PAGE_SIZE. Their contents are whatever they are. False where there is no room.
 */
bool memory_take(uint64_t size, uint64_t alignment, struct span *span);

/* Sets `count` pages aside for pages_take, next to each other; once per run. Panics without room. */
void pages_reserve(size_t count);
/* The next of them, filled with zeros. */
void *page_take(void);

#define MAP_WRITABLE 0x2
#define MAP_USER 0x4

/*
 * Maps [physical, physical + size) at `virtual`, all page-aligned, with the largest pages that fit.
 * Page tables come from page_take. The first 4 GiB are mapped one to one from the start.
 */
void map_range(uint64_t virtual, uint64_t physical, uint64_t size, uint64_t flags);
/* An upper bound of the page tables that map_range takes for `span` and any congruent address. */
size_t map_tables_needed(const struct span *span);

#endif
