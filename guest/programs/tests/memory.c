/* SPDX-License-Identifier: MIT */
/* The memory map, free memory, page tables. */
#include "cases.h"
#include "memory.h"
#include "pattern.h"

#define HIGH_MEMORY 0x100000
/* Within the first entry of the fourth level that no machine maps one to one. */
#define ELSEWHERE 0x700000000000

TEST_CASE(the_image_is_in_usable_memory)
{
	size_t count;
	const struct memory_range *map = memory_map(&count);
	bool found = false;

	assert_gt(count, 0);
	for (size_t at = 0; at < count; at++)
		if (map[at].type == MEMORY_RAM && map[at].start <= (uint64_t)image_start &&
		    (uint64_t)image_end <= map[at].start + map[at].size)
			found = true;
	check(found);
	check_eq((uint64_t)image_start, HIGH_MEMORY);
}

TEST_CASE(free_memory_leaves_the_image_alone)
{
	struct free_walk walk = {0};
	struct span span;
	uint64_t reached = 0, pages = 0;

	while (free_walk_next(&walk, &span)) {
		check_lt(span.start, span.end);
		check_ge(span.start, reached);
		check_eq(span.start % PAGE_SIZE, 0);
		check_eq(span.end % PAGE_SIZE, 0);
		check(span.end <= (uint64_t)image_start || span.start >= (uint64_t)image_end);
		reached = span.end;
		pages += (span.end - span.start) / PAGE_SIZE;
	}
	check_gt(pages, 0);
}

TEST_CASE(what_is_taken_is_aligned_and_taken_once)
{
	struct span first, second;

	assert(memory_take(PAGE_SIZE, PAGE_SIZE, &first));
	assert(memory_take(2 * PAGE_SIZE, 4 * PAGE_SIZE, &second));
	check_eq(second.start % (4 * PAGE_SIZE), 0);
	check(first.end <= second.start || second.end <= first.start);
	pattern_fill(&first, 1);
	pattern_fill(&second, 2);
	check_eq(pattern_wrong(&first, 1), NOTHING_WRONG);
	check_eq(pattern_wrong(&second, 2), NOTHING_WRONG);
	check_eq(pattern_wrong(&second, 3), second.start);
}

TEST_CASE(more_than_there_is_cannot_be_taken)
{
	struct span span;

	check(!memory_take((uint64_t)4 << 30, PAGE_SIZE, &span));
}

TEST_CASE(a_mapping_shows_what_is_behind_it)
{
	struct span span;

	assert(memory_take(2 * PAGE_SIZE, PAGE_SIZE, &span));
	/* Three levels of tables below the root, at most. */
	pages_reserve(3);
	map_range(ELSEWHERE, span.start, 2 * PAGE_SIZE, MAP_WRITABLE);

	volatile uint64_t *elsewhere = (volatile uint64_t *)ELSEWHERE;
	volatile uint64_t *direct = (volatile uint64_t *)span.start;
	const size_t words = PAGE_SIZE / sizeof(*direct);

	*elsewhere = 0x1122334455667788;
	check_eq(*direct, 0x1122334455667788);
	direct[words] = 5;
	check_eq(elsewhere[words], 5);
}
