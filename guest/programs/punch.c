/* SPDX-License-Identifier: MIT */
/*
 * What becomes of private memory when its contents are taken away: it is private still, and zero.
 * First the host makes a hole in it and converts nothing; then the guest converts it there and back.
 * size=BYTES: how much of it; host=0: does not ask the host; in-place=1: conversions take no contents.
 */
#include "guest.h"
#include "mailbox.h"
#include "pattern.h"
#include "private.h"

#define BEFORE 1
#define AFTER 3
#define NEIGHBOURS 5
#define SHARED 7

GUEST_NEEDS(0);

/* A page on either side, which nobody touches. */
static struct span hole, left, right;

static bool check(const char *what, uint64_t wrong)
{
	if (wrong == NOTHING_WRONG) {
		print("%s\n", what);
		return true;
	}
	print("not so: %s: 0x%lx holds %016lx\n", what, wrong, *(volatile uint64_t *)wrong);
	return false;
}

static bool take_memory(void)
{
	struct span span;
	uint64_t size = guest_option("size", 4 * PAGE_SIZE);

	if (!size || size % PAGE_SIZE || !memory_take(size + 2 * PAGE_SIZE, PAGE_SIZE, &span)) {
		print("there is no such room: %lu bytes\n", size);
		return false;
	}
	left = (struct span){span.start, span.start + PAGE_SIZE};
	hole = (struct span){left.end, left.end + size};
	right = (struct span){hole.end, hole.end + PAGE_SIZE};
	pattern_fill(&left, NEIGHBOURS);
	pattern_fill(&right, NEIGHBOURS);
	pattern_fill(&hole, BEFORE);
	return true;
}

static bool works(void)
{
	pattern_fill(&hole, AFTER);
	return check("it takes new contents", pattern_wrong(&hole, AFTER)) &&
	       check("the page before it is as it was", pattern_wrong(&left, NEIGHBOURS)) &&
	       check("the page after it is as it was", pattern_wrong(&right, NEIGHBOURS));
}

static bool punch(void)
{
	int64_t result = mailbox_ask(MAIL_PUNCH, hole.start, hole.end - hole.start);

	print("the host makes a hole: %ld\n", result);
	return !result && check("it is empty", zero_wrong(&hole)) && works();
}

static bool convert(void)
{
	int64_t result = memory_share(hole.start, hole.end - hole.start);

	if (!result) {
		pattern_fill(&hole, SHARED);
		result = memory_unshare(hole.start, hole.end - hole.start);
	}
	print("shared and private again: %ld\n", result);
	if (result)
		return false;
	if (contents_survive())
		return check("it has what it was shared with", pattern_wrong(&hole, SHARED)) && works();
	return check("it is empty", zero_wrong(&hole)) && works();
}

int guest_main(void)
{
	if (!private_memory_needed())
		return EXIT_NOT_PRIVATE;
	if (!take_memory())
		return EXIT_FAILURE;
	if (guest_option("host", 1)) {
		mailbox_open();
		if (!punch())
			return EXIT_FAILURE;
	}
	return convert() ? EXIT_SUCCESS : EXIT_FAILURE;
}
