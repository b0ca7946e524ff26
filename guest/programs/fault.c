/* SPDX-License-Identifier: MIT */
/* Writes where nothing is mapped: a page fault that the guest reports by itself. */
#include "guest.h"

#define UNMAPPED 0x123456789000

GUEST_NEEDS(0);

int guest_main(void)
{
	print("writing to 0x%lx, which is not mapped\n", UNMAPPED);
	*(volatile uint64_t *)UNMAPPED = 1;
	print("the write went through\n");
	return EXIT_FAILURE;
}
