/* SPDX-License-Identifier: MIT */
/* Triple fault: an exception that has no gate, nor has #GP, nor has #DF. */
#include "guest.h"

GUEST_NEEDS(0);

int guest_main(void)
{
	static const struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} empty;

	print("triple fault\n");
	console_drain();
	__asm__ volatile("lidt %0; ud2" : : "m"(empty));
	return EXIT_FAILURE;
}
