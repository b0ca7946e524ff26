/* SPDX-License-Identifier: MIT */
/* Cases that fail, each in a way of its own: for the tests of those who report failures. */
#include "cases.h"

#define UNMAPPED 0x123456789000

GUEST_NEEDS(0);

TEST_CASE(passes)
{
	check_eq(2 + 2, 4);
}

TEST_CASE(checks_go_on)
{
	const int32_t balance = -12;
	const char *name = "two\nlines \"quoted\"";

	check_eq(balance, 30);
	check_eq(name, NULL);
	check(balance > 0);
	print("still here, in half a line");
	check_lt((void *)0x2000, (void *)0x1000);
}

static void deeper(uint64_t pages)
{
	assert_eq(pages, UINT64_MAX);
	print("not reached\n");
}

TEST_CASE(asserts_stop)
{
	deeper(3);
	print("not reached either\n");
}

TEST_CASE(says_why)
{
	case_fail("no such device");
}

TEST_CASE(is_skipped)
{
	case_skip("not on this machine");
}

TEST_CASE(prints_what_looks_like_a_result)
{
	print("ok 1 prints_what_looks_like_a_result\n");
	check(false);
}

TEST_CASE(faults)
{
	*(volatile uint64_t *)UNMAPPED = 1;
}

TEST_CASE(panics)
{
	panic("this case has had enough");
}

TEST_CASE(exits)
{
	guest_exit(EXIT_SUCCESS);
}

TEST_CASE(hangs)
{
	for (;;)
		pause();
}
