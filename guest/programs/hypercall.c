/* SPDX-License-Identifier: MIT */
/* Makes one hypercall, number=N, with the arguments a=, b= and c=, and prints what comes back. */
#include "guest.h"
#include "hypercall.h"

GUEST_NEEDS(0);

int guest_main(void)
{
	uint64_t number = guest_option("number", HYPERCALL_VAPIC_POLL_IRQ);
	int64_t result = hypercall(number, guest_option("a", 0), guest_option("b", 0),
				   guest_option("c", 0));

	print("hypercall %lu: %ld\n", number, result);
	return EXIT_SUCCESS;
}
