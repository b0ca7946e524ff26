/* SPDX-License-Identifier: MIT */
/*
 * Fills a private page with a pattern (pattern.h) that key=N seeds, lets the host look for it, and
 * then shares the page, which must be empty by then. host=0: does not wait for the host. in-place=1:
 * the page must be what it was, so the guest has to clear it itself, which comes before.
 */
#include "guest.h"
#include "mailbox.h"
#include "pattern.h"
#include "private.h"

/* Instead of the secret, before the host sees the page. */
#define PUBLIC 3

GUEST_NEEDS(0);

static uint64_t checksum(const struct span *page)
{
	uint64_t sum = 0;

	for (uint64_t address = page->start; address < page->end; address += 8)
		sum = sum * 31 + *(volatile uint64_t *)address;
	return sum;
}

int guest_main(void)
{
	uint64_t key = guest_option("key", 20240229);
	struct span page;

	if (!private_memory_needed())
		return EXIT_NOT_PRIVATE;
	if (!memory_take(PAGE_SIZE, PAGE_SIZE, &page))
		panic("no room for the secret");
	pattern_fill(&page, key);
	if (guest_option("host", 1))
		mailbox_open();
	print("secret at 0x%010lx, checksum %016lx\n", page.start, checksum(&page));
	if (guest_option("host", 1) && mailbox_ask(MAIL_LOOK, page.start, PAGE_SIZE)) {
		print("the host has something against it\n");
		return EXIT_FAILURE;
	}
	if (pattern_wrong(&page, key) != NOTHING_WRONG) {
		print("the secret has changed at 0x%lx\n", pattern_wrong(&page, key));
		return EXIT_FAILURE;
	}
	print("the secret is unchanged\n");

	if (contents_survive()) {
		/* What is left there is what the host gets to see. */
		pattern_fill(&page, PUBLIC);
		if (memory_share(page.start, PAGE_SIZE) ||
		    pattern_wrong(&page, PUBLIC) != NOTHING_WRONG) {
			print("shared, it is not what was left there\n");
			return EXIT_FAILURE;
		}
		print("shared, it is what was left there\n");
		return EXIT_SUCCESS;
	}

	int64_t result = memory_share(page.start, PAGE_SIZE);

	if (result || zero_wrong(&page) != NOTHING_WRONG) {
		print("shared (%ld), it is not empty: 0x%lx\n", result, zero_wrong(&page));
		return EXIT_FAILURE;
	}
	print("shared, it is empty\n");
	return EXIT_SUCCESS;
}
