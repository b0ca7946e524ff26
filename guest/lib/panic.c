/* SPDX-License-Identifier: MIT */
/* The end of a guest that cannot go on. */
#include "guest.h"

void panic(const char *format, ...)
{
	__builtin_va_list arguments;

	interrupts_off();
	print("PANIC: ");
	__builtin_va_start(arguments, format);
	print_arguments(format, arguments);
	__builtin_va_end(arguments);
	print("\n");
	guest_crash();
}
