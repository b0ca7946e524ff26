/* SPDX-License-Identifier: MIT */
/* Uses the library in ways that no other program does, for the tests to compare. fail=1: panics. */
#include "guest.h"

GUEST_NEEDS(0);

static void print_conversions(void)
{
	print("[%s] [%5s] [%c] [%%]\n", "text", "abc", 'x');
	print("[%d] [%d] [%5d] [%05d] [%ld]\n", 0, -42, -42, -42, INT64_MIN);
	print("[%u] [%lu] [%x] [%08x] [%lx] [%p]\n", UINT32_MAX, UINT64_MAX, 0xabcu, 0xabcu,
	      UINT64_MAX, (void *)0x1000);
	print("[%25u] [%020lu]\n", 7u, 7UL);
}

int guest_main(void)
{
	print_conversions();
	print("a=%lu b=%lu first=%lu\n", guest_option("a", 1000), guest_option("b", 1000),
	      guest_number(1000));
	assert(guest_option("fail", 0) == 0);
	return EXIT_SUCCESS;
}
