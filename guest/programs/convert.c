/* SPDX-License-Identifier: MIT */
/*
 * Converts ranges of memory by hypercalls and looks at what their contents become; then makes requests
 * that must be refused. size=BYTES: this range only, offset=BYTES behind a multiple of 2 MiB;
 * rounds=N: each that often; refused=0: no requests that must be refused; in-place=1: contents survive.
 */
#include "guest.h"
#include "pattern.h"
#include "private.h"

#define MIB2 (2UL << 20)
#define GIB (1UL << 30)
#define FOUR_GIB (4 * GIB)

/* Seeds: odd, so that no word of a pattern is zero; of a round: these plus 16 times its number. */
#define SECRET 1
#define PUBLIC 3
#define AGAIN 5
#define NEIGHBOURS 7
#define ROUND 16

GUEST_NEEDS(0);

static const struct range {
	uint64_t offset, size;
} ranges[] = {
	{0, PAGE_SIZE},
	{PAGE_SIZE, 3 * PAGE_SIZE},
	{MIB2 - PAGE_SIZE, 2 * PAGE_SIZE},
	{0, MIB2},
	{5 * PAGE_SIZE, MIB2 + PAGE_SIZE},
};

/* Where the words are that the functions below talk about. */
static struct span range, before, after;

static bool is(const char *when, uint64_t wrong)
{
	if (wrong == NOTHING_WRONG)
		return true;
	print("%010lx-%010lx: %s: 0x%lx holds %016lx\n", range.start, range.end, when, wrong,
	      *(volatile uint64_t *)wrong);
	return false;
}

static bool done(const char *what, int64_t result)
{
	if (result)
		print("%010lx-%010lx: %s: %ld\n", range.start, range.end, what, result);
	return !result;
}

static bool share(void)
{
	return done("cannot be shared", memory_share(range.start, range.end - range.start));
}

static bool unshare(void)
{
	return done("cannot be made private", memory_unshare(range.start, range.end - range.start));
}

/* What was private must not show, unless contents survive. */
static bool is_converted(const char *what, const struct span *span, uint64_t seed)
{
	if (contents_survive())
		return is("a conversion loses contents", pattern_wrong(span, seed));
	return is(what, zero_wrong(span));
}

/* What is written while shared stays as long as it is shared. */
static bool there(uint64_t round)
{
	pattern_fill(&range, SECRET + round);
	if (!share() ||
	    !is_converted("private contents show after sharing", &range, SECRET + round))
		return false;
	pattern_fill(&range, PUBLIC + round);
	return is("shared memory forgets", pattern_wrong(&range, PUBLIC + round)) && share() &&
	       is("sharing again loses contents", pattern_wrong(&range, PUBLIC + round));
}

/* The same the other way. */
static bool and_back(uint64_t round)
{
	if (!unshare() ||
	    !is_converted("shared contents show after unsharing", &range, PUBLIC + round))
		return false;
	pattern_fill(&range, AGAIN + round);
	return is("private memory forgets", pattern_wrong(&range, AGAIN + round)) && unshare() &&
	       is("unsharing again loses contents", pattern_wrong(&range, AGAIN + round));
}

/* A page before [start, start + size) and one behind it are used, too. */
static bool convert(uint64_t start, uint64_t size)
{
	uint64_t rounds = guest_option("rounds", 2);

	range = (struct span){start, start + size};
	before = (struct span){range.start - PAGE_SIZE, range.start};
	after = (struct span){range.end, range.end + PAGE_SIZE};
	pattern_fill(&before, NEIGHBOURS);
	pattern_fill(&after, NEIGHBOURS);
	for (uint64_t i = 0; i < rounds; i++) {
		if (!there(i * ROUND) || !and_back(i * ROUND) ||
		    !is("the page before has changed", pattern_wrong(&before, NEIGHBOURS)) ||
		    !is("the page behind has changed", pattern_wrong(&after, NEIGHBOURS)))
			return false;
	}
	print("%010lx-%010lx: %lu KiB there and back, %lu times\n", range.start, range.end,
	      size / 1024, rounds);
	return true;
}

/* 0: there is no room. Otherwise a multiple of 2 MiB with a page before it. */
static uint64_t take_room(uint64_t size)
{
	struct span area;

	if (size > FOUR_GIB || !memory_take(MIB2 + size + PAGE_SIZE, MIB2, &area))
		return 0;
	return area.start + MIB2;
}

static bool convert_at(uint64_t base, const struct range *wanted)
{
	return convert(base + wanted->offset, wanted->size);
}

static bool convert_option(uint64_t size)
{
	const struct range wanted = {guest_option("offset", 0), size};
	uint64_t base = 0;

	if (size % PAGE_SIZE == 0 && wanted.offset % PAGE_SIZE == 0 && wanted.offset < FOUR_GIB)
		base = take_room(wanted.offset + size);
	if (!base) {
		print("there is no such range: %lu bytes at offset %lu\n", size, wanted.offset);
		return false;
	}
	return convert_at(base, &wanted);
}

static bool convert_ranges(void)
{
	uint64_t base = take_room(2 * MIB2);

	if (!base) {
		print("there is no room for the ranges\n");
		return false;
	}
	for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++)
		if (!convert_at(base, &ranges[i]))
			return false;
	return true;
}

