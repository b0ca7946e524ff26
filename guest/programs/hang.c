/* SPDX-License-Identifier: MIT */
/* Never ends: for time limits and kicks. */
#include "guest.h"

GUEST_NEEDS(0);

int guest_main(void)
{
	print("hanging\n");
	for (;;)
		__asm__ volatile("1: jmp 1b");
}
