/* SPDX-License-Identifier: MIT */
/* Page tables (SDM volume 3, section 4.5). */
#include "guest.h"
#include "memory.h"
#include "private.h"

#define PAGE_PRESENT 0x1UL
#define PAGE_LARGE 0x80UL
#define PAGE_ADDRESS 0xffffffffff000UL
/* What a table grants is what each of its entries grants; so the tables grant everything. */
#define TABLE_FLAGS (PAGE_PRESENT | MAP_WRITABLE | MAP_USER)

#define LEVELS 4
#define CPUID_PAGE_1GB (1u << 26)

/* Level 1 is a page table, whose entries are pages; each level above spans 512 times as much. */
static uint64_t entry_span(unsigned int level)
{
	return (uint64_t)PAGE_SIZE << (9 * (level - 1));
}

static unsigned int find_largest_page_level(void)
{
	if (launch_info())
		return launch_info()->page_level;

	bool has_leaf = cpuid(0x80000000, 0).eax >= 0x80000001;

	return has_leaf && cpuid(0x80000001, 0).edx & CPUID_PAGE_1GB ? 3 : 2;
}

static unsigned int largest_page_level(void)
{
	static unsigned int level;

	if (!level)
		level = find_largest_page_level();
	return level;
}

static uint64_t *table_below(uint64_t *entry)
{
	assert(!(*entry & PAGE_PRESENT && *entry & PAGE_LARGE));
	if (!(*entry & PAGE_PRESENT))
		*entry = (uint64_t)page_take() | TABLE_FLAGS;
	return (uint64_t *)(*entry & PAGE_ADDRESS);
}

static bool can_be_one_page(unsigned int level, uint64_t physical, uint64_t step, uint64_t entry)
{
	if (level == 1)
		return true;
	return level <= largest_page_level() && step == entry_span(level) &&
	       !(physical & (step - 1)) && !(entry & PAGE_PRESENT);
}

static void map_level(uint64_t *table, unsigned int level, uint64_t virtual, uint64_t physical,
		      uint64_t size, uint64_t flags)
{
	uint64_t span = entry_span(level);

	while (size) {
		uint64_t *entry = &table[virtual / span % 512];
		uint64_t left = span - (virtual & (span - 1));
		uint64_t step = size < left ? size : left;

		if (can_be_one_page(level, physical, step, *entry))
			*entry = physical | flags | PAGE_PRESENT | (level > 1 ? PAGE_LARGE : 0);
		else
			map_level(table_below(entry), level - 1, virtual, physical, step, flags);
		virtual += step;
		physical += step;
		size -= step;
	}
}

void map_range(uint64_t virtual, uint64_t physical, uint64_t size, uint64_t flags)
{
	uint64_t root = read_cr3();

	map_level((uint64_t *)(root & PAGE_ADDRESS), LEVELS, virtual, physical, size, flags);
	write_cr3(root);
}

size_t map_tables_needed(const struct span *span)
{
	uint64_t gib = entry_span(3);
	/* A page table for either end, a page directory for each GiB, tables above for either end. */
	size_t directories = (span->end + gib - 1) / gib - span->start / gib;

	if (largest_page_level() >= 3 && directories > 2)
		directories = 2;
	return directories + 4;
}
