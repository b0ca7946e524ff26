/* SPDX-License-Identifier: MIT */
/* Counts the timer's ticks, 100 a second: ticks=N of them. */
#include "guest.h"
#include "interrupts.h"

#define HZ 100

GUEST_NEEDS(NEED_INTERRUPTS);

int guest_main(void)
{
	uint64_t wanted = guest_option("ticks", 20);

	print("timer at %u Hz, %lu ticks\n", HZ, wanted);
	pic_init();
	timer_start(HZ);
	for (uint64_t seen = 0; seen < wanted;) {
		wait_for_interrupt();
		while (seen < timer_ticks() && seen < wanted)
			if (++seen % 10 == 0 || seen == wanted)
				print("tick %lu\n", seen);
	}
	return EXIT_SUCCESS;
}
