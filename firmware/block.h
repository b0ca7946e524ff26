/* SPDX-License-Identifier: MIT */
/* The boot block: what the monitor asks the firmware to launch. */
#ifndef FIRMWARE_BLOCK_H
#define FIRMWARE_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

struct boot_block {
	uint64_t magic;
	uint32_t size; /* of all of it, tables included, in bytes */
	uint32_t cpus;
	uint64_t flags;
	uint64_t entry;
	uint64_t start_info;
	uint32_t region_count;
	uint32_t run_count;
	uint64_t window_gpa;
	uint64_t window_size;
	uint8_t expected[DIGEST_BYTES];
	uint64_t reserved[2];
};

/* RAM; bytes. */
struct boot_region {
	uint64_t gpa;
	uint64_t size;
};

/* What to copy to `gpa`, from `source` bytes into the staging area. */
struct boot_run {
	uint64_t gpa;
	uint64_t source;
	uint64_t size;
};

#define OFFSET_IS(field, offset)                                                                   \
	_Static_assert(offsetof(struct boot_block, field) == (offset), #field " is elsewhere")
OFFSET_IS(size, BOOT_BLOCK_SIZE);
OFFSET_IS(cpus, BOOT_BLOCK_CPUS);
OFFSET_IS(flags, BOOT_BLOCK_FLAGS);
OFFSET_IS(entry, BOOT_BLOCK_ENTRY);
OFFSET_IS(start_info, BOOT_BLOCK_START_INFO);
OFFSET_IS(region_count, BOOT_BLOCK_REGION_COUNT);
OFFSET_IS(run_count, BOOT_BLOCK_RUN_COUNT);
OFFSET_IS(window_gpa, BOOT_BLOCK_WINDOW_GPA);
OFFSET_IS(window_size, BOOT_BLOCK_WINDOW_SIZE);
OFFSET_IS(expected, BOOT_BLOCK_EXPECTED);
OFFSET_IS(reserved, BOOT_BLOCK_RESERVED);
_Static_assert(sizeof(struct boot_block) == BOOT_BLOCK_TABLES, "the tables are elsewhere");
_Static_assert(sizeof(struct boot_region) == BOOT_REGION_BYTES, "a region has another size");
_Static_assert(sizeof(struct boot_run) == BOOT_RUN_BYTES, "a run has another size");

/* What is wrong with a boot block, and where: offset in bytes of the field. NULL: nothing is. */
struct complaint {
	const char *what;
	uint64_t where;
};

/* Of a block of `size` bytes, which may hold anything. */
struct complaint check_block(const void *block, size_t size);

/* The tables of a block that has been checked. */
const struct boot_region *boot_regions(const struct boot_block *block);
const struct boot_run *boot_runs(const struct boot_block *block);

#endif
