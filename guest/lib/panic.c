/* SPDX-License-Identifier: MIT */
/* The end of a guest that cannot go on. */
#include "cases.h"

/* Here, for programs without test cases need not link anything else of them. */
struct case_run *case_running;

void panic(const char *format, ...)
{
	__builtin_va_list arguments;

	interrupts_off();
	console_begin_line();
	if (case_running)
		print("# %s: did not end\n", case_running->test->name);
	print("PANIC: ");
	__builtin_va_start(arguments, format);
	print_arguments(format, arguments);
	__builtin_va_end(arguments);
	print("\n");
	guest_crash();
}
