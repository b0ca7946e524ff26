/* SPDX-License-Identifier: MIT */
/* The program that runs test cases; KTAP version 1 (linux, Documentation/dev-tools/ktap.rst). */
#include "cases.h"

#define EXIT_NO_SUCH_CASE 2

/* The section .pyvmm.cases, from link.ld. */
extern const struct test_case cases_start[], cases_end[];

static bool is_called(const struct test_case *test, const char *name, size_t size)
{
	for (size_t at = 0; at < size; at++)
		if (test->name[at] != name[at])
			return false;
	return !test->name[size];
}

/* True where all of `text` are digits of `number`. */
static bool is_number(const char *text, size_t size, uint64_t number)
{
	uint64_t value = 0;

	for (size_t at = 0; at < size; at++) {
		if (text[at] < '0' || text[at] > '9' || value > number)
			return false;
		value = value * 10 + (uint64_t)(text[at] - '0');
	}
	return size && value == number;
}

/* The case that a name, or a number (the first is 0), is of; NULL where there is none. */
static const struct test_case *find(const char *name, size_t size)
{
	for (const struct test_case *test = cases_start; test < cases_end; test++)
		if (is_called(test, name, size) ||
		    is_number(name, size, (uint64_t)(test - cases_start)))
			return test;
	return NULL;
}

static bool run(const struct test_case *test, uint64_t number)
{
	struct case_run state = {test, false, NULL};

	case_running = &state;
	case_call(test->body);
	case_running = NULL;
	interrupts_off();
	console_begin_line();
	print("%sok %lu %s", state.failed ? "not " : "", number, test->name);
	if (state.skip_reason && !state.failed)
		print(" # SKIP %s", state.skip_reason);
	print("\n");
	return !state.failed;
}

void case_failed_at(const struct assertion *assertion)
{
	assertion_failed(assertion);
}

void case_skip(const char *reason)
{
	if (!case_running)
		panic("case_skip outside of a test case: %s", reason);
	case_running->skip_reason = reason;
	case_leave();
}

int guest_main(void)
{
	const struct test_case *first = cases_start, *end = cases_end;
	size_t size;
	const char *name = guest_text_option("case", &size);
	bool passed = true;

	print("KTAP version 1\n");
	if (name) {
		first = find(name, size);
		if (!first) {
			print("Bail out! no test case is called '");
			console_write(name, size);
			print("'\n");
			return EXIT_NO_SUCH_CASE;
		}
		end = first + 1;
	}
	print("1..%lu\n", (uint64_t)(end - first));
	for (const struct test_case *test = first; test < end; test++)
		passed &= run(test, (uint64_t)(test - first) + 1);
	return passed ? EXIT_SUCCESS : EXIT_FAILURE;
}
