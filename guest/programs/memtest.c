/* SPDX-License-Identifier: MIT */
/*
 * Tests all memory that the guest itself does not occupy. Every 8 bytes get a value that depends on
 * their address, then its complement. All memory is written before any is verified: so memory that
 * shows up at two addresses is found, too. The loops are in ring 3, which hardware executes.
 *
 * flip=ADDRESS turns one bit over after the first pass, to see that the test finds it.
 */
#include "guest.h"
#include "user.h"

#define SPANS_MAX 64
#define PASSED 0

GUEST_NEEDS(0);

static struct span spans[SPANS_MAX];
static size_t span_count;

static inline __attribute__((always_inline)) uint64_t pattern(const volatile uint64_t *word)
{
	/* An odd factor: different for different addresses, and spread over all 64 bits. */
	return (uint64_t)word * 0x9e3779b97f4a7c15;
}

USER_CODE static uint64_t write_pattern(uint64_t start, uint64_t end)
{
	for (volatile uint64_t *word = (uint64_t *)start; word < (uint64_t *)end; word++)
		*word = pattern(word);
	return PASSED;
}

/* The address of the first wrong word, or PASSED. */
USER_CODE static uint64_t verify_pattern_write_complement(uint64_t start, uint64_t end)
{
	for (volatile uint64_t *word = (uint64_t *)start; word < (uint64_t *)end; word++) {
		if (*word != pattern(word))
			return (uint64_t)word;
		*word = ~pattern(word);
	}
	return PASSED;
}

USER_CODE static uint64_t verify_complement(uint64_t start, uint64_t end)
{
	for (volatile uint64_t *word = (uint64_t *)start; word < (uint64_t *)end; word++)
		if (*word != ~pattern(word))
			return (uint64_t)word;
	return PASSED;
}

static const struct pass {
	const char *name;
	user_function run;
} passes[] = {
	{"write the pattern", write_pattern},
	{"verify it, write its complement", verify_pattern_write_complement},
	{"verify the complement", verify_complement},
};

static void find_spans(void)
{
	struct free_walk walk = {0};

	span_count = 0;
	while (free_walk_next(&walk, &spans[span_count])) {
		span_count++;
		assert(span_count < SPANS_MAX);
	}
}

static void map_spans(void)
{
	size_t tables = 0;

	find_spans();
	for (size_t i = 0; i < span_count; i++)
		tables += map_tables_needed(&spans[i]);
	user_init(tables);
	/* Again: page tables are now where free memory was. */
	find_spans();
	for (size_t i = 0; i < span_count; i++)
		user_map(&spans[i]);
}

static bool pass_all(const struct pass *pass)
{
	for (size_t i = 0; i < span_count; i++) {
		uint64_t failed = user_run(pass->run, USER_BASE + spans[i].start,
					   USER_BASE + spans[i].end);

		if (failed != PASSED) {
			print("memory error at 0x%lx in pass: %s\n", failed - USER_BASE,
			      pass->name);
			return false;
		}
	}
	return true;
}

static void flip_bit(uint64_t address)
{
	if (address != UINT64_MAX)
		*(volatile uint8_t *)(USER_BASE + address) ^= 1;
}

static uint64_t print_spans(void)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < span_count; i++) {
		print("testing %010lx-%010lx\n", spans[i].start, spans[i].end);
		bytes += spans[i].end - spans[i].start;
	}
	return bytes;
}

int guest_main(void)
{
	map_spans();

	uint64_t bytes = print_spans();

	for (size_t i = 0; i < sizeof(passes) / sizeof(*passes); i++) {
		if (!pass_all(&passes[i]))
			return EXIT_FAILURE;
		if (i == 0)
			flip_bit(guest_option("flip", UINT64_MAX));
	}
	print("%lu bytes tested, no errors\n", bytes);
	return EXIT_SUCCESS;
}
