/* SPDX-License-Identifier: MIT */
/*
 * Uses the shared window without asking for it first: what is touched there is the host's to convert,
 * or to refuse. step=N: every Nth page; pages=N: no more than that; read=1: reads before it writes.
 */
#include "guest.h"
#include "pattern.h"
#include "private.h"

#define SEED 1

GUEST_NEEDS(0);

static uint64_t step;

static struct span page_at(uint64_t address)
{
	return (struct span){address, address + PAGE_SIZE};
}

static uint64_t page_count(const struct span *window)
{
	uint64_t pages = ((window->end - window->start) / PAGE_SIZE + step - 1) / step;
	uint64_t wanted = guest_option("pages", pages);

	return wanted < pages ? wanted : pages;
}

/* What nobody has touched yet is zero. */
static bool read_untouched(const struct span *window, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++) {
		const struct span page = page_at(window->start + i * step * PAGE_SIZE);
		uint64_t wrong = zero_wrong(&page);

		if (wrong != NOTHING_WRONG) {
			print("not zero at first: 0x%lx\n", wrong);
			return false;
		}
	}
	print("read %lu pages, all zero\n", pages);
	return true;
}

static void write_all(const struct span *window, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++) {
		const struct span page = page_at(window->start + i * step * PAGE_SIZE);

		pattern_fill(&page, SEED);
	}
	print("wrote %lu pages\n", pages);
}

static bool verify_all(const struct span *window, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++) {
		const struct span page = page_at(window->start + i * step * PAGE_SIZE);
		uint64_t wrong = pattern_wrong(&page, SEED);

		if (wrong != NOTHING_WRONG) {
			print("not as written: 0x%lx\n", wrong);
			return false;
		}
	}
	print("verified %lu pages\n", pages);
	return true;
}

int guest_main(void)
{
	const struct span window = shared_window();

	if (!private_memory_needed())
		return EXIT_NOT_PRIVATE;
	if (window.start == window.end) {
		print("there is no shared window\n");
		return EXIT_FAILURE;
	}
	step = guest_option("step", 1);
	if (!step)
		step = 1;

	uint64_t pages = page_count(&window);

	print("window %010lx-%010lx, touching %lu pages\n", window.start, window.end, pages);
	if (guest_option("read", 0) && !read_untouched(&window, pages))
		return EXIT_FAILURE;
	write_all(&window, pages);
	return verify_all(&window, pages) ? EXIT_SUCCESS : EXIT_FAILURE;
}
