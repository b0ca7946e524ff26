/* SPDX-License-Identifier: MIT */
/* Whoever wrote the boot block is not trusted: nothing of it is used before all of it is checked. */
#include "block.h"

#include <stdbool.h>

/* RAM lies below the one and above the other; and no processor has more than 52 bits of address. */
#define HOLE_START WINDOW_GPA
#define HOLE_END 0x100000000
#define PHYSICAL_END (1UL << 52)

#define FINE ((struct complaint){NULL, 0})

const struct boot_region *boot_regions(const struct boot_block *block)
{
	return (const struct boot_region *)(block + 1);
}

const struct boot_run *boot_runs(const struct boot_block *block)
{
	return (const struct boot_run *)(boot_regions(block) + block->region_count);
}

/* Whole pages, at least one, that end below `end`. */
static bool is_pages(uint64_t start, uint64_t size, uint64_t end)
{
	return start % PAGE_SIZE == 0 && size % PAGE_SIZE == 0 && size != 0 && start < end &&
	       size <= end - start;
}

static struct complaint broken(const char *what, const struct boot_block *block, const void *field)
{
	return (struct complaint){what, (uint64_t)((const char *)field - (const char *)block)};
}

static struct complaint check_header(const struct boot_block *block, size_t size)
{
	if (block->magic != BOOT_BLOCK_MAGIC)
		return broken("it does not begin as one", block, &block->magic);
	if (block->cpus == 0 || block->cpus > BOOT_CPUS_MAX)
		return broken("no such number of processors", block, &block->cpus);
	if ((block->flags & ~(uint64_t)(BOOT_CONVERT | BOOT_EXPECT)) != 0)
		return broken("unknown flags", block, &block->flags);
	if (block->region_count == 0 || block->region_count > BOOT_REGIONS_MAX)
		return broken("no such number of regions", block, &block->region_count);
	if (block->run_count == 0 || block->run_count > BOOT_RUNS_MAX)
		return broken("no such number of runs", block, &block->run_count);
	if (block->size != size || size != sizeof(*block) +
						   block->region_count * sizeof(struct boot_region) +
						   block->run_count * sizeof(struct boot_run))
		return broken("its size is not that of its tables", block, &block->size);
	if (block->window_size == 0 && block->window_gpa != 0)
		return broken("a window without a size", block, &block->window_gpa);
	if (block->window_size != 0 && block->window_gpa != WINDOW_GPA)
		return broken("the window is elsewhere", block, &block->window_gpa);
	if (block->window_size % PAGE_SIZE != 0 || block->window_size > WINDOW_MAX)
		return broken("no such size of the window", block, &block->window_size);
	if (block->reserved[0] != 0)
		return broken("reserved, but not 0", block, &block->reserved[0]);
	if (block->reserved[1] != 0)
		return broken("reserved, but not 0", block, &block->reserved[1]);
	return FINE;
}

/* All ascending, without a byte in common; below the hole or above it; the launch's pages in one. */
static struct complaint check_regions(const struct boot_block *block)
{
	const struct boot_region *regions = boot_regions(block);
	uint64_t end = 0;
	bool has_launch = false;

	for (uint32_t i = 0; i < block->region_count; i++) {
		const struct boot_region *region = &regions[i];

		if (!is_pages(region->gpa, region->size, PHYSICAL_END))
			return broken("a region that is not whole pages of memory", block, region);
		if (region->gpa < end)
			return broken("a region that is out of order", block, region);
		end = region->gpa + region->size;
		if (end > HOLE_START && region->gpa < HOLE_END)
			return broken("a region where no memory can be", block, region);
		if (region->gpa <= LAUNCH_START && LAUNCH_END <= end)
			has_launch = true;
	}
	if (!has_launch)
		return broken("no region for the launch itself", block, regions);
	return FINE;
}

static bool is_in_a_region(const struct boot_block *block, uint64_t start, uint64_t size)
{
	const struct boot_region *regions = boot_regions(block);

	for (uint32_t i = 0; i < block->region_count; i++)
		if (regions[i].gpa <= start && start + size <= regions[i].gpa + regions[i].size)
			return true;
	return false;
}

static struct complaint check_runs(const struct boot_block *block)
{
	const struct boot_run *runs = boot_runs(block);
	uint64_t end = 0;

	for (uint32_t i = 0; i < block->run_count; i++) {
		const struct boot_run *run = &runs[i];

		if (!is_pages(run->gpa, run->size, HOLE_START))
			return broken("a run that is not whole pages of memory", block, run);
		if (run->gpa < end)
			return broken("a run that is out of order", block, run);
		end = run->gpa + run->size;
		if (!is_in_a_region(block, run->gpa, run->size))
			return broken("a run outside all regions", block, run);
		if (run->gpa < LAUNCH_END && LAUNCH_START < end)
			return broken("a run where the launch itself is", block, run);
		if (!is_pages(run->source, run->size, STAGING_MAX))
			return broken("a run from outside the staging area", block, &run->source);
		if (run->source < block->size)
			return broken("a run from within the boot block", block, &run->source);
	}
	return FINE;
}

static bool is_in_a_run(const struct boot_block *block, uint64_t gpa)
{
	const struct boot_run *runs = boot_runs(block);

	for (uint32_t i = 0; i < block->run_count; i++)
		if (runs[i].gpa <= gpa && gpa < runs[i].gpa + runs[i].size)
			return true;
	return false;
}

struct complaint check_block(const void *bytes, size_t size)
{
	const struct boot_block *block = bytes;
	struct complaint complaint;

	if (size < sizeof(*block) || size > BOOT_BLOCK_MAX)
		return (struct complaint){"no such size of a boot block", BOOT_BLOCK_SIZE};
	complaint = check_header(block, size);
	if (complaint.what == NULL)
		complaint = check_regions(block);
	if (complaint.what == NULL)
		complaint = check_runs(block);
	if (complaint.what == NULL && !is_in_a_run(block, block->entry))
		complaint = broken("the entry is in no run", block, &block->entry);
	if (complaint.what == NULL && !is_in_a_run(block, block->start_info))
		complaint = broken("the start info is in no run", block, &block->start_info);
	return complaint;
}
