/* SPDX-License-Identifier: MIT */
/* Which memory is free. */
#include "guest.h"
#include "memory.h"

#define OCCUPIED_MAX 32

static struct span occupied[OCCUPIED_MAX];
static size_t occupied_count;

static struct span reserved_pages;

static uint64_t page_down(uint64_t address)
{
	return address - address % PAGE_SIZE;
}

static uint64_t page_up(uint64_t address)
{
	return page_down(address + PAGE_SIZE - 1);
}

static void occupy(uint64_t start, uint64_t size)
{
	const struct span span = {page_down(start), page_up(start + size)};

	if (!size)
		return;
	/* Pages that are found one after the other lie next to each other. */
	for (size_t i = 0; i < occupied_count; i++) {
		if (occupied[i].end == span.start) {
			occupied[i].end = span.end;
			return;
		}
	}
	assert(occupied_count < OCCUPIED_MAX);
	occupied[occupied_count++] = span;
}

static void occupy_text(uint64_t start)
{
	const char *end = (const char *)start;

	if (!start)
		return;
	while (*end)
		end++;
	occupy(start, (uint64_t)end + 1 - start);
}

static void find_occupied(void)
{
	const struct hvm_start_info *info = boot_info();
	size_t count;
	const struct hvm_module *module = boot_modules(&count);

	occupy((uint64_t)image_start, (uint64_t)(image_end - image_start));
	occupy((uint64_t)info, sizeof(*info));
	occupy(info->memory_map, info->memory_map_entries * sizeof(struct memory_range));
	occupy_text(info->command_line);
	occupy(info->modules, count * sizeof(*module));
	for (; count; count--, module++) {
		occupy(module->start, module->size);
		occupy_text(module->command_line);
	}
}

/* Moves `start` past whatever is there. */
static uint64_t skip_occupied(uint64_t start)
{
	for (size_t i = 0; i < occupied_count; i++) {
		if (occupied[i].start <= start && start < occupied[i].end) {
			start = occupied[i].end;
			i = (size_t)-1; /* what was passed may start here */
		}
	}
	return start;
}

static uint64_t next_occupied(uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < occupied_count; i++)
		if (occupied[i].start > start && occupied[i].start < end)
			end = occupied[i].start;
	return end;
}

bool free_walk_next(struct free_walk *walk, struct span *span)
{
	size_t count;
	const struct memory_range *map = memory_map(&count);

	if (!occupied_count)
		find_occupied();
	for (; walk->entry < count; walk->entry++, walk->reached = 0) {
		const struct memory_range *range = &map[walk->entry];
		uint64_t end = page_down(range->start + range->size);
		uint64_t start = page_up(range->start);

		if (range->type != MEMORY_RAM)
			continue;
		start = skip_occupied(start < walk->reached ? walk->reached : start);
		if (start >= end)
			continue;
		*span = (struct span){start, next_occupied(start, end)};
		walk->reached = span->end;
		return true;
	}
	return false;
}

bool memory_take(uint64_t size, uint64_t alignment, struct span *span)
{
	struct free_walk walk = {0};
	struct span found;

	while (free_walk_next(&walk, &found)) {
		uint64_t start = (found.start + alignment - 1) & ~(alignment - 1);

		/* Below the image is what firmware uses; above 4 GiB nothing is mapped. */
		if (start < (uint64_t)image_end || start >> 32 || start >= found.end ||
		    found.end - start < size)
			continue;
		*span = (struct span){start, start + size};
		occupy(start, size);
		return true;
	}
	return false;
}

void pages_reserve(size_t count)
{
	assert(!reserved_pages.end);
	if (!memory_take(count * PAGE_SIZE, PAGE_SIZE, &reserved_pages))
		panic("no room for %lu pages", count);
}

void *page_take(void)
{
	uint64_t *page = (uint64_t *)reserved_pages.start;
	uint64_t *cursor = page;
	uint64_t words = PAGE_SIZE / sizeof(*page);

	assert(reserved_pages.start < reserved_pages.end);
	reserved_pages.start += PAGE_SIZE;
	/* One instruction, repeated: a loop would be three for each word. */
	__asm__ volatile("rep stosq" : "+D"(cursor), "+c"(words) : "a"(0UL) : "memory");
	return page;
}