/* The free memory that holds [start, end), if any does. */
static bool is_free(uint64_t start, uint64_t end)
{
	struct free_walk walk = {0};
	struct span span;

	while (free_walk_next(&walk, &span))
		if (span.start <= start && end <= span.end)
			return true;
	return false;
}

/* Where the kernel's largest pages end, as far as there is memory. */
static bool convert_over_boundaries(void)
{
	for (uint64_t gib = GIB; gib < FOUR_GIB; gib += GIB) {
		if (!is_free(gib - 3 * PAGE_SIZE, gib + 3 * PAGE_SIZE))
			continue;
		if (!convert(gib - 2 * PAGE_SIZE, 4 * PAGE_SIZE))
			return false;
	}
	return true;
}

/* Another memslot. */
static bool convert_above_4_gib(void)
{
	const struct span area = {FOUR_GIB, FOUR_GIB + 2 * MIB2};

	if (!is_free(area.start, area.end))
		return true;
	pages_reserve(map_tables_needed(&area));
	map_range(area.start, area.start, area.end - area.start, MAP_WRITABLE);
	return convert(area.start + PAGE_SIZE, MIB2 + PAGE_SIZE);
}

/* One request for two memslots: RAM up to the window, and the window, which is never private. */
static bool convert_into_window(void)
{
	const struct span window = shared_window();

	if (window.start == window.end ||
	    !is_free(window.start - 3 * PAGE_SIZE, window.start))
		return true;
	range = (struct span){window.start - 2 * PAGE_SIZE, window.start + 2 * PAGE_SIZE};
	before = (struct span){range.start, window.start};

	const struct span window_pages = {window.start, range.end};

	if (!share() ||
	    !is("not empty at first", zero_wrong(contents_survive() ? &window_pages : &range)))
		return false;
	pattern_fill(&range, PUBLIC);
	if (!memory_unshare(range.start, range.end - range.start)) {
		print("the window has become private\n");
		return false;
	}
	if (!is("a refused request changes something", pattern_wrong(&range, PUBLIC)) ||
	    !done("cannot be made private", memory_unshare(before.start, 2 * PAGE_SIZE)) ||
	    !is_converted("shared contents show after unsharing", &before, PUBLIC))
		return false;
	print("%010lx-%010lx: RAM and window\n", range.start, range.end);
	return true;
}

static uint64_t end_of_ram(void)
{
	size_t count;
	const struct memory_range *map = memory_map(&count);
	uint64_t end = 0;

	for (; count; count--, map++)
		if (map->type == MEMORY_RAM && map->start < FOUR_GIB && map->start + map->size > end)
			end = map->start + map->size;
	return end;
}

static bool refused(const char *what, uint64_t gpa, uint64_t pages, uint64_t attributes)
{
	int64_t result = memory_convert(gpa, pages, attributes);

	print("%s: %ld\n", what, result);
	return result < 0;
}

/* What KVM refuses by itself: __kvm_emulate_hypercall, arch/x86/kvm/x86.c. */
static bool refused_by_kvm(const struct span *page)
{
	return refused("an address within a page", page->start + 8, 1, 0) &&
	       refused("no page", page->start, 0, 0) &&
	       refused("more pages than there are numbers", page->start, UINT64_MAX, 0);
}

static bool refused_by_monitor(const struct span *page)
{
	return refused("beyond the last address", -(uint64_t)PAGE_SIZE, 2, 0) &&
	       refused("nobody's memory, to be private", WINDOW_GPA + WINDOW_MAX, 1,
		       MAP_GPA_RANGE_PRIVATE) &&
	       refused("unknown attributes", page->start, 1, 0x20);
}

/* Each is refused, and nothing of it is done. */
static bool refuse(void)
{
	uint64_t end = end_of_ram();
	const struct span window = shared_window();
	const struct span last = {end - PAGE_SIZE, end};
	struct span page;

	if (!memory_take(PAGE_SIZE, PAGE_SIZE, &page))
		panic("no room for a page");
	range = page;
	pattern_fill(&page, SECRET);
	if (!refused_by_kvm(&page) || !refused_by_monitor(&page) ||
	    !is("a refused request changes something", pattern_wrong(&page, SECRET)))
		return false;
	if (window.start != window.end &&
	    !refused("the window, to be private", window.start, 1, MAP_GPA_RANGE_PRIVATE))
		return false;
	if (end == window.start || !is_free(last.start, last.end))
		return true;
	range = last;
	pattern_fill(&last, SECRET);
	return refused("one page behind the last", last.start, 2, MAP_GPA_RANGE_PRIVATE) &&
	       is("a refused request changes something", pattern_wrong(&last, SECRET));
}

int guest_main(void)
{
	uint64_t size = guest_option("size", 0);

	if (!private_memory_needed())
		return EXIT_NOT_PRIVATE;
	if (size)
		return convert_option(size) ? EXIT_SUCCESS : EXIT_FAILURE;
	if (!convert_ranges() || !convert_over_boundaries() || !convert_above_4_gib() ||
	    !convert_into_window())
		return EXIT_FAILURE;
	return !guest_option("refused", 1) || refuse() ? EXIT_SUCCESS : EXIT_FAILURE;
}
