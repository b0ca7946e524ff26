/* SPDX-License-Identifier: MIT */
/*
 * Computes in ring 3, which hardware executes at its own speed on every host: loops=N steps of a
 * linear congruential generator. The kernel knows the result without taking the steps.
 *
 * touch=ADDRESS reads from there first: ring 3 may see its own pages and no others.
 */
#include "guest.h"
#include "user.h"

/* Knuth's MMIX. */
#define MULTIPLIER 6364136223846793005
#define INCREMENT 1442695040888963407
#define SEED 1

GUEST_NEEDS(0);

USER_DATA static const char greeting[] = "in ring 3\n";

USER_CODE static uint64_t take_steps(uint64_t state, uint64_t steps)
{
	user_print(greeting, sizeof(greeting) - 1);
	for (; steps; steps--)
		state = state * MULTIPLIER + INCREMENT;
	return state;
}

USER_CODE static uint64_t touch(uint64_t address, uint64_t unused)
{
	(void)unused;
	return *(const volatile uint8_t *)address;
}

/* n steps are one step with another multiplier and increment: these double as n does. */
static uint64_t expected_state(uint64_t state, uint64_t steps)
{
	uint64_t multiplier = MULTIPLIER;
	uint64_t increment = INCREMENT;

	for (; steps; steps >>= 1) {
		if (steps & 1)
			state = state * multiplier + increment;
		increment += increment * multiplier;
		multiplier *= multiplier;
	}
	return state;
}

int guest_main(void)
{
	uint64_t steps = guest_option("loops", 200000000);
	uint64_t expected = expected_state(SEED, steps);

	uint64_t forbidden = guest_option("touch", 0);

	user_init(0);
	if (forbidden)
		print("ring 3 has read 0x%lx\n", user_run(touch, forbidden, 0));

	uint64_t state = user_run(take_steps, SEED, steps);

	print("loops: %lu, checksum: %016lx, expected: %016lx\n", steps, state, expected);
	return state == expected ? EXIT_SUCCESS : EXIT_FAILURE;
}
