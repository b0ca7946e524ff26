/* SPDX-License-Identifier: MIT */
/*
 * Test cases. A program that has some and no guest_main of its own runs them: all, or the one that
 * case=NAME or case=NUMBER on the command line names, and says in KTAP what became of them.
 *
 *	TEST_CASE(memory_is_there)
 *	{
 *		assert_gt(usable_pages(), 0);
 *	}
 */
#ifndef GUEST_CASES_H
#define GUEST_CASES_H

#include "assertions.h"
#include "guest.h"

/* An entry of the section .pyvmm.cases, from which the host lists them (CASE_... in protocol.h). */
struct test_case {
	const char *name;
	const char *file;
	void (*body)(void);
	uint32_t line;
	uint32_t reserved;
};

_Static_assert(sizeof(struct test_case) == CASE_BYTES, "an entry has the size that the host knows");
_Static_assert(offsetof(struct test_case, line) == CASE_LINE, "the line is where the host reads it");

/* In the order of the source: gcc would turn it round, clang keeps it. */
#if __has_attribute(no_reorder)
#define IN_ORDER __attribute__((no_reorder))
#else
#define IN_ORDER
#endif

#define TEST_CASE(case_name)                                                                       \
	static void case_##case_name(void);                                                        \
	static const struct test_case IN_ORDER case_entry_##case_name                              \
		__attribute__((section(".pyvmm.cases"), used, aligned(8))) = {                     \
			#case_name, __FILE__, case_##case_name, __LINE__, 0};                      \
	static void case_##case_name(void)

/* Both end the case: it has failed, or is not for this machine. `reason` is one line of plain text. */
#define case_fail(reason) case_failed_at(ASSERTION(reason))
_Noreturn void case_skip(const char *reason);
_Noreturn void case_failed_at(const struct assertion *assertion);

/* For the library: the case that runs, NULL outside of one, and what is known of it. */
struct case_run {
	const struct test_case *test;
	bool failed;
	const char *skip_reason;
};

extern struct case_run *case_running;
/* Calls `body`; case_leave, anywhere below it, returns from that call. */
void case_call(void (*body)(void));
_Noreturn void case_leave(void);

#endif
